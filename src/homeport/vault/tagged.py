"""Points that an operator tagged: kept past their retention, until their tag is taken back.

Tags lie in the points' own records and never change there; which of them count no more is the item's tie ``untagged``.
After a commit whose points' time is up, the item's tie ``tagged`` tells of the tagged ones: they are no longer
offered, and lie in the store until they are untagged or the item's points go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.points import PointId, PointInfo
from homeport.domain.policy import Policy
from homeport.vault.database import ItemRow, Json, PointRow, now

OWN = frozenset({"import", "seed", "final"})
"""Tags that Homeport gives by itself."""


class NotTagged(HomeportError):
    code = "point.not-tagged"
    remedy = "See `homeport points ITEM --tagged` for those that are."


def untagged(item: ItemRow) -> frozenset[str]:
    """Ids of points whose tags count no more."""
    return frozenset(item.ties.get("untagged", ()))


def as_tagged_now(points: Iterable[PointInfo], item: ItemRow) -> list[PointInfo]:
    """Without the tags that were taken back."""
    taken_back = untagged(item)
    return [
        replace(point, tags=tuple(tag for tag in point.tags if tag in OWN)) if str(point.id) in taken_back else point
        for point in points
    ]


def is_tagged(point: PointInfo) -> bool:
    return bool(set(point.tags) - OWN)


def tagged_of(session: Session, item: ItemRow, timelines: Sequence[str] | None = None) -> list[PointInfo]:
    """The item's tagged points, offered or not, oldest first. ``timelines``: only of these."""
    wanted = timelines if timelines is not None else [each for site in item.timelines.values() for each in site]
    rows = session.scalars(select(PointRow).where(PointRow.timeline.in_(wanted)))
    there = {point.id: point for point in map(PointInfo.from_json, (row.data for row in rows))}
    there |= {point.id: point for point in _left(item) if point.id.timeline in wanted}
    points = as_tagged_now(there.values(), item)
    return sorted((point for point in points if is_tagged(point)), key=lambda point: (point.time, point.id))


def _left(item: ItemRow) -> list[PointInfo]:
    """Those that only their tag keeps, or kept until it was taken back just now."""
    return [PointInfo.from_json(point) for point in item.ties.get("tagged", ())]


def newest_left(item: ItemRow, timeline: str) -> int:
    """The highest number among them; -1 where there is none of ``timeline``."""
    return max((point.id.number for point in _left(item) if point.id.timeline == timeline), default=-1)


def outlive(session: Session, item: ItemRow, timelines: Sequence[str]) -> None:
    """The other points of ``timelines`` are gone; what is tagged of them is told of by the tie."""
    stay = [point.to_json() for point in tagged_of(session, item, timelines)]
    others = [point.to_json() for point in _left(item) if point.id.timeline not in timelines]
    ties: Json = {**item.ties, "tagged": [*others, *stay]}
    item.ties = {name: tie for name, tie in ties.items() if tie or name != "tagged"}


def summary(session: Session, item: ItemRow, offered: Sequence[PointInfo], policy: Policy) -> Json:
    """{"count", "stored_bytes", "past_retention": how many of them only their tag keeps}."""
    shown = {point.id for point in offered}
    others = [
        each for site in item.timelines.values() for each in site if each not in {one.id.timeline for one in offered}
    ]
    found = [point for point in offered if is_tagged(point)]
    found += tagged_of(session, item, others) if others else []
    newest = offered[-1].time if offered else now()
    oldest = newest - timedelta(seconds=policy.retention)
    return {
        "count": len(found),
        "stored_bytes": sum(point.stored_bytes for point in found),
        "past_retention": sum(point.id not in shown or point.time < oldest for point in found),
    }


def take_back(session: Session, item: ItemRow, name: str) -> None:
    """The point is like any other of its age from now on: thinned by the next retention or, where those are gone,
    dropped by the vault's timers. Raises :class:`NotTagged`."""
    found = next((point for point in tagged_of(session, item) if str(point.id) == name), None)
    if found is None:
        raise NotTagged(f"{name} is no tagged recovery point of {item.name}.", point=name)
    known = {str(point) for point in _known(session, item)}
    taken_back = sorted({*(each for each in untagged(item) if each in known), name})
    ties: dict[str, Any] = {**item.ties, "untagged": taken_back}
    if found.id in {point.id for point in _left(item)}:
        site = next(site for site, timelines in item.timelines.items() if found.id.timeline in timelines)
        due = {"site": site, "timelines": [found.id.timeline], "until": now().isoformat()}
        ties["kept"] = [*item.ties.get("kept", []), due]
    item.ties = ties


def _known(session: Session, item: ItemRow) -> list[PointId]:
    timelines = [each for site in item.timelines.values() for each in site]
    rows = session.execute(select(PointRow.timeline, PointRow.number).where(PointRow.timeline.in_(timelines)))
    return [*(PointId(timeline, number) for timeline, number in rows), *(point.id for point in _left(item))]
