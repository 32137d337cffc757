"""Replication groups in the database: their members, the points that these share, and the jobs begun on all at once.

A group is its members: it is there as long as an item names it.

What the jobs of one operation on a whole group know of each other lies in the params of each, ``group``: {"name",
"jobs": {item: job}}, and, once one of them has decided it for all, "chosen": {item: point}.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain import groups
from homeport.domain.choice import PointKind
from homeport.domain.errors import HomeportError
from homeport.domain.groups import Common, Member
from homeport.domain.points import PointInfo
from homeport.vault import items
from homeport.vault.database import ItemRow, JobRow, Json, TaskRow, now

ENDED = ("succeeded", "failed", "cancelled")
SHOWN = 200
"""Common points that are listed of a group."""


class GroupNotFound(HomeportError):
    code = "group.not-found"
    remedy = "See `homeport group list`; a group begins with `homeport protect MACHINE --group GROUP`."


def names(session: Session) -> list[str]:
    wanted = select(ItemRow.group_name).where(ItemRow.removed.is_(None), ItemRow.group_name.is_not(None)).distinct()
    return sorted(name for name in session.scalars(wanted) if name is not None)


def members(session: Session, group: str) -> list[ItemRow]:
    """By name; none where there is no such group."""
    wanted = select(ItemRow).where(ItemRow.removed.is_(None), ItemRow.group_name == group).order_by(ItemRow.name)
    return list(session.scalars(wanted))


def find(session: Session, group: str) -> list[ItemRow]:
    """Its members. Raises :class:`GroupNotFound`."""
    found = members(session, group)
    if not found:
        raise GroupNotFound(f"There is no replication group {group!r}.")
    return found


def others(session: Session, item: ItemRow) -> list[str]:
    """The names of its fellow members."""
    if item.group_name is None:
        return []
    return [other.name for other in members(session, item.group_name) if other.id != item.id]


def as_member(item: ItemRow) -> Member:
    return Member(item.name, item.home, item.away, item.policy, item.direction, item.state)


def points_of(session: Session, rows: list[ItemRow]) -> dict[str, list[PointInfo]]:
    """By item id."""
    return {item.id: items.points_of(session, item) for item in rows}


def choose(session: Session, group: str, kind: str) -> Common:
    """Raises :class:`GroupNotFound`, NoCommonPoint."""
    return groups.choose_common(group, points_of(session, find(session, group)), kind)


def to_json(session: Session, group: str) -> Json:
    """Raises :class:`GroupNotFound`."""
    rows = find(session, group)
    shared = groups.common(group, points_of(session, rows))
    by_id = {item.id: item.name for item in rows}
    return {
        "name": group,
        "from": rows[0].home,
        "to": rows[0].away,
        "policy": rows[0].policy,
        "members": [
            {"item": item.id, "name": item.name, "state": str(item.state), "active_site": item.active_site}
            for item in rows
        ],
        "rpo_seconds": max(0.0, (now() - shared[0].time).total_seconds()) if shared else None,
        "common_points": [_common_json(each, by_id) for each in shared[:SHOWN]],
    }


def _common_json(common: Common, by_id: Mapping[str, str]) -> Json:
    return {
        "round": common.round,
        "time": common.time.isoformat(),
        "consistency": str(common.consistency),
        "points": {by_id[item]: str(point) for item, point in common.points.items()},
    }


# ── the jobs of one operation ───────────────────────────────────────────────────────────────────────────────────────


def not_there_yet(session: Session, together: Json, own: str, step: str) -> list[str]:
    """The jobs begun with the job ``own`` that have not come past ``step`` and may still do so."""
    found = []
    for job in together["jobs"].values():
        if job == own:
            continue
        row, task = session.get(JobRow, job), session.get(TaskRow, (job, step))
        if row is None or row.state in ENDED or (task is not None and task.state != "running"):
            continue
        found.append(job)
    return found


def decide(session: Session, own: str, together: Json, kind: str) -> dict[str, str]:
    """Each member's point, by item: decided once, in this transaction, for all jobs that were begun with ``own``, since
    what the decision rests on may change from one job's look to the next one's. Raises NoCommonPoint."""
    rows = [row for name in {own, *together["jobs"].values()} if (row := session.get(JobRow, name)) is not None]
    for row in rows:
        known: dict[str, str] | None = row.params["group"].get("chosen")
        if known is not None:
            return known
    chosen = _last_points(session, together) if kind == PointKind.LATEST_MULTI_VM else None
    if chosen is None:
        common = choose(session, together["name"], kind)
        chosen = {item: str(point) for item, point in common.points.items()}
    for row in rows:
        row.params = {**row.params, "group": {**row.params["group"], "chosen": chosen}}
    return chosen


def _last_points(session: Session, together: Json) -> dict[str, str] | None:
    """The last point of each member, where all machines stand still by now, shut down as planned with all that they
    wrote in the store: then these are of this instant. None where one of them went on, or may."""
    last: dict[str, str] = {}
    for item, job in together["jobs"].items():
        row, stopped = session.get_one(JobRow, job), session.get_one(ItemRow, item).ties.get("stopped")
        if row.state in ENDED or row.cancel or stopped is None or not stopped["complete"]:
            return None
        last[item] = stopped["point"]
    return last if set(last) == {item.id for item in find(session, together["name"])} else None
