"""Every call shows the vault's token, on loopback too."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from homeport.domain.errors import HomeportError
from homeport.vault.api.errors import problem
from homeport.vault.secrets import Secrets


class Unauthorized(HomeportError):
    code = "vault.unauthorized"
    remedy = "Send `Authorization: Bearer TOKEN` with the token that lies in the vault's state folder."


class BearerToken:
    """Nothing of a request is looked at before its token, but for the language to answer in."""

    def __init__(self, app: ASGIApp, secrets: Secrets) -> None:
        self.app = app
        self.secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self.secrets.token_matches(token.strip()):
                cause = "The call shows no token." if not token else "The call's token is not this vault's."
                response = problem(Unauthorized(cause), 401)
                response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
