"""HTTPS servers: the peer's certificate reaches the application, and a guard lets through who may come in.

    server = tls_server(app, identity, require_client=True)
    server.run(sockets=[listener])

In the application: ``peer_in(request.scope)``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.trust import security, tls
from homeport.trust.certificates import Peer
from homeport.trust.identity import Identity
from homeport.trust.security import Event

PEER = "homeport.peer"
"""In ``scope["extensions"]``: the :class:`Peer` whose certificate was verified, where it showed one."""

MOST = 64 << 10
"""Bytes of a request that anyone may send."""


class TooLarge(HomeportError):
    code = "request.too-large"
    remedy = "Send the registration key and the request for a certificate, and no more."


def too_large(scope: Any) -> TooLarge | None:
    """Whether a request by who shows nothing is to be refused before it is read: its sender can't make a server hold
    much."""
    length = Headers(scope=scope).get("content-length")
    if scope["method"] in ("GET", "HEAD") or (length is not None and length.isdigit() and int(length) <= MOST):
        return None
    return TooLarge(f"A request that shows neither token nor certificate says its length, at most {MOST} bytes.")


def peer_in(scope: Any) -> Peer | None:
    """Who sent a request, as its verified certificate says; None: without one, or without TLS."""
    found: Peer | None = (scope.get("extensions") or {}).get(PEER)
    return found


class PeerProtocol(H11Protocol):
    """uvicorn's own, which also tells the application who is at the other end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        found: Peer | None = None
        if connection is not None and connection.getpeercert(binary_form=True):
            try:
                found = tls.peer(connection)
            except tls.PeerUnknown as error:
                security.record(Event.PEER_REFUSED, code=error.code, reason=error.cause, address=_address(self.client))
                transport.close()
                return
        app = self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[PEER] = found
            await app(scope, receive, send)

        self.app = with_peer


def tls_server(
    app: Any, identity: Identity, *, require_client: bool = True, graceful: int = 3, **more: Any
) -> uvicorn.Server:
    """Serves ``app`` over TLS 1.3. ``graceful``: seconds for what is under way when it ends; ``more``: of
    uvicorn.Config (host, port, …)."""
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        proxy_headers=False,  # who calls, the connection says
        **{"log_config": None, "access_log": False, "timeout_graceful_shutdown": graceful, **more},
    )
    config.load()
    config.ssl = identity.server_context(require_client)
    return uvicorn.Server(config)


class PeerGuard:
    """Outermost around an application of a server at a site: at each request the peer must be one of ``roles``, of
    ``site`` (None: any), of this vault, and not revoked. ``unguarded``: paths that anyone may ask for, in few bytes."""

    def __init__(
        self,
        app: ASGIApp,
        identity: Identity,
        roles: Collection[Role] = (),
        site: str | None = None,
        unguarded: Collection[str] = (),
    ) -> None:
        self.app = app
        self._identity = identity
        self._roles = frozenset(roles)
        self._site = site
        self._unguarded = frozenset(unguarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._unguarded:
            if refused := too_large(scope):
                await refusal(refused, 413)(scope, receive, send)
                return
        elif scope["type"] == "http":
            try:
                peer = peer_in(scope)
                if peer is None:
                    security.record(Event.PEER_REFUSED, path=scope["path"], reason="no certificate")
                    raise tls.PeerUnknown("The call shows no certificate.")
                self._identity.check(peer, self._roles, self._site)
            except HomeportError as error:
                await refusal(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def refusal(error: HomeportError, status: int = 403) -> JSONResponse:
    """As application/problem+json, the form of all errors of Homeport's servers."""
    body = {"type": f"urn:homeport:error:{error.code}", "title": error.cause, "status": status, **error.to_json()}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def _address(client: tuple[str, int] | None) -> str | None:
    return client[0] if client else None
