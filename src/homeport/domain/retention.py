"""Which recovery points a policy's retention lets go (reference 3).

The newer, the denser: all points of the last 2 hours, then one per hour up to 1 day, one per 2 hours up to 7 days, one
per 4 hours up to 15 days (reference 3), one per day up to 90 days and one per week beyond (ours: the original keeps
nothing so long); nothing beyond the retention. The same is kept of app-consistent points by themselves, and of those
that a group's members share, so that thinning never takes the last of these from an hour.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from homeport.domain.limits import MOST_RETENTION
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.units import DAY, HOUR

DENSE = 2 * HOUR
"""Seconds for which every point is kept."""

TIERS: tuple[tuple[int, int], ...] = (
    (DAY, HOUR),
    (7 * DAY, 2 * HOUR),
    (15 * DAY, 4 * HOUR),
    (90 * DAY, DAY),
    (MOST_RETENTION, 7 * DAY),
)
"""``(up to this age, one point per this long)``, in seconds. Buckets lie on the clock, each tier's within the next's,
so that what an older tier keeps was kept by the younger one."""


def points_to_prune(
    points: Sequence[PointInfo],
    now: datetime,
    retention: float,
    leased: Collection[PointId] = (),
    shared: Collection[PointId] = (),
) -> list[PointId]:
    """What may be deleted, oldest first. ``retention`` in seconds; 0 keeps the newest point only.

    Ages count back from the newest point, not from ``now``: while no new points arrive nothing is deleted, so that a
    stale machine stays restorable. (From ``now`` only where the newest lies in the future: a clock that jumped
    forward must not cost the history.) The newest, tagged, leased and hidden points are never named, nor the newest of
    those ``shared`` with all other members of a group.
    """
    offered = sorted((point for point in points if not point.hidden), key=lambda point: (point.time, point.id.number))
    if not offered:
        return []
    head = max(offered, key=lambda point: point.time)
    newest_numbers = {max(p.id for p in offered if p.id.timeline == timeline) for timeline in _timelines(offered)}
    reference = min(head.time, now.astimezone(UTC))
    keep: set[PointId] = {head.id, *newest_numbers}
    keep.update(point.id for point in offered if point.tags or point.id in leased)
    keep |= _kept_by_age(offered, reference, retention)
    app = [point for point in offered if point.consistency is Consistency.APP]
    keep |= _kept_by_age(app, reference, retention)
    common = [point for point in offered if point.id in shared]
    keep |= {point.id for point in common[-1:]} | _kept_by_age(common, reference, retention)
    return [point.id for point in offered if point.id not in keep]


def _timelines(points: Sequence[PointInfo]) -> set[str]:
    return {point.id.timeline for point in points}


def _kept_by_age(points: Sequence[PointInfo], reference: datetime, retention: float) -> set[PointId]:
    keep: set[PointId] = set()
    newest_of: dict[tuple[int, int], PointId] = {}
    for point in points:
        age = (reference - point.time).total_seconds()
        if age <= 0:
            # From the future (a clock that jumped): it is not old, whatever the retention says.
            keep.add(point.id)
        elif retention == 0 or age > retention:
            continue
        elif age <= DENSE:
            keep.add(point.id)
        else:
            span = next((span for limit, span in TIERS if age <= limit), TIERS[-1][1])
            newest_of[span, int(point.time.timestamp()) // span] = point.id
    return keep | set(newest_of.values())
