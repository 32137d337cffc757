"""What two looks at a site's machines differ in, and when the last look is too old to be believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from homeport.domain.machines import Machine
from homeport.domain.units import MINUTE

DISCOVERY_INTERVAL = 15 * MINUTE
"""Seconds between two looks (reference 1.4): what is new at a site is seen that much later at the latest."""
STALE_AFTER = 2
"""Intervals."""

_FIELDS = ("name", "power", "memory", "cpus", "firmware", "guest_agent", "disks", "nics", "obstacles")
"""That an operator would call a change; a disk's file is not one."""


@dataclass(frozen=True)
class Change:
    """Values as Machine.to_json has them."""

    field: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        return {"field": self.field, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Changed:
    machine: Machine
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Differences:
    """Each by name."""

    new: tuple[Machine, ...] = ()
    gone: tuple[Machine, ...] = ()
    changed: tuple[Changed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.changed)

    def to_json(self) -> dict[str, Any]:
        return {
            "new": [_named(machine) for machine in self.new],
            "gone": [_named(machine) for machine in self.gone],
            "changed": [
                {**_named(each.machine), "changes": [change.to_json() for change in each.changes]}
                for each in self.changed
            ],
        }


def compare(before: Iterable[Machine], after: Iterable[Machine]) -> Differences:
    """The same machine has the same uuid; of several with one uuid (clones), the same name too."""
    left = {(machine.uuid, machine.name): machine for machine in before}
    found = {(machine.uuid, machine.name): machine for machine in after}
    pairs = [(left.pop(key), found.pop(key)) for key in [key for key in found if key in left]]
    for key in list(found):
        renamed = [other for other in left if other[0] == key[0]]
        if len(renamed) == 1:
            pairs.append((left.pop(renamed[0]), found.pop(key)))
    changed = [Changed(now, changes) for was, now in pairs if (changes := _changes(was, now))]
    return Differences(
        tuple(sorted(found.values(), key=_by_name)),
        tuple(sorted(left.values(), key=_by_name)),
        tuple(sorted(changed, key=lambda each: _by_name(each.machine))),
    )


def is_stale(age: float | None, interval: float) -> bool:
    """``age``: seconds since the last look; None: there was none."""
    return age is None or age > STALE_AFTER * interval


def _changes(before: Machine, after: Machine) -> tuple[Change, ...]:
    was, now = _shown(before), _shown(after)
    return tuple(Change(field, was[field], now[field]) for field in _FIELDS if was[field] != now[field])


def _shown(machine: Machine) -> dict[str, Any]:
    disks = [{"id": disk.id, "size": disk.size, "format": disk.format} for disk in machine.disks]
    return {**machine.to_json(), "disks": disks}


def _by_name(machine: Machine) -> tuple[str, str]:
    return machine.name, machine.uuid


def _named(machine: Machine) -> dict[str, str]:
    return {"name": machine.name, "uuid": machine.uuid}
