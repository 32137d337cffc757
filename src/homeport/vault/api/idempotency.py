"""Idempotency-Key on POSTs: a caller that got no answer asks again with the same key, and nothing happens twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homeport.domain.errors import HomeportError
from homeport.vault import idempotency, jobs
from homeport.vault.api.errors import problem
from homeport.vault.core import Core

LONGEST = 255
_KEPT_HEADERS = ("content-type", "location", "etag")
_NOT_KEPT = ("/v1/agent/", "/v1/join", "/v1/registration-keys")
"""Paths of servers; and whose answer is a secret that is shown once and kept nowhere."""


class KeyInvalid(HomeportError):
    code = "request.invalid"
    remedy = "Give Idempotency-Key 1 to 255 printable characters, a fresh UUID for one."


class IdempotencyKeys:
    """For what an operator's programs ask; sites' servers have ways of their own (work ids, fence numbers)."""

    def __init__(self, app: ASGIApp, core: Core) -> None:
        self.app = app
        self.core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].startswith(_NOT_KEPT):
            await self.app(scope, receive, send)
            return
        key = Headers(scope=scope).get("idempotency-key")
        if key is None:
            await self.app(scope, receive, send)
            return
        try:
            if not 1 <= len(key) <= LONGEST or not key.isprintable():
                raise KeyInvalid(f"The Idempotency-Key has {len(key)} characters, or one that can't be printed.")
            body = await _whole(receive)
            if body is None:
                return
            kept = await run_in_threadpool(idempotency.claim, self.core, key, _digest(scope, body))
        except HomeportError as error:
            await _refused(error)(scope, receive, send)
            return
        if kept is not None:
            answer = await run_in_threadpool(self._again, kept)
            await answer(scope, receive, send)
            return
        await self._first(key, scope, body, receive, send)

    def _again(self, kept: idempotency.Kept) -> Response:
        headers = {**kept.headers, "Idempotency-Replayed": "true"}
        if kept.status is not None:
            return Response(kept.body, kept.status, headers)
        assert kept.job is not None
        with self.core.database.read() as session:
            told = jobs.accepted_json(session, jobs.find(session, kept.job))
        headers |= {"content-type": "application/json", "location": f"/v1/jobs/{kept.job}"}
        return Response(json.dumps(told, default=str), 202, headers)

    async def _first(self, key: str, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        told = False
        start: Message = {}
        answer = b""

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def notice(message: Message) -> None:
            nonlocal start, answer
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                answer += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                # Kept before it is sent: whoever has seen an answer gets the same one again.
                await run_in_threadpool(self._keep, key, start, answer)
            await send(message)

        try:
            with idempotency.under(key):
                await self.app(scope, replay, notice)
        finally:
            if not start:
                await run_in_threadpool(idempotency.release, self.core, key)

    def _keep(self, key: str, start: Message, answer: bytes) -> None:
        if start["status"] >= 500:
            idempotency.release(self.core, key)
            return
        headers: dict[str, Any] = dict(Headers(raw=start["headers"]))
        kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
        idempotency.keep(self.core, key, start["status"], kept, answer.decode())


def _refused(error: HomeportError) -> Response:
    answer = problem(error)
    if isinstance(error, idempotency.InProgress):
        answer.headers["Retry-After"] = "2"
    return answer


async def _whole(receive: Receive) -> bytes | None:
    """The request's body; None if its caller went away."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _digest(scope: Scope, body: bytes) -> str:
    """Bodies that differ in white space or order of keys alone are the same."""
    try:
        text = json.dumps(json.loads(body), sort_keys=True).encode() if body else b""
    except (ValueError, RecursionError):
        text = body
    asked = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], text)
    return hashlib.sha256(b"\0".join(asked)).hexdigest()
