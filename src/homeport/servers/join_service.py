"""What a configuration server offers to the other servers of its site: joining, renewal, the list of who is revoked.

    api.include_router(join_routes(identity, JoinPassphrase(state), vault))      # vault: identity.http_client(…)
    install_errors(api)
    app = PeerGuard(api, identity, site=identity.site, unguarded=UNGUARDED)
    tls_server(app, identity, require_client=False, …)

The vault's authority signs all: requests are passed on to it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from homeport.domain.errors import HomeportError
from homeport.domain.servers import JOIN_BY_PASSPHRASE
from homeport.servers.join_passphrase import Guesses, JoinPassphrase, TooManyGuesses, WrongJoinPassphrase
from homeport.servers.joining import read
from homeport.servers.next_url import REPEATABLE
from homeport.trust import security, tls
from homeport.trust.asgi import peer_in, refusal
from homeport.trust.certificates import Peer
from homeport.trust.clocks import ClockSkew, compare_clocks
from homeport.trust.identity import VERSION_HEADER, Identity
from homeport.trust.proofs import Prover
from homeport.trust.security import Event

Json = dict[str, Any]

UNGUARDED = frozenset({"/v1/join"})
"""Paths that the passphrase guards: whoever joins has no certificate yet."""


class VaultSilent(HomeportError):
    """A configuration server was asked for what only the vault can do."""

    code = "join.vault-silent"
    remedy = "Mend the network from the configuration server to the vault, then join again."


class JoinRequest(BaseModel):
    """``time``: what the server's clock shows."""

    model_config = ConfigDict(extra="forbid")

    name: str
    role: str
    csr: str = Field(max_length=16 << 10)
    time: str
    version: str = ""


class Join(BaseModel):
    """``proof``: over ``request``, hex (trust/proofs.py)."""

    request: JoinRequest
    proof: str = Field(pattern=r"^[0-9a-f]{64}$")


class Renewal(BaseModel):
    csr: str = Field(max_length=16 << 10)


def join_routes(
    identity: Identity, passphrase: JoinPassphrase, vault: httpx.Client, guesses: Guesses | None = None
) -> APIRouter:
    """``vault``: a client of this identity."""
    router = APIRouter(prefix="/v1", tags=["joining"])
    limits = guesses or Guesses()
    site = identity.site

    def ask(method: str, path: str, body: Json | None = None, *, repeatable: bool = False) -> Json:
        extensions = REPEATABLE if repeatable else None
        try:
            return read(vault.request(method, f"/v1/agent/{site}{path}", json=body, extensions=extensions))
        except httpx.TransportError as error:
            raise VaultSilent(f"The vault doesn't answer ({error or type(error).__name__}).") from error

    @router.get("/join")
    def greet() -> Json:
        """What a server needs to know to prove that it has the passphrase."""
        salt, _ = passphrase.key()
        return {"salt": salt.hex(), "site": site, "vault": identity.vault, "time": datetime.now(UTC).isoformat()}

    @router.post("/join", status_code=201)
    def join(request: Request, body: Join) -> Json:
        """A process server or master target joins."""
        address = request.client.host if request.client else ""
        limits.check(address)
        wanted = body.request.model_dump()
        _, key = passphrase.key()
        provers = [Prover(key, bytes.fromhex(each)) for each in identity.fingerprints]
        prover = next((each for each in provers if each.is_request(body.proof, wanted)), None)
        if prover is None:
            limits.wrong(address)
            security.record(Event.PASSPHRASE_REFUSED, address=address, name=body.request.name, role=body.request.role)
            raise WrongJoinPassphrase(
                "The join passphrase is wrong, or the server saw another certificate than this one's."
            )
        limits.right(address)
        _compare(body.request.time, body.request.name)
        asked = {name: wanted[name] for name in ("role", "name", "csr")}
        answer = ask("POST", "/certificates", asked, repeatable=True)
        return {"answer": answer, "proof": prover.answer(body.proof, answer)}

    @router.get("/self")
    def greeted(request: Request) -> Json:
        """Who asks, as this server sees it: the first call after a join, which the vault hears of."""
        peer = _member(request)
        told = {"name": peer.who.name, "serial": peer.serial, "version": request.headers.get(VERSION_HEADER)}
        return {"peer": peer.who.uri, **ask("POST", "/servers", told, repeatable=True)}

    @router.post("/renewal")
    def renew(request: Request, body: Renewal) -> Json:
        """A further certificate for the server that asks with its present one."""
        peer = _member(request)
        asked = {"role": str(peer.who.role), "name": peer.who.name, "csr": body.csr, "renews": peer.serial}
        return ask("POST", "/certificates", asked)

    @router.get("/revocations")
    def revocations() -> Json:
        """The newest list that this server can get; the vault's authority signed it."""
        return ask("GET", "/revocations")

    return router


def _member(request: Request) -> Peer:
    """A server of the site that joined here."""
    peer = peer_in(request.scope)
    if peer is None:
        raise tls.PeerUnknown("The call shows no certificate.")
    if peer.who.role not in JOIN_BY_PASSPHRASE:
        raise tls.WrongPeer(f"{peer.who.uri} joined elsewhere.")
    return peer


def _compare(time: str, name: str) -> None:
    try:
        theirs = datetime.fromisoformat(time)
    except ValueError as error:
        raise HomeportError(f"{time!r} is no time.", code="request.invalid", remedy="Send ISO 8601, UTC.") from error
    try:
        compare_clocks("the configuration server", datetime.now(UTC), "the server", theirs)
    except ClockSkew as error:
        security.record(Event.CLOCK_REFUSED, name=name, reason=error.cause)
        raise


_STATUS = {
    TooManyGuesses.code: 429,
    VaultSilent.code: 503,
    ClockSkew.code: 409,
    "server.name-taken": 409,
    "server.name-invalid": 422,
    "request.invalid": 422,
    "certificate.request-invalid": 422,
}


def install_errors(api: FastAPI) -> None:
    """HomeportErrors as problems, with the status that fits."""

    @api.exception_handler(HomeportError)
    async def known(request: Request, error: HomeportError) -> JSONResponse:
        return refusal(error, _STATUS.get(error.code, 403))
