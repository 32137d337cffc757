"""Which items another process server of their site should have, and which site needs one more: only suggested."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.balance import Advice, advise
from homeport.domain.process_servers import WINDOW
from homeport.vault import inventory, server_health
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, SiteRow


def suggestions(core: Core, site: str | None = None) -> list[Json]:
    """Of one site, or of all: {"site", "moves": [{"item", "item_name", "from", "to", "why", "from_load", "to_load"}],
    "add"}, where there is anything; loads: before and after, as shares of what one process server can do. Of a site
    that isn't heard of nothing is known. Raises SiteNotFound."""
    with core.database.read() as session:
        every = select(SiteRow).where(SiteRow.removed.is_(None)).order_by(SiteRow.name)
        rows = [inventory.site(session, site)] if site is not None else list(session.scalars(every))
        found = [(row.name, _advice(core, session, row)) for row in rows]
        names = dict(session.execute(select(ItemRow.id, ItemRow.name)).all()) if any(one for _, one in found) else {}
    return [
        {
            "site": name,
            "moves": [
                {
                    "item": move.item,
                    "item_name": names.get(move.item, move.item),
                    "from": move.source,
                    "to": move.to,
                    "why": move.why,
                    "from_load": [round(load, 4) for load in move.source_load],
                    "to_load": [round(load, 4) for load in move.to_load],
                }
                for move in advice.moves
            ],
            "add": list(advice.add),
        }
        for name, advice in found
        if advice is not None and (advice.moves or advice.add)
    ]


def count(core: Core) -> Json:
    """{"moves": how many, "add": sites that need another process server}"""
    found = suggestions(core)
    return {"moves": sum(len(each["moves"]) for each in found), "add": [each["site"] for each in found if each["add"]]}


def _advice(core: Core, session: Session, site: SiteRow) -> Advice | None:
    silence = core.liveness.silence(site.name)
    if silence is None or silence > WINDOW:
        return None
    servers = server_health.fleet(core, session, site)
    return advise(servers, server_health.bound(session, site.name, servers))
