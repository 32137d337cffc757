"""ETags: a GET of what one has already costs no answer, and a change that was made meanwhile is not overwritten.

An ETag has two parts, ``"SET.MEASURED"``: digests of what operators and operations set, and of what is measured all
the time (RPO, health, when a site was last heard of). ``If-None-Match`` compares all of it; ``If-Match`` the first
part alone, so that a change isn't refused because a minute went by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homeport.domain.errors import HomeportError

MEASURED = frozenset(
    {"connected", "facts", "health", "health_reasons", "last_point", "last_seen", "replication", "rpo_seconds"}
)


class PreconditionFailed(HomeportError):
    code = "request.precondition-failed"
    remedy = "Get it again, look at what changed, and send the change with the new ETag in If-Match."


IfMatch = Annotated[str | None, Header(alias="If-Match", description="Only if its ETag is still this one")]
"""Parameter of a route that changes or deletes something."""


def etag(shown: Mapping[str, Any]) -> str:
    """The ETag of what a GET shows."""
    fixed = {name: value for name, value in shown.items() if name not in MEASURED}
    measured = {name: value for name, value in shown.items() if name in MEASURED}
    return f'"{_digest(fixed)}.{_digest(measured)}"'


def require_match(if_match: str | None, shown: Mapping[str, Any]) -> None:
    """For use in the transaction that changes it; ``shown``: what a GET shows now. Raises
    :class:`PreconditionFailed`."""
    if if_match is None or if_match.strip() == "*":
        return
    now = etag(shown)
    if _fixed(now) not in {_fixed(each) for each in if_match.split(",")}:
        raise PreconditionFailed(f"It was changed since it was read: its ETag is {now}, not {if_match}.", etag=now)


def _fixed(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"').partition(".")[0]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class EntityTags:
    """Gives each JSON answer to a GET its ETag, and answers 304 where the caller has it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tagged = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith("/v1/")
        if not tagged or scope["path"].startswith("/v1/agent/"):
            await self.app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match")
        begun: Message | None = None
        body = b""

        async def tag(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if message["status"] != 200 or kind != "application/json":
                    await send(message)
                else:
                    begun = message
                return
            if begun is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            shown = json.loads(body)
            found = etag(shown if isinstance(shown, dict) else {"": shown})
            headers = MutableHeaders(raw=begun["headers"])
            headers["ETag"] = found
            headers["Cache-Control"] = "private, no-cache"
            if known is not None and (known.strip() == "*" or found in [_strong(each) for each in known.split(",")]):
                del headers["Content-Length"]
                del headers["Content-Type"]
                begun, body = {**begun, "status": 304, "headers": headers.raw}, b""
            await send(begun)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, tag)


def _strong(tag: str) -> str:
    return tag.strip().removeprefix("W/")
