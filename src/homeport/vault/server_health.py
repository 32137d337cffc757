"""How the process servers of the sites are, by what their sites last told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.balance import advise
from homeport.domain.churn import traffic_of
from homeport.domain.process_servers import Vitals, judge, vitals_of
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


def fleet(core: Core, session: Session, site: SiteRow) -> tuple[Vitals, ...]:
    """The process servers of a site, each with all items that it has, be it as the vault alone remembers."""
    found = process_servers(site.name, site.facts, core.liveness.silence(site.name))
    told = {item for server in found for item in server.items}
    remembered: dict[str, Json] = {}
    for item in _replicating(session, site.name):
        if item.id not in told:
            server = item.replication.get("process_server") or site.name
            remembered.setdefault(server, {})[item.id] = traffic_of(item.replication.get("traffic")).whole
    return tuple(replace(server, items={**server.items, **remembered.get(server.name, {})}) for server in found)


def bound(session: Session, site: str, servers: tuple[Vitals, ...]) -> set[str]:
    """Items that can't be given to another process server now: members of a group, whose points meet at one; those that
    a job is at work on; and what the vault doesn't know as replicating from there."""
    free = {item.id for item in _replicating(session, site) if item.group_name is None and item.job is None}
    return {item for server in servers for item in server.items} - free


def _replicating(session: Session, site: str) -> list[ItemRow]:
    rows = session.scalars(
        select(ItemRow).where(ItemRow.removed.is_(None), (ItemRow.home == site) | (ItemRow.away == site))
    )
    return [row for row in rows if row.replicate is not None and row.replicate["at"] == site]


def shown(core: Core, name: str) -> Json:
    """A server: what the vault knows of it; of a process server also ``process_server``: {"health", "reasons",
    "moves": items that another would better have, "items": statistics of each that it replicates, null where it has
    told none, and what it told of itself}. Raises ServerNotFound."""
    with core.database.read() as session:
        row = session.get(ServerRow, name)
        site = site_of(session, name)
        if site is None and (row is None or row.removed is not None):
            raise ServerNotFound(f"There is no server {name!r}.")
        answer = {"server": None if row is None else server_json(core, session, row), "process_server": None}
        if site is None:
            return answer
        servers, told = fleet(core, session, site), told_of(site.facts, name)
        names = dict(session.execute(select(ItemRow.id, ItemRow.name)).all())
        advice = advise(servers, bound(session, site.name, servers))
    own = next(vitals for vitals in servers if vitals.name == name)
    grade, reasons = judge(own)
    moves = [{"item": names.get(move.item, move.item), "to": move.to} for move in advice.moves if move.source == name]
    items = {**dict.fromkeys(own.items), **(told.pop("items", None) or {})}
    answer["process_server"] = {
        **{"name": name, "site": site.name, "health": str(grade), "reasons": reasons, "moves": moves},
        **{"told": told, "items": {names.get(item, item): statistics for item, statistics in items.items()}},
    }
    return answer


def site_of(session: Session, name: str) -> SiteRow | None:
    """The site that tells of a process server of this name."""
    for site in session.scalars(select(SiteRow).where(SiteRow.removed.is_(None))):
        if any(vitals.name == name for vitals in process_servers(site.name, site.facts, None)):
            return site
    return None


def told_of(facts: Mapping[str, Any], name: str) -> Json:
    """What a process server of a site told of itself."""
    servers = facts.get("servers")
    if not isinstance(servers, list):
        return dict(facts.get("process_server") or {})
    told = next((server for server in servers if isinstance(server, dict) and server.get("name") == name), {})
    return dict(told.get("process_server") or {})


def with_told(facts: Json, news: Mapping[str, Json]) -> Json:
    """A site's facts with what process servers told since, by name."""
    servers = facts.get("servers")
    if not isinstance(servers, list):
        own = facts.get("process_server")
        told: Json = next(iter(news.values()), {})
        return {**facts, "process_server": {**own, **told}} if isinstance(own, dict) else facts
    return {
        **facts,
        "servers": [
            {**server, "process_server": {**(server.get("process_server") or {}), **news[str(server.get("name"))]}}
            if isinstance(server, dict) and server.get("name") in news
            else server
            for server in servers
        ],
    }
