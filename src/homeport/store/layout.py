"""What a timeline's keys say, before any object is opened: which points, thinning records, epochs there are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property

from homeport.domain.points import PointId
from homeport.store import names
from homeport.store.objects import Objects

Range = tuple[int, int]
"""First and last number, both included."""


class Layout:
    """Each list is asked for when something of it is first wanted, thinning records before points: a thinning record
    that appears later covers points that an older list still shows."""

    def __init__(self, objects: Objects, machine: str, timeline: str) -> None:
        self.timeline = timeline
        self._objects = objects
        self._machine = machine
        self.prefix = names.timeline(machine, timeline)

    def _names(self, kind: str) -> list[str]:
        prefix = f"{self.prefix}{kind}/"
        return [key[len(prefix) :] for key, _ in self._objects.list(prefix)]

    # -- thinning records ---

    @cached_property
    def _thin_names(self) -> dict[Range, list[tuple[int, str]]]:
        found: dict[Range, list[tuple[int, str]]] = {}
        for file in self._names("thin"):
            reach, revision = parse_thin(file)
            found.setdefault(reach, []).append((revision, f"{self.prefix}thin/{file}"))
        return {reach: sorted(keys) for reach, keys in found.items()}

    @cached_property
    def _force(self) -> tuple[list[Range], list[Range]]:
        return in_force((reach, keys[-1][0]) for reach, keys in self._thin_names.items())

    @property
    def thins(self) -> list[Range]:
        """Thinning records in force: disjoint, ascending."""
        return self._force[0]

    @property
    def idle_thins(self) -> list[Range]:
        """Those that one of a higher revision replaced, or that never came into force."""
        return self._force[1]

    @cached_property
    def replaceable(self) -> set[str]:
        """Keys of thinning records that aren't needed as long as those in force are there."""
        idle = (key for reach in self.idle_thins for _, key in self._thin_names[reach])
        return {*idle, *self.replaced_thins}

    def thin_key(self, reach: Range) -> str:
        """The key of the record of this range: of its highest revision."""
        return self._thin_names[reach][-1][1]

    def revision(self, reach: Range) -> int:
        return self._thin_names[reach][-1][0]

    @property
    def replaced_thins(self) -> list[str]:
        """Keys of thinning records that a higher revision of the same range replaced (leftovers)."""
        return [key for keys in self._thin_names.values() for _, key in keys[:-1]]

    @cached_property
    def _ending(self) -> dict[int, Range]:
        return {last: (first, last) for first, last in self.thins}

    def thin_ending_at(self, number: int) -> Range | None:
        return self._ending.get(number)

    def thin_over(self, number: int) -> Range | None:
        """The thinning record in force that the number was dropped into."""
        place = bisect_left(self.thins, (number + 1,)) - 1
        return self.thins[place] if place >= 0 and number <= self.thins[place][1] else None

    def covered(self, number: int) -> bool:
        """The number was dropped."""
        return self.thin_over(number) is not None

    # -- points ---

    @cached_property
    def records(self) -> list[int]:
        """Numbers with an object (points and the END mark), ascending."""
        _ = self._thin_names
        return sorted(int(name) for name in self._names("point"))

    @cached_property
    def known(self) -> frozenset[int]:
        """As :attr:`records`, to look numbers up."""
        return frozenset(self.records)

    @property
    def live(self) -> list[int]:
        """Numbers of records that weren't dropped (points and the END mark), ascending."""
        return [number for number in self.records if not self.covered(number)]

    @cached_property
    def hidden_upto(self) -> int:
        """Points up to this number are not offered; -1: all are."""
        return max((int(name) for name in self._names("hide")), default=-1)

    # -- layers ---

    @cached_property
    def layers(self) -> dict[Range, int]:
        """Merged indexes that lie there, and their bytes."""
        prefix = self.prefix + "layer/"
        return {_range(key[len(prefix) :]): size for key, size in self._objects.list(prefix)}

    @cached_property
    def _layers_ending(self) -> dict[int, list[Range]]:
        result: dict[int, list[Range]] = {}
        for reach in sorted(self.layers):
            result.setdefault(reach[1], []).append(reach)
        return result

    def add_layer(self, reach: Range, size: int) -> None:
        """It was just built."""
        self.layers[reach] = size
        self.__dict__.pop("_layers_ending", None)

    def crossed(self, reach: Range) -> bool:
        """A thinning record in force crosses the range: who follows the links doesn't come by both its ends."""
        return any(
            over is not None and over[side] != reach[side]
            for side, over in ((0, self.thin_over(reach[0])), (1, self.thin_over(reach[1])))
        )

    def layers_ending_at(self, number: int) -> list[Range]:
        """Layers that stand for the run of points that ends here, the longest first."""
        return [reach for reach in self._layers_ending.get(number, ()) if not self.crossed(reach)]

    def link(self, number: int) -> tuple[Range, str] | None:
        """What says what ``number`` looked like, and the key of it: a thinning record that ends there, or the point's
        own record, which may turn out not to be there. None: the number was dropped."""
        over = self.thin_over(number)
        if over is None:
            return (number, number), names.point(self._machine, PointId(self.timeline, number))
        return (over, self.thin_key(over)) if over[1] == number else None


def scan(objects: Objects, machine: str, timeline: str) -> Layout:
    """A timeline as it is now."""
    return Layout(objects, machine, timeline)


def in_force(thins: Iterable[tuple[Range, int]]) -> tuple[list[Range], list[Range]]:
    """Which thinning records (range and revision) count: of those that have a number in common the one of the highest
    revision, and of one revision the longest. Returns (in force, idle), ascending."""
    force: list[Range] = []
    idle: list[Range] = []
    for reach, _ in sorted(thins, key=lambda thin: (-thin[1], thin[0][0] - thin[0][1], thin[0])):
        place = bisect_left(force, reach)
        if any(crosses(reach, other) for other in force[max(place - 1, 0) : place + 1]):
            idle.append(reach)
        else:
            force.insert(place, reach)
    return force, sorted(idle)


def crosses(one: Range, other: Range) -> bool:
    """They have a number in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def contains(outer: Range, inner: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1])


def _range(name: str) -> Range:
    first, last = name.split("-")
    return int(first), int(last)


def parse_thin(name: str) -> tuple[Range, int]:
    """Of the last piece of a thinning record's key: range and revision."""
    first, last, *revision = name.split("-")
    return (int(first), int(last)), int(revision[0]) if revision else 0


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
    found = layout.link(number)
    if found is None or ("/point/" in found[1] and number not in layout.known):
        return None
    return found[1]
