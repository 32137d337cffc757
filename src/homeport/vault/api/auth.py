"""Who may call: an operator shows the vault's token, on loopback too; a server shows its certificate.

/v1/join, /v1/authority      anyone: a registration key proves the rest
/v1/agent/{site}/…           over TLS: the certificate of that site's configuration server, and nothing else;
                             without TLS (loopback, all in one process): the token
all else                     the token
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from homeport.domain.errors import HomeportError
from homeport.trust import security, tls
from homeport.trust.asgi import TooLarge, peer_in, too_large
from homeport.trust.identity import VERSION_HEADER
from homeport.trust.security import Event
from homeport.vault import servers
from homeport.vault.api.errors import problem
from homeport.vault.core import Core

OPEN = frozenset({"/v1/join", "/v1/authority"})
AGENTS = "/v1/agent/"


class Unauthorized(HomeportError):
    code = "vault.unauthorized"
    remedy = "Send `Authorization: Bearer TOKEN` with the token that lies in the vault's state folder."


class Callers:
    """Nothing of a request is looked at before it is known who sends it, but for the language to answer in."""

    def __init__(self, app: ASGIApp, core: Core) -> None:
        self.app = app
        self._core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = await self._refused(scope)
            if refused is not None:
                response = problem(refused, _STATUS.get(refused.code))
                if isinstance(refused, Unauthorized):
                    response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _refused(self, scope: Scope) -> HomeportError | None:
        path, headers = scope["path"], Headers(scope=scope)
        if path in OPEN:
            return too_large(scope)
        peer, agents = peer_in(scope), path.startswith(AGENTS)
        if peer is not None:
            site = path.split("/")[3] if agents else None
            try:
                await run_in_threadpool(servers.admit, self._core, peer, site, headers.get(VERSION_HEADER))
            except HomeportError as error:
                return error
            return None
        if agents and scope["scheme"] == "https":
            security.record(Event.PEER_REFUSED, path=path, reason="no certificate")
            return tls.PeerUnknown("Over TLS a site's server shows its certificate; this call shows none.")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._core.secrets.token_matches(token.strip()):
            if token:
                security.record(Event.TOKEN_REFUSED, path=path, address=(scope.get("client") or [None])[0])
            return Unauthorized("The call's token is not this vault's." if token else "The call shows no token.")
        return None


_STATUS = {Unauthorized.code: 401, TooLarge.code: 413}
