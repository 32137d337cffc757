"""Where the other servers of a site take their work from: the same protocol that the vault speaks with this one.

POST /v1/agent/{server}/hello         a server began, or tells of itself anew
GET  /v1/agent/{server}/work          long poll
POST /v1/agent/{server}/work/{id}     how it goes, how it ended
POST /v1/agent/{server}/report        how an item's replication is
GET  /v1/agent/{server}/replications  what should replicate: for a process server that began
GET  /v1/agent/{server}/store         which store the site has; the answer to hello says it, too
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool

from homeport.domain.errors import HomeportError
from homeport.servers.relay import Relay
from homeport.servers.work.kinds import Duty
from homeport.trust.asgi import peer_in

Json = dict[str, Any]


class NotItself(HomeportError):
    code = "server.not-its-own"
    remedy = "A server speaks for itself alone; join it under the name that it uses."


WhoAsks = Callable[[Request, str], None]
"""Given a request and the server's name that it is made for; raises where it is made by another."""


def who_asks_over_tls(request: Request, server: str) -> None:
    """The certificate's server is who it says it is. Raises NotItself."""
    peer = peer_in(request.scope)
    if peer is None or peer.who.name != server:
        raise NotItself(f"{peer.who.uri if peer else 'somebody without a certificate'} speaks for {server}.")


def work_routes(relay: Relay, who_asks: WhoAsks, revocations: Callable[[], int]) -> APIRouter:
    """``who_asks``: admits a request, or raises; ``revocations``: number of the newest list of revoked certificates
    that there is here."""

    def admitted(request: Request, server: str) -> None:
        who_asks(request, server)

    def the_store() -> Json:
        """Empty while this server was not told itself: who asks goes by what it knows."""
        return {"store": relay.store} if relay.store_known else {}

    router = APIRouter(prefix="/v1/agent/{server}", tags=["work"], dependencies=[Depends(admitted)])

    @router.post("/hello")
    def hello(request: Request, server: str, body: Json) -> Json:
        peer = peer_in(request.scope)
        duty = Duty(body["role"] if peer is None else str(peer.who.role))
        relay.hello(server, duty, {**body, "serial": peer.serial if peer else None})
        return the_store()

    @router.get("/store")
    def store(server: str) -> Json:
        return the_store()

    @router.get("/work")
    async def take(
        request: Request, server: str, wait: Annotated[float, Query(ge=0, le=60)] = 20, have: str = ""
    ) -> Json:
        """Answers when there is work, or after ``wait`` seconds."""
        ids = frozenset(filter(None, have.split(",")))
        deadline = time.monotonic() + wait
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            taken = await run_in_threadpool(relay.take, server, ids)
            with relay.polling(server):
                while not taken and (left := deadline - time.monotonic()) > 0 and not relay.stopped:
                    woken = asyncio.ensure_future(relay.sleep(left))
                    await asyncio.wait((woken, gone), return_when=asyncio.FIRST_COMPLETED)
                    woken.cancel()
                    if gone.done():
                        break
                    taken = await run_in_threadpool(relay.take, server, ids)
            if gone.done() and not relay.stopped:
                relay.dropped(server)
            return {"work": taken, "revocations": revocations()}
        finally:
            gone.cancel()

    @router.post("/work/{id}")
    def answer(server: str, id: str, body: Json) -> Json:
        relay.answer(server, id, body)
        return {}

    @router.post("/report")
    def report(server: str, body: Json) -> Json:
        relay.report(server, body)
        return {}

    @router.get("/replications")
    def replications(server: str) -> Json:
        return {"replications": relay.replications(server)}

    return router


async def _disconnected(request: Request) -> None:
    """Returns when the caller's connection is closed: a server that died should not be waited for."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
