"""What lies in a bucket, by kind: keys and sizes only, so that it needs no key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from homeport.store.objects import Objects

KINDS = (
    *("vault", "vault-backup", "key", "description", "lease"),
    *("timeline", "epoch", "fold", "point", "part", "segment", "thin", "layer", "hide", "boundary", "digests"),
    *("probe", "staging", "unknown"),
)
"""In this order they are shown. ``probe`` and ``staging`` are garbage of what died."""

_OUTSIDE = (
    ("vault/", "vault"),
    ("vault-backups/", "vault-backup"),
    ("probe/", "probe"),
    (".homeport-staging/", "staging"),
)
"""What lies outside of machines, by how its keys begin."""

_MACHINE = re.compile(r"machines/([^/]+)/(?:(key|description|lease)/|t/([0-9a-f]{16})/([a-z]+)(?:/|$))")


@dataclass
class Amount:
    """Objects, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size

    def to_json(self) -> dict[str, int]:
        return {"objects": self.objects, "bytes": self.bytes}


@dataclass
class Holding:
    """Amounts by kind of object."""

    kinds: dict[str, Amount] = field(default_factory=dict)

    def add(self, kind: str, size: int) -> None:
        self.kinds.setdefault(kind, Amount()).add(size)

    @property
    def total(self) -> Amount:
        return Amount(sum(one.objects for one in self.kinds.values()), sum(one.bytes for one in self.kinds.values()))

    def to_json(self) -> dict[str, Any]:
        kinds = {kind: self.kinds[kind].to_json() for kind in KINDS if kind in self.kinds}
        return {**self.total.to_json(), "kinds": kinds}


@dataclass
class Inventory:
    """All of a bucket. ``machines``: by id; ``timelines``: by machine and timeline."""

    all: Holding = field(default_factory=Holding)
    machines: dict[str, Holding] = field(default_factory=dict)
    timelines: dict[tuple[str, str], Holding] = field(default_factory=dict)
    keyless: set[str] = field(default_factory=set)
    """Machines without a key: shredded, and not deleted wholly yet."""


def take(objects: Objects, prefix: str = "") -> Inventory:
    """One list of the bucket. ``prefix``: only what lies below it."""
    result = Inventory()
    for key, size in objects.list(prefix):
        machine, timeline, kind = place_of(key)
        result.all.add(kind, size)
        if machine is not None:
            result.machines.setdefault(machine, Holding()).add(kind, size)
        if machine is not None and timeline is not None:
            result.timelines.setdefault((machine, timeline), Holding()).add(kind, size)
    result.keyless = {machine for machine, found in result.machines.items() if "key" not in found.kinds}
    return result


def place_of(key: str) -> tuple[str | None, str | None, str]:
    """A key's machine and timeline, where it has them, and its kind (one of ``KINDS``)."""
    if key.startswith("machines/"):
        match = _MACHINE.match(key)
        if match is None:
            return key.split("/")[1], None, "unknown"
        kind = match[2] or match[4]
        return match[1], match[3], kind if kind in KINDS else "unknown"
    for start, kind in _OUTSIDE:
        if key.startswith(start):
            return None, None, kind
    return None, None, "unknown"
