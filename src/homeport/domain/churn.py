"""What an item's disks change and what of it is shipped, as its process server tells; and how much may change.

Rates are bytes per second, sizes bytes, spans seconds. The limits are the original's (reference 8.1 and 1.5): of its
fastest target disk, of a machine at its peak, of a day of a machine and of a process server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homeport.domain.units import DAY, HOUR, MINUTE

CHURN_CODE = "78188"
"""The original's, of what changes more than it may."""
MB = 1_000_000
DISK_LIMIT = 20 * MB
MACHINE_LIMIT = 54 * MB
DAY_LIMIT = 2_000_000 * MB
"""Bytes in a day, of a machine, and of all that a process server replicates."""
SETTLED = 5 * MINUTE
"""What was seen for less is not judged: the first points carry what changed during the first copy. And how old a
backlog may be (the original's assumption)."""


@dataclass(frozen=True)
class Rates:
    now: float = 0.0
    hour: float = 0.0
    day: float = 0.0

    def __add__(self, other: Rates) -> Rates:
        return Rates(self.now + other.now, self.hour + other.hour, self.day + other.day)


@dataclass(frozen=True)
class Traffic:
    """Of an item. ``changed``: by disk; ``observed``: how long it has been looked at; ``pending``: how long the oldest
    point has waited to be shipped, None: none waits."""

    changed: Mapping[str, Rates] = field(default_factory=dict)
    observed: float = 0.0
    pending: float | None = None

    @property
    def whole(self) -> Rates:
        """Of all its disks."""
        return sum(self.changed.values(), Rates())


def traffic_of(told: Any) -> Traffic:
    """Of what a process server of any version told: what has another form than is known here counts as nothing."""
    disks = told.get("disks") if isinstance(told, Mapping) else None
    if not isinstance(disks, Mapping):
        return Traffic()
    changed = {
        str(disk): _rates(flows.get("changed") if isinstance(flows, Mapping) else None) for disk, flows in disks.items()
    }
    return Traffic(changed, _number(told, "observed") or 0.0, _number(told, "pending"))


def _rates(told: Any) -> Rates:
    return Rates(*(_number(told, span) or 0.0 for span in ("5min", "60min", "24h")))


def _number(told: Any, name: str) -> float | None:
    value = told.get(name) if isinstance(told, Mapping) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def excess(traffic: Traffic) -> list[str]:
    """In words, what changes more than it may: for an hour; or now, while points wait for longer than they should."""
    if traffic.observed < SETTLED:
        return []
    hour, day = _over(min(traffic.observed, HOUR)), _over(min(traffic.observed, DAY))
    late = traffic.pending is not None and traffic.pending > SETTLED
    found = []
    for name, rates, limit in (
        *((disk, rates, DISK_LIMIT) for disk, rates in sorted(traffic.changed.items())),
        ("the machine", traffic.whole, MACHINE_LIMIT),
    ):
        if rates.hour > limit:
            found.append(f"{name} changes {rates.hour / MB:.0f} MB/s {hour}, more than {limit // MB} MB/s")
        elif rates.now > limit and late and traffic.pending is not None:
            waited = f"the oldest point has waited {traffic.pending / MINUTE:.0f} min to be shipped"
            found.append(f"{name} changes {rates.now / MB:.0f} MB/s now, more than {limit // MB} MB/s, and {waited}")
    if traffic.whole.day * DAY > DAY_LIMIT:
        amount = traffic.whole.day * DAY / 1e12
        found.append(f"the machine changes {amount:.1f} TB a day {day}, more than {DAY_LIMIT / 1e12:.0f} TB")
    return found


def _over(seconds: float) -> str:
    return f"over {seconds / HOUR:.0f} hours" if seconds >= 2 * HOUR else f"over {seconds / MINUTE:.0f} min"
