"""Servers and sites are unregistered in the order of dependency: who is needed still is not removed.

items ──replicated by──▶ process server ──┐
items ──come home by───▶ master target ───┴──joined to──▶ configuration server ──of──▶ site

``force`` is for those that are gone for good: what depends on them is removed with them; what is left behind is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.servers import JOIN_BY_PASSPHRASE, Role
from homeport.domain.states import Direction, State
from homeport.trust import security
from homeport.trust.security import Event
from homeport.vault import inventory, servers
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, JobRow, Json, ServerRow, SiteRow

_MOVES_DISKS = frozenset({Operation.PROTECT, Operation.COMMIT, Operation.REPROTECT, Operation.FAILBACK, Operation.UNDO})
"""Operations in which a master target has a part."""
_JOURNAL_KEPT = frozenset({State.FAILBACK_IN_PROGRESS, State.FAILBACK_FAILED, State.FAILBACK_COMMIT_PENDING})
"""What the original's disks held lies on the retention drive of the one that wrote them: no other can put it back."""


class ProcessServerInUse(HomeportError):
    """``details``: ``items``."""

    code = "process-server.in-use"
    remedy = (
        "Give each another one: `homeport process-server switch ITEM --to NAME`. Where this one is gone for good: "
        "--force."
    )


class ProcessServerOnlyOne(HomeportError):
    """``details``: ``items``."""

    code = "process-server.only-one"
    remedy = "Join another process server of that site first. Where this one is gone for good: --force."


class MasterTargetInUse(HomeportError):
    """``details``: ``items``."""

    code = "master-target.in-use"
    remedy = (
        "Let them come home and commit (`homeport failback ITEM`, `homeport commit ITEM`), or end their protection. "
        "Where this one is gone for good: --force."
    )


class HasDependents(HomeportError):
    """``details``: ``servers``."""

    code = "server.has-dependents"
    remedy = "Remove those first (`homeport server remove NAME`), or all at once with --force."


class ServerInUse(HomeportError):
    """``details``: ``items``."""

    code = "server.in-use"
    remedy = (
        "End their protection first (`homeport disable ITEM`). To put another in its place: `homeport vault key new "
        "--site SITE --replace`. Where it is gone for good: --force."
    )


class ThisVault(HomeportError):
    code = "server.this-vault"
    remedy = "Ask another instance of the vault to remove it, once it is stopped."


class SiteInUse(HomeportError):
    """``details``: ``items``."""

    code = "site.in-use"
    remedy = (
        "End the protection of these items first: `homeport disable ITEM`; where the site is lost: --source-gone with "
        "it."
    )


class SiteHasServers(HomeportError):
    """``details``: ``servers``."""

    code = "site.has-servers"
    remedy = (
        "Remove them first: `homeport server remove NAME`, the configuration server last. Where they are gone for "
        "good: --force."
    )


def some(names: Sequence[str], most: int = 10) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# ── a server ────────────────────────────────────────────────────────────────────────────────────────────────────────


def remove(core: Core, name: str, *, force: bool = False) -> Json:
    """The vault forgets a server and revokes its certificates: {"removed": servers, "left": what is left behind, in
    words}. ``force``: with all that depend on it, whatever uses it. Raises ServerNotFound, :class:`ThisVault`, and
    where something stands in the way :class:`ProcessServerInUse`, :class:`ProcessServerOnlyOne`,
    :class:`MasterTargetInUse`, :class:`HasDependents`, :class:`ServerInUse`."""
    with core.database.write() as session:
        server = servers.find(session, name)
        if core.own is not None and core.own.name == name:
            raise ThisVault(f"{name} is the instance of the vault that was asked.")
        if not force:
            _refuse(session, server)
        gone = _with_dependents(session, server)
        left = _left_behind(session, gone)
        return {"removed": _forget(core, session, gone, force=force), "left": left}


def _refuse(session: Session, server: ServerRow) -> None:
    if server.role == Role.PROCESS_SERVER:
        used = _replicated_by(session, server)
        if used:
            raise ProcessServerInUse(
                f"Process server {server.name} replicates {some(used)}; one that is removed may have no item.",
                items=used,
            )
        used = _brought_in_by(session, server)
        if used:
            raise ProcessServerOnlyOne(
                f"Recovery points of {some(used)} come into site {server.site} by {server.name}, its only process "
                "server.",
                items=used,
            )
    elif server.role == Role.MASTER_TARGET:
        used = _written_by(session, server)
        if used:
            raise MasterTargetInUse(f"{some(used)} come home by master target {server.name}.", items=used)
    elif server.role == Role.CONFIGURATION_SERVER and not _others(session, server):
        below = [each.name for each in _below(session, server.site)]
        if below:
            raise HasDependents(
                f"Servers of site {server.site!r} depend on {server.name!r}: {some(below)}.", servers=below
            )
        used = [item.name for item in inventory.items_of(session, server.site)]
        if used:
            raise ServerInUse(f"Items replicate from or to site {server.site!r}: {some(used)}.", items=used)


def _with_dependents(session: Session, server: ServerRow) -> list[ServerRow]:
    """In the order in which they go."""
    if server.role != Role.CONFIGURATION_SERVER or _others(session, server):
        return [server]
    return [*_below(session, server.site), server]


def _forget(core: Core, session: Session, gone: Sequence[ServerRow], *, force: bool) -> list[Json]:
    servers.revoke_all(core, session, [each.name for each in gone], "removed")
    for each in gone:
        each.removed = core.clock()
        security.record(Event.REMOVED, name=each.name, role=each.role, site=each.site, force=force)
    return [servers.server_json(core, session, each) for each in gone]


