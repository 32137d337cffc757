"""Servers of the vault: registration keys, joining, looking, revoking, removing; the authority."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from homeport.vault import balance, configuration_backups, registration, removal, server_health, servers
from homeport.vault.api.context import TheCore

router = APIRouter(prefix="/v1", tags=["servers"])

Json = dict[str, Any]


class NewKey(BaseModel):
    """``urls``: where the server will reach the vault; none: as the vault knows it. ``replace``: the server takes the
    place of the site's present configuration server."""

    model_config = ConfigDict(extra="forbid")

    site: str
    urls: list[str] = []
    replace: bool = False


class Joining(BaseModel):
    """``key``: the text of the registration key's file; ``csr``: request for a certificate, PEM; ``time``: what the
    server's clock shows; ``restores``: a lost one is restored; then ``name`` may be empty: the lost one's."""

    key: Annotated[str, Field(max_length=32 << 10)]
    name: str
    csr: Annotated[str, Field(max_length=16 << 10)]
    time: datetime
    restores: Literal["vault", "file"] | None = None


class Revocation(BaseModel):
    """``serial``: of one certificate, hex; null: the whole server."""

    serial: str | None = None
    reason: Annotated[str, Field(max_length=200)] = "an operator revoked it"


@router.get("/authority")
def authority(core: TheCore) -> Json:
    """The authority's certificate and what the vault's clock shows; shown to anyone, so believe it only by its
    fingerprint."""
    return {
        "vault": core.secrets.vault_id,
        "certificate": core.authority.pem,
        "fingerprint": core.authority.fingerprint,
        "time": core.clock().isoformat(),
    }


@router.post("/join", status_code=201)
def join(core: TheCore, body: Joining) -> Json:
    """A configuration server joins; its registration key alone admits it."""
    return registration.join(core, body.key, body.name, body.csr, body.time, body.restores)


@router.post("/registration-keys", status_code=201)
def make_key(core: TheCore, body: NewKey) -> Json:
    """A registration key for one server of a site: valid for five days, shown this once."""
    key = registration.make(core, body.site, body.urls, replace=body.replace)
    return {
        "id": key.id,
        "site": key.site,
        "expires": key.expires.isoformat(),
        "urls": list(key.urls),
        "fingerprint": core.authority.fingerprint,
        "key": key.to_text(),
    }


@router.get("/servers")
def list_servers(core: TheCore) -> Json:
    """All servers, in the order in which they are upgraded; ``upgrade``: whose turn it is; ``suggestions``: how many
    moves of items to other process servers there are, and sites that need one more."""
    return {**servers.listed(core), "suggestions": balance.count(core)}


@router.get("/servers/{name}")
def show_server(core: TheCore, name: str) -> Json:
    """A server; of a process server also its health with reasons, statistics by item, and what to move elsewhere."""
    return server_health.shown(core, name)


@router.get("/configuration-backups")
def list_configuration_backups(core: TheCore, server: str | None = None) -> Json:
    """The backups of configuration servers that the vault keeps, the newest of a site first, and when the next are due.
    ``server``: only of that one."""
    return configuration_backups.listed(core, server)


@router.post("/servers/{name}/revoke")
def revoke(core: TheCore, name: str, body: Revocation) -> Json:
    """From the next request on, nobody takes its certificate, or its certificates, any more."""
    return {"server": servers.revoke(core, name, body.serial, body.reason)}


@router.delete("/servers/{name}")
def remove(core: TheCore, name: str, force: Annotated[bool, Query()] = False) -> Json:
    """Forget it and revoke its certificates; ``force``: with what depends on it, whatever uses it. ``left``: what is
    left behind, in words."""
    return removal.remove(core, name, force=force)
