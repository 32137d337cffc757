"""What lies beside an item's points, so that a vault can be rebuilt from the stores alone: the item itself, its policy,
its sites. Written again when something of it has changed, once no job is at work."""

from __future__ import annotations

import hashlib
import json
import secrets as random

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault import items
from homeport.vault.backup import ask_once
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, SiteRow
from homeport.vault.dump import row_to_json
from homeport.vault.work import Ask, item_params

log = structlog.get_logger(__name__)

KIND = "describe"
LIMIT = 10.0
"""Seconds that a site may take; it is told again later."""
_NOT_SHOWN = frozenset({"machine_key", "job", "replication", "crossed", "changed"})
"""Columns of an item that are secret, or of the moment."""
_OF_SITES = ("name", "provider", "path", "store", "created")


def describe(session: Session, item: ItemRow, site: str) -> Json:
    """What is written at ``site``. ``fence`` in the ``row`` tells which of two descriptions is the later one."""
    sites = [session.get_one(SiteRow, name) for name in (item.home, item.away)]
    return {
        "machine": item.description,
        "item": {"id": item.id, "name": item.name, "from": item.home, "to": item.away},
        "policy": items.policy_of(session, item.policy).to_json(),
        "site": site,
        "sites": [row_to_json({name: getattr(row, name) for name in _OF_SITES}) for row in sites],
        "row": row_to_json(
            {
                column.name: getattr(item, column.name)
                for column in ItemRow.__table__.columns
                if column.name not in _NOT_SHOWN
            }
        ),
    }


class Descriptions:
    """What was told last, by this process: the same is not told again. (The store doesn't keep the same twice.)"""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._told: dict[tuple[str, str], str] = {}

    def tell_changes(self) -> None:
        """Each site that holds points of an item is told what has changed; one that isn't there, another time."""
        for item, site in self._changed():
            self._tell(item, site)

    def _changed(self) -> list[tuple[str, str]]:
        with self._core.database.read() as session:
            has_points = ItemRow.removed.is_(None) | ItemRow.purge_at.is_not(None)
            rows = session.scalars(select(ItemRow).where(has_points, ItemRow.job.is_(None)))
            return [
                (item.id, site)
                for item in rows
                for site, timelines in item.timelines.items()
                if timelines and self._told.get((item.id, site)) != _digest(describe(session, item, site))
            ]

    def _tell(self, id: str, site: str) -> None:
        with self._core.database.read() as session:
            item = session.get_one(ItemRow, id)
            if item.job is not None:
                return
            description = describe(session, item, site)
            # The fence as it is, not the next one: what an operation asks for meanwhile must not be refused over this.
            params = {**item_params(self._core, item), "description": description}
        try:
            ask_once(self._core, Ask(site, KIND, params, key=f"describe:{random.token_hex(8)}", limit=LIMIT))
        except HomeportError as error:
            log.info("item not described", item=id, site=site, code=error.code)
            return
        self._told[id, site] = _digest(description)


def _digest(description: Json) -> str:
    row = {name: value for name, value in description["row"].items() if name != "fence"}
    return hashlib.sha256(json.dumps({**description, "row": row}, sort_keys=True, default=str).encode()).hexdigest()
