"""Server-sent events: jobs and items as they change, over one connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from homeport.domain.errors import HomeportError
from homeport.vault import items
from homeport.vault.api.context import TheCore
from homeport.vault.api.paging import in_utc
from homeport.vault.changes import KINDS, Feed
from homeport.vault.core import Core
from homeport.vault.database import now

router = APIRouter(prefix="/v1/events", tags=["events"])

HEARTBEAT = 15.0
"""Seconds without an event after which a comment shows that the connection lives."""
AT_MOST_EVERY = 0.25
"""Seconds between two looks: what changes often is told of once in that time."""
RETRY = 2000
"""Milliseconds after which a follower should come back."""


class EventIdInvalid(HomeportError):
    code = "request.event-id-invalid"
    remedy = "Send the `id` of an event of this stream as Last-Event-ID, or none to begin now."


@router.get(
    "",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def follow(
    core: TheCore,
    kind: Annotated[Literal["job", "item"] | None, Query(description="Only of this kind")] = None,
    item: Annotated[str | None, Query(description="Only of this item (name or id) and its jobs")] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this event")] = None,
) -> StreamingResponse:
    """First an event `ready`, then `job` and `item` with the whole Job or Item (and when it was `removed`).

    An event may come twice; each carries what is true now. Who comes back with Last-Event-ID is told of all that
    changed meanwhile."""
    since = now() if last_event_id is None else _instant(last_event_id)
    chosen = None if item is None else await run_in_threadpool(_id_of, core, item)
    feed = Feed(core, since, KINDS if kind is None else (kind,), chosen)
    return StreamingResponse(
        _stream(core, feed, since),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _instant(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError as error:
        raise EventIdInvalid(f"{text!r} is no event's id.") from error


def _id_of(core: Core, item: str) -> str:
    with core.database.read() as session:
        return items.find(session, item).id


async def _stream(core: Core, feed: Feed, since: datetime) -> AsyncIterator[str]:
    yield f"retry: {RETRY}\n" + _event(since, "ready", {})
    spoken = time.monotonic()
    while not core.signal.stopped:
        seen = core.signal.version
        for change in await run_in_threadpool(feed.take):
            yield _event(change.instant, change.kind, change.shown)
            spoken = time.monotonic()
        quiet = time.monotonic() - spoken
        if quiet >= HEARTBEAT:
            yield ": heartbeat\n\n"
            spoken = time.monotonic()
        await asyncio.sleep(AT_MOST_EVERY)
        await core.signal.wait_async(seen, max(0.0, HEARTBEAT - quiet))


def _event(instant: datetime, kind: str, data: dict[str, Any]) -> str:
    return f"id: {instant.isoformat()}\nevent: {kind}\ndata: {json.dumps(data, default=str)}\n\n"
