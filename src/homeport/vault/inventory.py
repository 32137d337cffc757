"""What machines a site sees: asked of its configuration server, kept until it is asked again."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.vault.core import Core
from homeport.vault.database import Json, MachineRow, SiteRow, now
from homeport.vault.work import Ask, ask


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


def refresh(core: Core, name: str, answer: Json) -> list[Json]:
    """Keep an inventory's answer as what the site sees now."""
    machines = [Machine.from_json(machine).to_json() for machine in answer.get("machines", [])]
    with core.database.write() as session:
        row = site(session, name)
        session.execute(delete(MachineRow).where(MachineRow.site == name))
        session.add_all(
            MachineRow(site=name, uuid=machine["uuid"], name=machine["name"], data=machine) for machine in machines
        )
        row.inventoried = now()
        row.facts = {**row.facts, **answer.get("facts", {}), "received": now().isoformat()}
    return machines


def ask_site(core: Core, name: str) -> list[Json]:
    """Raises SiteUnreachable where the site's server does not answer in time."""
    limit = core.timeouts.inventory
    request = Ask(name, "inventory", {}, key=f"inventory:{uuid.uuid4().hex}", silence=limit, limit=limit)
    return refresh(core, name, ask(core, request))


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
    """By name; asked of the site where that is wanted, or was never done."""
    with core.database.read() as session:
        known = site(session, name).inventoried is not None
        rows = session.scalars(select(MachineRow).where(MachineRow.site == name).order_by(MachineRow.name))
        found: list[Any] = [row.data for row in rows]
    return found if known and not fresh else sorted(ask_site(core, name), key=lambda machine: str(machine["name"]))


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
