"""Answers in the caller's language (``Accept-Language``): texts for people are translated; codes, names, states stay.

What is stored, and everything further in, is English; so are the calls of sites' servers.
"""

from __future__ import annotations

import json

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homeport.language.languages import ENGLISH, negotiated
from homeport.language.translator import Translator, translator

PROBLEM = "application/problem+json"
STREAM = "text/event-stream"
SPOKEN = (PROBLEM, STREAM, "application/json")
_DATA = "data: "


class Languages:
    """A translated answer has an ETag of its own, with which it can be changed like the English one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/v1/agent/"):
            await self.app(scope, receive, send)
            return
        language = negotiated(Headers(scope=scope).get("accept-language", ""))
        answer = _Answer(language, described=not scope["path"].startswith("/v1/"), send=send)
        await self.app(scope if language == ENGLISH else _as_in_english(scope, language), receive, answer.take)


class _Answer:
    """One answer on its way out. ``described``: of a path that describes the API, which is in English."""

    def __init__(self, language: str, *, described: bool, send: Send) -> None:
        self._language = language
        self._described = described
        self._send = send
        self._begun: Message | None = None
        self._body = b""
        self._stream: Translator | None = None

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._stream is not None:
            body = await run_in_threadpool(_events, message.get("body", b""), self._stream)
            await self._send({**message, "body": body})
        elif self._begun is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._end(self._begun)

    async def _begin(self, message: Message) -> None:
        headers = MutableHeaders(raw=message["headers"])
        headers.add_vary_header("Accept-Language")
        kind = headers.get("content-type", "").partition(";")[0]
        language = ENGLISH if self._described and kind != PROBLEM else self._language
        if kind in SPOKEN:
            headers["Content-Language"] = language
        if language != ENGLISH and (tag := headers.get("etag")):
            headers["ETag"] = f'{tag[:-1]}-{language}"'
        message = {**message, "headers": headers.raw}
        if language == ENGLISH or kind not in SPOKEN:
            await self._send(message)
        elif kind == STREAM:
            self._stream = translator(language)
            await self._send(message)
        else:
            self._begun = message

    async def _end(self, begun: Message) -> None:
        body = await run_in_threadpool(_translated, self._body, translator(self._language))
        headers = MutableHeaders(raw=begun["headers"])
        headers["Content-Length"] = str(len(body))
        await self._send({**begun, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


def _translated(body: bytes, into: Translator) -> bytes:
    return json.dumps(into.json(json.loads(body)), ensure_ascii=False).encode() if body else body


def _events(chunk: bytes, into: Translator) -> bytes:
    lines = chunk.decode().split("\n")
    return "\n".join(
        _DATA + _translated(line.removeprefix(_DATA).encode(), into).decode() if line.startswith(_DATA) else line
        for line in lines
    ).encode()


def _as_in_english(scope: Scope, language: str) -> Scope:
    """If-None-Match names what the caller has in this language; further in, its English ETag is known."""
    headers = MutableHeaders(raw=list(scope["headers"]))
    known = headers.get("if-none-match")
    if known is not None and known.strip() != "*":
        ending = f'-{language}"'
        tags = [tag.strip().removesuffix(ending) + '"' for tag in known.split(",") if tag.strip().endswith(ending)]
        del headers["If-None-Match"]
        if tags:
            headers["If-None-Match"] = ", ".join(tags)
    return {**scope, "headers": headers.raw}
