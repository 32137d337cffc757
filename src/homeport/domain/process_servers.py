"""How well a process server is, and who has too much to do: thresholds of reference 1.4, judged over what it measured.

Sizes in bytes, spans in seconds; CPU and memory as shares of the host's (0 to 1), averaged over :data:`WINDOW`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from homeport.domain.churn import Rates, traffic_of
from homeport.domain.units import MINUTE

WINDOW = 15 * MINUTE
"""What is averaged, and how long a server may be silent (806)."""

BUSY_WARNING, BUSY_CRITICAL = 0.80, 0.95
FREE_WARNING, FREE_CRITICAL, FREE_THROTTLED = 0.30, 0.25, 0.20
PENDING_WARNING, PENDING_CRITICAL = 30 * MINUTE, 45 * MINUTE


class Grade(StrEnum):
    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Room:
    """Of the cache: its volume, or what its operator lets it have."""

    free: int
    total: int

    @property
    def share(self) -> float:
        return self.free / self.total if self.total > 0 else 0.0

    @property
    def throttled(self) -> bool:
        """No point is begun: changes stay tracked at their machines until there is room."""
        return self.share < FREE_THROTTLED


def room(volume: Room, quota: int | None, used: int) -> Room:
    """What a cache may still take: of its volume, or of a quota of which it has ``used``; the volume's end counts in
    any case."""
    if quota is None:
        return volume
    return Room(max(0, min(quota - used, volume.free)), min(quota, volume.total))


@dataclass(frozen=True)
class Vitals:
    """What a process server told of itself; None: not known. ``silence``: since it was heard of. ``pending``: how long
    the oldest point waits to be shipped; None: none waits. ``items``: bytes that each one's disks change a second."""

    name: str
    silence: float | None = None
    cpu: float | None = None
    memory: float | None = None
    cache: Room | None = None
    pending: float | None = None
    items: Mapping[str, Rates] = field(default_factory=dict)


def vitals_of(name: str, told: Mapping[str, Any], silence: float | None = None) -> Vitals:
    """Of what a process server of any version told: what has another form than is known here counts as not told."""

    def number(of: Any, key: str) -> float | None:
        value = of.get(key) if isinstance(of, Mapping) else None
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None

    cache, items = told.get("cache"), told.get("items")
    free, total = number(cache, "free"), number(cache, "total")
    known = items.items() if isinstance(items, Mapping) else ()
    return Vitals(
        name=name,
        silence=silence,
        cpu=number(told, "cpu"),
        memory=number(told, "memory"),
        cache=Room(int(free), int(total)) if free is not None and total is not None else None,
        pending=number(told, "pending"),
        items={str(item): traffic_of(statistics).whole for item, statistics in known},
    )


@dataclass(frozen=True)
class Remark:
    grade: Grade
    text: str


def _busy(what: str, share: float | None) -> list[Remark]:
    if share is None or share <= BUSY_WARNING:
        return []
    grade = Grade.CRITICAL if share > BUSY_CRITICAL else Grade.WARNING
    limit = BUSY_CRITICAL if share > BUSY_CRITICAL else BUSY_WARNING
    return [Remark(grade, f"{what}: {share:.0%} over 15 min, more than {limit:.0%}")]


def _cache(cache: Room | None) -> list[Remark]:
    if cache is None or cache.share >= FREE_WARNING:
        return []
    if cache.throttled:
        return [Remark(Grade.CRITICAL, f"cache: {cache.share:.0%} free, less than 20%: no points are begun")]
    if cache.share < FREE_CRITICAL:
        return [Remark(Grade.CRITICAL, f"cache: {cache.share:.0%} free, less than 25%")]
    return [Remark(Grade.WARNING, f"cache: {cache.share:.0%} free, less than 30%")]


def _pending(seconds: float | None) -> list[Remark]:
    if seconds is None or seconds <= PENDING_WARNING:
        return []
    grade, limit = (Grade.CRITICAL, 45) if seconds > PENDING_CRITICAL else (Grade.WARNING, 30)
    return [Remark(grade, f"the oldest point has waited {seconds / MINUTE:.0f} min to be shipped, over {limit} min")]


def gone(vitals: Vitals) -> bool:
    """Nobody replicates what it had."""
    return bool(_heartbeat(vitals.silence))


def _heartbeat(silence: float | None) -> list[Remark]:
    if silence is not None and silence <= WINDOW:
        return []
    since = "ever" if silence is None else f"for {silence / MINUTE:.0f} min"
    return [Remark(Grade.CRITICAL, f"not heard of {since} (806)")]


_ORDER = list(Grade)


def judge(vitals: Vitals) -> tuple[Grade, list[str]]:
    """The worst of all members, and each in words, the worst first. What isn't known isn't held against it."""
    remarks = [
        *_heartbeat(vitals.silence),
        *_cache(vitals.cache),
        *_pending(vitals.pending),
        *_busy("CPU", vitals.cpu),
        *_busy("memory", vitals.memory),
    ]
    remarks.sort(key=lambda remark: -_ORDER.index(remark.grade))
    return (remarks[0].grade if remarks else Grade.HEALTHY), [remark.text for remark in remarks]
