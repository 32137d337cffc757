"""What machines a site sees: told by its configuration server at intervals, or asked of it; kept until told again.

SiteRow.discovery: {"interval": seconds between two looks, "tried": when the last one ended, "error": why it saw nothing
(null: it did)}.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.inventory import DISCOVERY_INTERVAL, Differences, compare, is_stale
from homeport.domain.machines import Machine
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, MachineRow, SiteRow, now
from homeport.vault.work import Ask, ask

log = structlog.get_logger(__name__)


class SiteNotFound(HomeportError):
    code = "site.not-found"
    remedy = "See `homeport site list`."


class MachineNotFound(HomeportError):
    code = "machine.not-found"
    remedy = "See `homeport machine list SITE` for the machines that this site discovers."


class NetworkMissing(HomeportError):
    """Code and meaning are the original's (reference 6.6)."""

    code = "70038"
    remedy = "Make that network at the site, or choose another: `homeport item set ITEM --network NAME`."


def site(session: Session, name: str) -> SiteRow:
    """Raises :class:`SiteNotFound`."""
    row = session.get(SiteRow, name)
    if row is None or row.removed is not None:
        raise SiteNotFound(f"There is no site {name!r}.")
    return row


def items_of(session: Session, name: str) -> list[ItemRow]:
    """The items that replicate from the site or to it, or could, by name."""
    wanted = select(ItemRow).where(ItemRow.removed.is_(None), or_(ItemRow.home == name, ItemRow.away == name))
    return list(session.scalars(wanted.order_by(ItemRow.name)))


def check_network(row: SiteRow, network: str) -> None:
    """A site that does not tell its networks may have any. Raises :class:`NetworkMissing`."""
    told = row.facts.get("networks")
    if not isinstance(told, list):
        return
    names = [str(each["name"] if isinstance(each, dict) else each) for each in told]
    if network not in names:
        raise NetworkMissing(
            f"Site {row.name!r} has no network {network!r}; it has {', '.join(names) or 'none'}.",
            site=row.name,
            networks=names,
        )


def is_connected(core: Core, name: str) -> bool:
    """Whether the site's configuration server is in contact."""
    silence = core.liveness.silence(name)
    return silence is not None and silence <= core.timeouts.gone


def discovery_json(core: Core, row: SiteRow) -> Json:
    """{"last", "tried", "error", "interval", "stale", "why"}: when the machines were last seen, and whether that may
    be believed still."""
    interval = float(row.discovery.get("interval") or DISCOVERY_INTERVAL)
    last = row.inventoried
    why = None
    if last is None:
        why = "The site was not discovered yet."
    elif not is_connected(core, row.name):
        why = "The site's configuration server is not in contact."
    elif is_stale((now() - last).total_seconds(), interval):
        why = "The last discovery is more than two intervals ago."
    return {
        "last": last.isoformat() if last is not None else None,
        "tried": row.discovery.get("tried"),
        "error": row.discovery.get("error"),
        "interval": interval,
        "stale": why is not None,
        "why": why,
    }


def take(core: Core, name: str, answer: Json, age: float = 0.0, interval: float | None = None) -> Differences:
    """Keep what a site saw: {"machines", "facts"}, ``age`` seconds ago, as what it sees now; what is new in that. An
    older view than the one that is kept changes nothing. ``interval``: seconds between two looks by its own."""
    machines = [Machine.from_json(machine) for machine in answer.get("machines", [])]
    with core.database.write() as session:
        row, at = site(session, name), now() - timedelta(seconds=age)
        row.discovery = {
            "interval": row.discovery.get("interval") if interval is None else interval,
            "tried": now().isoformat(),
            "error": None,
        }
        if row.inventoried is not None and row.inventoried > at:
            return Differences()
        before = [Machine.from_json(machine.data) for machine in _rows(session, name)]
        found = compare(before, machines)
        session.execute(delete(MachineRow).where(MachineRow.site == name))
        session.add_all(
            MachineRow(site=name, uuid=machine.uuid, name=machine.name, data=machine.to_json()) for machine in machines
        )
        first, row.inventoried = row.inventoried is None, at
        row.facts = {**row.facts, **answer.get("facts", {}), "received": at.isoformat()}
    if found and not first:
        named = {kind: [each["name"] for each in some] for kind, some in found.to_json().items() if some}
        log.info("a site's machines are others", site=name, **named)
    return found


def failed(core: Core, name: str, error: Json, interval: float | None = None) -> None:
    """Keep why a look at the site saw nothing; what was seen before stays."""
    with core.database.write() as session:
        row = site(session, name)
        known = row.discovery.get("interval") if interval is None else interval
        row.discovery = {"interval": known, "tried": now().isoformat(), "error": error}


def refresh(core: Core, name: str, answer: Json) -> list[Json]:
    """Keep an inventory's answer as what the site sees now; its machines."""
    take(core, name, answer)
    return [Machine.from_json(machine).to_json() for machine in answer.get("machines", [])]


def discover(core: Core, name: str) -> Differences:
    """Have the site looked at now; what is new since the last look. Raises SiteNotFound, SiteUnreachable where its
    server does not answer in time, and what that says; it is kept as the last look's error."""
    with core.database.read() as session:
        site(session, name)
    limit = core.timeouts.inventory
    request = Ask(name, "inventory", {}, key=f"inventory:{uuid.uuid4().hex}", silence=limit, limit=limit)
    try:
        answer = ask(core, request)
    except HomeportError as error:
        failed(core, name, error.to_json())
        raise
    return take(core, name, answer)


def start_machine(core: Core, name: str, vm: str) -> Machine:
    """Power a machine on at its site. Raises what the site says (fenced, not found …), SiteUnreachable."""
    limit = core.timeouts.inventory
    request = Ask(name, "start-machine", {"vm": vm}, key=f"start:{uuid.uuid4().hex}", silence=limit, limit=limit)
    return Machine.from_json(ask(core, request)["machine"])


def probe_store(core: Core, name: str, store: str) -> Json:
    """The site tries ``store`` (a URL) out: {"free"}: bytes, None where it doesn't say. Raises what it found wrong."""
    limit = core.timeouts.probe_store
    request = Ask(name, "probe-store", {"store": store}, key=f"probe:{uuid.uuid4().hex}", silence=limit, limit=limit)
    return ask(core, request)


def machines(core: Core, name: str, *, fresh: bool = False) -> list[Json]:
    """By name, as the vault knows them; ``fresh``: the site is asked first, which raises what :func:`discover` does."""
    if fresh:
        discover(core, name)
    with core.database.read() as session:
        site(session, name)
        found: list[Any] = [row.data for row in _rows(session, name)]
    return found


def _rows(session: Session, name: str) -> list[MachineRow]:
    return list(session.scalars(select(MachineRow).where(MachineRow.site == name).order_by(MachineRow.name)))


def machine(core: Core, name: str, wanted: str) -> Machine:
    """By name or uuid; what the last inventory does not know is asked for. Raises :class:`MachineNotFound`."""
    for fresh in (False, True):
        found = [m for m in machines(core, name, fresh=fresh) if wanted in (m["name"], m["uuid"])]
        if len(found) == 1:
            return Machine.from_json(found[0])
    if found:
        raise MachineNotFound(
            f"{len(found)} machines at site {name!r} are called {wanted!r}.", remedy="Name it by its uuid."
        )
    raise MachineNotFound(f"Site {name!r} sees no machine {wanted!r}.")
