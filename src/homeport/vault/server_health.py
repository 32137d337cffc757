"""How the process servers of the sites are, by what their sites last told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.process_servers import Vitals, judge, suggest, vitals_of
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, ServerRow, SiteRow, now
from homeport.vault.servers import ServerNotFound, server_json


def process_servers(site: str, facts: Mapping[str, Any], silence: float | None) -> tuple[Vitals, ...]:
    """Those of a site. ``silence``: since its configuration server was heard of: nobody tells of the others then."""
    told = facts.get("servers")
    if not isinstance(told, list):
        own = facts.get("process_server")
        return (vitals_of(site, own, silence),) if isinstance(own, dict) else ()
    found = []
    for server in told:
        if not isinstance(server, dict) or server.get("role") != "process-server":
            continue
        vitals = server.get("process_server")
        found.append(
            vitals_of(str(server.get("name")), vitals if isinstance(vitals, dict) else {}, _silence(server, silence))
        )
    return tuple(found)


def _silence(server: Mapping[str, Any], silence: float | None) -> float | None:
    if server.get("state") == "connected":
        return silence
    try:
        heard = datetime.fromisoformat(str(server.get("last_contact")))
        return max(0.0, (now() - heard).total_seconds())
    except (ValueError, TypeError):
        return None


def shown(core: Core, name: str) -> Json:
    """A server: what the vault knows of it; of a process server also ``process_server``: {"health", "reasons",
    "moves": items that another would better have, and what it told of itself}. Raises ServerNotFound."""
    with core.database.read() as session:
        row = session.get(ServerRow, name)
        found = _find(core, session, name)
        if found is None and (row is None or row.removed is not None):
            raise ServerNotFound(f"There is no server {name!r}.")
        answer = {"server": None if row is None else server_json(core, session, row), "process_server": None}
        if found is None:
            return answer
        site, fleet, told = found
        names = dict(session.execute(select(ItemRow.id, ItemRow.name)).all())
    own = next(vitals for vitals in fleet if vitals.name == name)
    grade, reasons = judge(own)
    moves = [{"item": names.get(move.item, move.item), "to": move.to} for move in suggest(fleet) if move.source == name]
    items = told.pop("items", None) or {}
    answer["process_server"] = {
        **{"name": name, "site": site, "health": str(grade), "reasons": reasons, "moves": moves},
        **{"told": told, "items": {names.get(item, item): statistics for item, statistics in items.items()}},
    }
    return answer


def _find(core: Core, session: Session, name: str) -> tuple[str, tuple[Vitals, ...], Json] | None:
    """The site, all its process servers, and what this one told."""
    for site in session.scalars(select(SiteRow).where(SiteRow.removed.is_(None))):
        fleet = process_servers(site.name, site.facts, core.liveness.silence(site.name))
        if any(vitals.name == name for vitals in fleet):
            servers = site.facts.get("servers")
            if not isinstance(servers, list):
                return site.name, fleet, dict(site.facts["process_server"])
            told = next(server for server in servers if isinstance(server, dict) and server.get("name") == name)
            return site.name, fleet, dict(told.get("process_server") or {})
    return None
