"""What changed of jobs and items since an instant, for those who follow along.

Rows carry the instant of their last change, so a follower that was away is told of each thing that changed meanwhile
once, as it is now, however long it was away: nothing is kept for it. A change is told at least once: transactions
commit in another order than their instants, so a little is looked at again, and what was told already is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from homeport.vault import items, jobs
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, JobRow, Json

OVERLAP = timedelta(seconds=5)
"""How much later than its instant a change may become visible."""

KINDS = ("job", "item")


@dataclass(frozen=True)
class Change:
    """``kind``: "job" or "item"; ``shown``: as the API shows it."""

    kind: str
    instant: datetime
    shown: Json


class Feed:
    """For one follower. ``since``: what changed after it is told; ``item``: an id, to hear of nothing else."""

    def __init__(self, core: Core, since: datetime, kinds: Iterable[str] = KINDS, item: str | None = None) -> None:
        self._core = core
        self._since = since
        self._kinds = frozenset(kinds)
        self._item = item
        self._told: dict[tuple[str, str], datetime] = {}

    def take(self) -> list[Change]:
        """What is new, the oldest first."""
        found: list[Change] = []
        edge = self._since - OVERLAP
        with self._core.database.read() as session:
            if "job" in self._kinds:
                changed = select(JobRow).where(JobRow.changed > edge).order_by(JobRow.changed)
                for job in session.scalars(changed if self._item is None else changed.where(JobRow.item == self._item)):
                    if job.changed is not None and self._told.get(("job", job.id)) != job.changed:
                        found.append(Change("job", job.changed, jobs.to_json(session, job)))
            if "item" in self._kinds:
                touched = select(ItemRow).where(ItemRow.changed > edge).order_by(ItemRow.changed)
                for item in session.scalars(touched if self._item is None else touched.where(ItemRow.id == self._item)):
                    if item.changed is not None and self._told.get(("item", item.id)) != item.changed:
                        shown = {
                            **items.to_json(self._core, session, item),
                            "removed": item.removed.isoformat() if item.removed else None,
                        }
                        found.append(Change("item", item.changed, shown))
        found.sort(key=lambda change: change.instant)
        for change in found:
            self._told[change.kind, change.shown["id"]] = change.instant
            self._since = max(self._since, change.instant)
        self._told = {name: instant for name, instant in self._told.items() if instant > self._since - OVERLAP}
        return found
