"""Sites and the machines that they see."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault import inventory, removal
from homeport.vault.api.context import TheCore
from homeport.vault.api.paging import ThePage, keyset
from homeport.vault.api.schemas import (
    MachineList,
    MachineStarted,
    ProbedSite,
    Refreshed,
    RemovedSite,
    Site,
    SiteList,
)
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, MachineRow, SiteRow, WorkRow, now
from homeport.vault.removal import some
from homeport.vault.work import OPEN

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


class SiteStoreInUse(HomeportError):
    """``details``: ``items``, their names."""

    code = "site.store-in-use"
    remedy = "Disable these items, and purge those that are kept (`homeport item list --deleted`), then try again."


class SiteChanges(BaseModel):
    """``store``: URL of the recovery store for new points; null: in the site's own folder."""

    model_config = ConfigDict(extra="forbid")

    store: str | None


class NewSite(BaseModel):
    """``path``: the provider's folder at that site."""

    name: str
    provider: Literal["qemu"] = "qemu"
    path: str


def site_json(core: Core, site: SiteRow) -> dict[str, Any]:
    return {
        "name": site.name,
        "provider": site.provider,
        "path": site.path,
        "store": site.store,
        "connected": inventory.is_connected(core, site.name),
        "last_seen": site.last_seen.isoformat() if site.last_seen else None,
        "discovery": inventory.discovery_json(core, site),
        "facts": site.facts,
        "created": site.created.isoformat(),
    }


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other or lies in it; by their names alone, for the vault opens no folder of a site."""
    first, second = (PurePosixPath(posixpath.normpath(path)) for path in (one, other))
    return first.is_relative_to(second) or second.is_relative_to(first)


@router.get("", response_model=SiteList)
def list_sites(
    core: TheCore, page: ThePage, provider: str | None = None, connected: bool | None = None
) -> dict[str, Any]:
    """By name. ``connected``: only those whose server is there, or isn't."""
    wanted = select(SiteRow).where(SiteRow.removed.is_(None))
    if provider is not None:
        wanted = wanted.where(SiteRow.provider == provider)
    if connected is not None:
        with core.database.read() as session:
            every = session.scalars(select(SiteRow.name))
            names = [name for name in every if inventory.is_connected(core, name) is connected]
        wanted = wanted.where(SiteRow.name.in_(names))
    with core.database.read() as session:
        rows = session.scalars(keyset(wanted, page, SiteRow.name)).all()
    found, following = page.cut(rows, lambda site: (site.name,))
    return {"sites": [site_json(core, site) for site in found], "next": following}


@router.post("", status_code=201, response_model=Site)
def add_site(core: TheCore, body: NewSite) -> dict[str, Any]:
    if not _NAME.match(body.name):
        raise SiteInvalid(f"{body.name!r} can't name a site.")
    with core.database.write() as session:
        site = session.get(SiteRow, body.name)
        if site is not None and site.removed is None:
            raise SiteExists(f"There is a site {body.name!r} already.")
        for other in session.scalars(select(SiteRow).where(SiteRow.removed.is_(None))):
            if overlap(body.path, other.path):
                raise SitePathOverlaps(
                    f"The path {body.path!r} is that of site {other.name!r}, {other.path!r}, or one lies in the other.",
                    site=other.name,
                )
        if site is None:
            site = SiteRow(name=body.name)
            session.add(site)
        site.provider, site.path, site.facts, site.discovery, site.removed = body.provider, body.path, {}, {}, None
    added = site_json(core, site)
    for listener in core.site_listeners:
        listener(added)
    return added


@router.get("/{site}", response_model=Site)
def get_site(core: TheCore, site: str) -> dict[str, Any]:
    with core.database.read() as session:
        return site_json(core, inventory.site(session, site))


@router.patch("/{site}", response_model=ProbedSite)
def change_site(core: TheCore, site: str, body: SiteChanges) -> dict[str, Any]:
    """The site tries the store out (create-if-absent, permission, space); from then on its points go there."""
    with core.database.read() as session:
        _store_must_be_free(session, inventory.site(session, site))
    probed = inventory.probe_store(core, site, body.store) if body.store is not None else {}
    with core.database.write() as session:
        row = inventory.site(session, site)
        _store_must_be_free(session, row)
        if body.store is not None:
            _no_other_store(session, row, body.store)
        row.store = body.store
        row.gateway = None  # told anew by the server that opens it
        return {**site_json(core, row), "probed": probed}


@router.post("/{site}/refresh", response_model=Refreshed)
def refresh_site(core: TheCore, site: str) -> dict[str, Any]:
    """Have the site discovered now; what is new, gone and changed since it was last."""
    found = inventory.discover(core, site)
    with core.database.read() as session:
        return {"site": site_json(core, inventory.site(session, site)), **found.to_json()}


@router.delete("/{site}", response_model=RemovedSite)
def remove_site(core: TheCore, site: str, force: bool = False) -> dict[str, Any]:
    """The vault forgets it; its folder, its machines and its store stay as they are. ``force``: its servers are gone
    for good, and are removed with it; items that have the site refuse that all the same."""
    with core.database.write() as session:
        row = inventory.site(session, site)
        left = removal.free_site(core, session, site, force=force)
        session.execute(delete(MachineRow).where(MachineRow.site == site))
        session.execute(
            update(WorkRow)
            .where(WorkRow.site == site, WorkRow.state.in_(OPEN))
            .values(state="withdrawn", changed=now())
        )
        removed = {**site_json(core, row), "left": left}
        row.removed, row.gateway, row.executor, row.store = now(), None, None, None
        row.inventoried = row.last_seen = None
    return removed


def _store_must_be_free(session: Session, site: SiteRow) -> None:
    """Raises :class:`SiteStoreInUse` where points lie in the store, or soon will."""
    wanted = select(ItemRow).where(ItemRow.removed.is_(None) | ItemRow.purge_at.is_not(None))
    used = sorted(
        item.name
        for item in session.scalars(wanted)
        if item.timelines.get(site.name) or (item.away == site.name and item.removed is None)
    )
    if used:
        raise SiteStoreInUse(f"The recovery store of site {site.name!r} holds points of {some(used)}.", items=used)


def _no_other_store(session: Session, site: SiteRow, store: str) -> None:
    """Raises :class:`SitePathOverlaps` where another site has the store, or its folder."""
    for other in session.scalars(select(SiteRow).where(SiteRow.removed.is_(None), SiteRow.name != site.name)):
        path = urlsplit(store).path if store.startswith("file://") else None
        if other.store == store or (path is not None and overlap(path, other.path)):
            raise SitePathOverlaps(
                f"The store {store} is that of site {other.name!r}, or in its folder.", site=other.name
            )


@router.get("/{site}/machines", response_model=MachineList)
def list_machines(core: TheCore, site: str, refresh: bool = False) -> dict[str, Any]:
    """What the vault knows, as of ``discovery``; ``refresh``: the site is asked first."""
    found = inventory.machines(core, site, fresh=refresh)
    with core.database.read() as session:
        return {"machines": found, "discovery": inventory.discovery_json(core, inventory.site(session, site))}


@router.post("/{site}/machines/{machine}/start", response_model=MachineStarted)
def start_machine(core: TheCore, site: str, machine: str) -> dict[str, Any]:
    """Power a machine on; one that runs is left alone, one that is fenced (it runs elsewhere) is refused."""
    with core.database.read() as session:
        inventory.site(session, site)
    return {"machine": inventory.start_machine(core, site, machine).to_json()}
