"""Sites and the machines that they see."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import select

from homeport.domain.errors import HomeportError
from homeport.vault import inventory
from homeport.vault.api.context import TheCore
from homeport.vault.core import Core
from homeport.vault.database import SiteRow

router = APIRouter(prefix="/v1/sites", tags=["sites"])

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


class SiteExists(HomeportError):
    code = "site.exists"
    remedy = "Choose another name; `homeport site list` shows those taken."


class SiteInvalid(HomeportError):
    code = "site.invalid"
    remedy = "Use letters, digits, dots, dashes and underscores, at most 63."


class SitePathOverlaps(HomeportError):
    """Two sites would look after the same machines."""

    code = "site.path-overlaps"
    remedy = "Give each site a folder of its own, none within another's."


class NewSite(BaseModel):
    """``path``: the provider's folder at that site."""

    name: str
    provider: Literal["qemu"] = "qemu"
    path: str


def site_json(core: Core, site: SiteRow) -> dict[str, Any]:
    silence = core.liveness.silence(site.name)
    return {
        "name": site.name,
        "provider": site.provider,
        "path": site.path,
        "connected": silence is not None and silence <= core.timeouts.gone,
        "last_seen": site.last_seen.isoformat() if site.last_seen else None,
        "facts": site.facts,
        "created": site.created.isoformat(),
    }


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other or lies in it; by their names alone, for the vault opens no folder of a site."""
    first, second = (PurePosixPath(posixpath.normpath(path)) for path in (one, other))
    return first.is_relative_to(second) or second.is_relative_to(first)


@router.get("")
def list_sites(core: TheCore) -> dict[str, Any]:
    with core.database.read() as session:
        sites = list(session.scalars(select(SiteRow).order_by(SiteRow.name)))
    return {"sites": [site_json(core, site) for site in sites]}


@router.post("", status_code=201)
def add_site(core: TheCore, body: NewSite) -> dict[str, Any]:
    if not _NAME.match(body.name):
        raise SiteInvalid(f"{body.name!r} can't name a site.")
    with core.database.write() as session:
        if session.get(SiteRow, body.name) is not None:
            raise SiteExists(f"There is a site {body.name!r} already.")
        for other in session.scalars(select(SiteRow)):
            if overlap(body.path, other.path):
                raise SitePathOverlaps(
                    f"The path {body.path!r} is that of site {other.name!r}, {other.path!r}, or one lies in the other.",
                    site=other.name,
                )
        site = SiteRow(name=body.name, provider=body.provider, path=body.path, facts={})
        session.add(site)
    added = site_json(core, site)
    for listener in core.site_listeners:
        listener(added)
    return added


@router.get("/{site}")
def get_site(core: TheCore, site: str) -> dict[str, Any]:
    with core.database.read() as session:
        return site_json(core, inventory.site(session, site))


@router.get("/{site}/machines")
def list_machines(core: TheCore, site: str, refresh: bool = False) -> dict[str, Any]:
    """What the site saw when it was last asked; ``refresh``: ask it now."""
    return {"machines": inventory.machines(core, site, fresh=refresh)}


@router.post("/{site}/machines/{machine}/start")
def start_machine(core: TheCore, site: str, machine: str) -> dict[str, Any]:
    """Power a machine on; one that runs is left alone, one that is fenced (it runs elsewhere) is refused."""
    with core.database.read() as session:
        inventory.site(session, site)
    return {"machine": inventory.start_machine(core, site, machine).to_json()}
