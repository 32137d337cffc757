"""What a timeline's keys say, before any object is opened: which points, thinning records, epochs there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from homeport.domain.points import PointId
from homeport.store import names
from homeport.store.objects import Objects

Range = tuple[int, int]
"""First and last number, both included."""


@dataclass
class Layout:
    """``records``: numbers with an object (points and the END mark); ``thins``: thinning records in force, disjoint,
    ascending; ``idle_thins``: those that a longer one replaced or that never came into force (leftovers)."""

    timeline: str
    records: list[int] = field(default_factory=list)
    thins: list[Range] = field(default_factory=list)
    idle_thins: list[Range] = field(default_factory=list)
    hidden_upto: int = -1

    def __post_init__(self) -> None:
        self._ending = {last: (first, last) for first, last in self.thins}

    def covered(self, number: int) -> bool:
        """The number was dropped."""
        return any(first <= number <= last for first, last in self.thins)

    @property
    def live(self) -> list[int]:
        """Numbers of records that weren't dropped (points and the END mark), ascending."""
        thins = iter(self.thins)
        current = next(thins, None)
        result = []
        for number in self.records:
            while current and current[1] < number:
                current = next(thins, None)
            if not current or number < current[0]:
                result.append(number)
        return result

    def thin_ending_at(self, number: int) -> Range | None:
        return self._ending.get(number)


def scan(objects: Objects, machine: str, timeline: str) -> Layout:
    """Three lists: points, thinning records, hidings."""
    prefix = names.timeline(machine, timeline)
    # Thinning records first: one that appears later covers points that the next list still shows.
    thins = [_range(key) for key, _ in objects.list(prefix + "thin/")]
    records = [_number(key) for key, _ in objects.list(prefix + "point/")]
    hidden = [_number(key) for key, _ in objects.list(prefix + "hide/")]
    force, idle = in_force(thins, set(records))
    return Layout(timeline, sorted(records), force, idle, max(hidden, default=-1))


def in_force(thins: Iterable[Range], records: set[int]) -> tuple[list[Range], list[Range]]:
    """Which thinning records count. A longer one replaces those that it contains. Two that cross were begun at once by
    two that knew nothing of each other, and one of them died before it looked; the other may have begun to delete:
    the one that covers all numbers that are gone counts. Returns (in force, idle)."""
    everything = sorted(set(thins), key=lambda reach: (reach[0], -reach[1]))
    force: list[Range] = []
    idle: list[Range] = []
    for candidate in everything:
        last = force[-1] if force else None
        if last is None or candidate[0] > last[1]:
            force.append(candidate)
        elif candidate[1] <= last[1]:
            idle.append(candidate)
        else:
            own = {reach: _own(reach, everything) for reach in (last, candidate)}
            gone = (own[last] | own[candidate]) - records
            weight = {reach: (gone <= own[reach], bool(own[reach]) and min(own[reach]) in gone) for reach in own}
            if weight[candidate] > weight[last]:
                force[-1] = candidate
                idle.append(last)
            else:
                idle.append(candidate)
    # What only an idle one had replaced is in force again.
    for reach in list(idle):
        if not any(crosses(reach, other) for other in force):
            force.append(reach)
            idle.remove(reach)
    return sorted(force), idle


def crosses(one: Range, other: Range) -> bool:
    """They have a number in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def contains(outer: Range, inner: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _own(reach: Range, everything: list[Range]) -> set[int]:
    """The numbers that this record dropped itself, not those that it took over from smaller ones."""
    inner = [other for other in everything if other != reach and contains(reach, other)]
    return {n for n in range(reach[0], reach[1] + 1) if not any(first <= n <= last for first, last in inner)}


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1])


def _range(key: str) -> Range:
    first, last = key.rsplit("/", 1)[1].split("-")
    return int(first), int(last)


def epochs(objects: Objects, machine: str, timeline: str) -> list[int]:
    return [_number(key) for key, _ in objects.list(names.timeline(machine, timeline) + "epoch/")]


def boundary(objects: Objects, machine: str, timeline: str) -> int:
    """Everything below this number may have been deleted."""
    return max((_number(key) for key, _ in objects.list(names.timeline(machine, timeline) + "boundary/")), default=0)


def part_numbers(objects: Objects, machine: str, timeline: str) -> list[int]:
    return [_number(key) for key, _ in objects.list(names.timeline(machine, timeline) + "part/")]


def layer_key(machine: str, layout: Layout, number: int) -> str | None:
    """The key of the record that says what ``number`` looked like: a thinning record that ends there, or the point's
    own. None: that can't be said any more (dropped), or there was no such point."""
    ending = layout.thin_ending_at(number)
    if ending is not None:
        return names.thin(machine, layout.timeline, *ending)
    if number in layout.records and not layout.covered(number):
        return names.point(machine, PointId(layout.timeline, number))
    return None
