"""Points that a commit left: offered for the retention of their policy, then dropped.

An item's tie ``kept`` lists them: [{"site", "timelines", "until"}]. Then they leave the list; tagged ones stay in the
store, like what something still reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from homeport.domain.points import PointId
from homeport.vault.database import ItemRow, Json


def points_kept(item: ItemRow, at: datetime) -> bool:
    """Whether the points of the item's present timelines are among them."""
    return any(
        set(item.lineage) <= set(entry["timelines"]) and not is_due(entry["until"], at)
        for entry in item.ties.get("kept", [])
    )


def is_due(until: str, at: datetime) -> bool:
    return datetime.fromisoformat(until) <= at


def points_to_drop(item: ItemRow, newest: Mapping[str, int], tagged: Iterable[str] = ()) -> Json:
    """What a site is asked to drop of timelines, up to the ``newest`` number of each: all points but the ``tagged`` and
    those that a later operation on the item reads."""
    return {"timelines": dict(newest), "keep": sorted({*tagged, *map(str, points_read_later(item))})}


def points_read_later(item: ItemRow) -> Iterator[PointId]:
    """What a later operation on the item reads, or a machine that was started from it."""
    read = {name: tie for name, tie in item.ties.items() if name not in ("tagged", "untagged")}
    return named_points([read, item.failover_point, item.test])


def named_points(value: Any) -> Iterator[PointId]:
    """All ids of points within a JSON value."""
    if isinstance(value, dict):
        for each in value.values():
            yield from named_points(each)
    elif isinstance(value, list):
        for each in value:
            yield from named_points(each)
    elif isinstance(value, str) and "/" in value:
        try:
            yield PointId.parse(value)
        except ValueError:
            return
