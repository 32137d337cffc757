"""Which recovery point an operator means: by kind ("latest", …) or by its own name (reference 3).

What came first is told by the points' places in their timelines, never by their times: these are of different
machines' clocks, and a clock may step back.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from homeport.domain.errors import HomeportError
from homeport.domain.points import Consistency, PointInfo

_SHOWN = 20
IMPORTED = "import"
"""The tag of a point made of a powered-off machine's disks: where a timeline begins, not what an operator waits for."""


class PointKind(StrEnum):
    LATEST = "latest"
    """Everything received is made a point first; of a list, the newest."""
    LATEST_PROCESSED = "latest-processed"
    """The newest point that is there."""
    LATEST_APP_CONSISTENT = "latest-app-consistent"
    LATEST_MULTI_VM = "latest-multi-vm"
    """The newest that all members of a replication group have: only a group has it (groups.py)."""
    LATEST_MULTI_VM_APP_CONSISTENT = "latest-multi-vm-app-consistent"


class PointNotAvailable(HomeportError):
    """No offered point is meant by what was asked for. ``details.points``: those that are there, newest first."""

    code = "point.not-available"
    remedy = "See `homeport points ITEM` and choose one of those."


def offered(points: Sequence[PointInfo], lineage: Sequence[str]) -> list[PointInfo]:
    """The points that an operator may choose, oldest first. ``lineage``: their timelines, oldest first."""
    place = {timeline: number for number, timeline in enumerate(lineage)}
    shown = (point for point in points if not point.hidden)
    return sorted(shown, key=lambda point: (place[point.id.timeline], point.id.number))


def choose_point(points: Sequence[PointInfo], kind: str = PointKind.LATEST) -> PointInfo:
    """The point meant by ``kind``: one of :class:`PointKind`, or "<timeline>/<number>". ``points``: oldest first.

    Raises :class:`PointNotAvailable`, listing what is there.
    """
    there = [point for point in points if not point.hidden]
    if kind in (PointKind.LATEST, PointKind.LATEST_PROCESSED):
        found = ([point for point in there if IMPORTED not in point.tags] or there)[-1:]
    elif kind == PointKind.LATEST_APP_CONSISTENT:
        found = [point for point in there if point.consistency is Consistency.APP][-1:]
    else:
        found = [point for point in there if str(point.id) == kind]
    if found:
        return found[0]
    names = [f"{point.id} ({point.time.isoformat()}, {point.consistency})" for point in reversed(there)]
    listed = "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    raise PointNotAvailable(
        f"There is no recovery point {kind!r}. There are: {listed}."
        if names
        else f"There is no recovery point {kind!r}: this item has none.",
        asked=kind,
        points=[str(point.id) for point in reversed(there)],
    )


def offered_as(points: Sequence[PointInfo], point: PointInfo) -> list[str]:
    """The kinds that mean ``point`` now. ``points``: oldest first."""
    kinds = []
    for kind in PointKind:
        try:
            meant = choose_point(points, kind)
        except PointNotAvailable:
            continue
        if meant.id == point.id:
            kinds.append(str(kind))
    return kinds