def _below(session: Session, site: str) -> list[ServerRow]:
    wanted = select(ServerRow).where(
        ServerRow.site == site, ServerRow.role.in_(JOIN_BY_PASSPHRASE), ServerRow.removed.is_(None)
    )
    return list(session.scalars(wanted.order_by(ServerRow.name)))


def _others(session: Session, server: ServerRow) -> list[ServerRow]:
    """Of the same role at the same site, that could act in its place."""
    wanted = select(ServerRow).where(
        ServerRow.site == server.site,
        ServerRow.role == server.role,
        ServerRow.name != server.name,
        ServerRow.state == servers.JOINED,
        ServerRow.removed.is_(None),
    )
    return list(session.scalars(wanted.order_by(ServerRow.name)))


# ── what uses one ───────────────────────────────────────────────────────────────────────────────────────────────────


def _replicated_by(session: Session, server: ServerRow) -> list[str]:
    """Names of the items that the process server replicates."""
    row = session.get(SiteRow, server.site)
    told = _assigned(row.facts if row is not None else {})
    alone = not _others(session, server)
    used = []
    for item in inventory.items_of(session, server.site):
        if item.replicate is None or item.replicate["at"] != server.site:
            continue
        by = item.replication.get("process_server") or told.get(item.id)
        if by == server.name or (by is None and alone):
            used.append(item.name)
    return used


def _assigned(facts: Json) -> dict[str, str]:
    """By item its process server, as the site's configuration server told it."""
    found: dict[str, str] = {}
    told = facts.get("servers")
    for each in told if isinstance(told, list) else ():
        items: Any = each.get("items") if isinstance(each, dict) else None
        found |= {str(item): str(each.get("name")) for item in (items if isinstance(items, list) else ())}
    return found


def _brought_in_by(session: Session, server: ServerRow) -> list[str]:
    """Names of the items whose points other sites send to this one, where no other could take them."""
    if _others(session, server):
        return []
    items = inventory.items_of(session, server.site)
    return [item.name for item in items if item.replicate is not None and item.replicate["store"] == server.site]


def _written_by(session: Session, server: ServerRow) -> list[str]:
    """Names of the items whose disks the master target reads or writes, or soon will."""
    alone = not _others(session, server)
    used = []
    for item in inventory.items_of(session, server.site):
        home = item.home == server.site
        comes_home = home and item.direction is Direction.REVERSE and item.state is not State.FAILBACK_COMMITTED
        journal = home and item.state in _JOURNAL_KEPT
        if journal or (alone and (comes_home or _moves_disks(session, item))):
            used.append(item.name)
    return used


def _moves_disks(session: Session, item: ItemRow) -> bool:
    job = session.get(JobRow, item.job) if item.job is not None else None
    return job is not None and job.kind in _MOVES_DISKS


def _left_behind(session: Session, gone: Sequence[ServerRow]) -> list[str]:
    left = []
    for server in gone:
        left.append(f"On the machine of {server.name} its state folder stays; its certificate counts for nothing.")
        if server.role == Role.PROCESS_SERVER:
            left += _left_by_process_server(session, server, gone)
        if server.role == Role.MASTER_TARGET and (used := _written_by(session, server)):
            left.append(
                f"On the retention drive of {server.name} stays what was overwritten of {some(used)}: no other master "
                "target can put it back."
            )
        if server.role == Role.CONFIGURATION_SERVER and not _others(session, server):
            used = [item.name for item in inventory.items_of(session, server.site)]
            if used:
                left.append(
                    f"Nothing can be done at site {server.site} for {some(used)} until another configuration server "
                    "joins; machines there go on."
                )
    return left


def _left_by_process_server(session: Session, server: ServerRow, gone: Sequence[ServerRow]) -> Iterable[str]:
    names = {each.name for each in gone}
    others = [each.name for each in _others(session, server) if each.name not in names]
    if used := _replicated_by(session, server):
        yield (
            f"What waited in the cache of {server.name} is not sent: {some(used)} are replicated by {some(others)} "
            "from now on, which takes it from the machines again."
            if others
            else f"Nothing replicates {some(used)} until another process server of site {server.site} joins."
        )
    if not others and (used := _brought_in_by(session, server)):
        yield f"No recovery points of {some(used)} come into site {server.site} until another process server joins."


# ── a site ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def free_site(core: Core, session: Session, site: str, *, force: bool = False) -> list[str]:
    """Before a site is forgotten: nothing may need it. ``force``: its servers are forgotten too. What is left behind,
    in words. Raises :class:`SiteInUse`, :class:`SiteHasServers`."""
    used = [item.name for item in inventory.items_of(session, site)]
    if used:
        raise SiteInUse(f"The site {site!r} is what {some(used)} replicate from or to.", items=used)
    there = [*_below(session, site), *servers.configuration_servers(session, site)]
    if there and not force:
        names = [each.name for each in there]
        raise SiteHasServers(f"The site {site!r} has the servers {some(names)}.", servers=names)
    left = _left_behind(session, there)
    _forget(core, session, there, force=True)
    row = inventory.site(session, site)
    if row.store is not None:
        left.append(f"The recovery store of site {site} stays as it is: {row.store}.")
    return [*left, f"Site {site}'s folder and machines stay as they are: {row.path}."]
