"""Deleting a machine from a bucket for good; by shredding its keys first, where that protects anything.

Without its key all that is stored of a machine is noise, in this bucket and in every copy of it that lacks the key. So
a shredding deletes the wrapped keys first, all generations, and then the objects: interrupted, it leaves objects that
nobody can open, which the next call deletes. A plain purge deletes the keys last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homeport.bucket import inventory
from homeport.store import names
from homeport.store.errors import StoreError
from homeport.store.objects import Objects, versioned
from homeport.store.timeline import MachineStore

REMAINS = (
    "copies of this store made with `homeport store copy` or by the storage itself, with the keys in them",
    "the machine's key in a vault that protects or protected it, until the item is disabled there",
    "what the disks of a local folder hold in blocks that are free now, until they are written over",
)
"""What a shredding doesn't reach."""


@dataclass(frozen=True)
class Purged:
    """``shredded``: the keys went first; ``objects``, ``bytes``: deleted."""

    shredded: bool
    objects: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "remains": list(REMAINS) if self.shredded else []}


def check_shredding(objects: Objects, *, even_if_unknown: bool) -> None:
    """Raises StoreError where deleting a key here wouldn't destroy it (``store.shred-ineffective``), or may not
    (``store.shred-unknown``)."""
    keeps = versioned(objects)
    if keeps:
        raise StoreError(
            "this storage keeps what is deleted (versions or a lock): a deleted key could be brought back",
            code="store.shred-ineffective",
            remedy="Delete the old versions of machines/<machine>/key/ with the storage's own tools, or purge without "
            "--shred and let them expire.",
        )
    if keeps is None and not even_if_unknown:
        raise StoreError(
            "this storage doesn't say whether it keeps what is deleted",
            code="store.shred-unknown",
            remedy="See its settings (versioning, lock, soft delete); if it keeps nothing, add --even-if-unknown.",
        )


def check_unused(store: MachineStore, *, end: bool) -> None:
    """Nobody reads or writes the machine's points. Raises StoreError (``store.points-leased``; ``store.not-ended``:
    a timeline may still be written to, unless ``end``, which ends them)."""
    leases = store.leases()
    if leases:
        raise StoreError(
            f"{len(leases)} points are leased: {', '.join(sorted({lease.owner for lease in leases})[:5])}",
            code="store.points-leased",
            remedy="End what reads them (a restore, a served point, a machine that runs from one); a lease that was "
            "left behind expires by itself.",
            leases=[{"point": str(lease.point), "owner": lease.owner} for lease in leases],
        )
    open_ones = [timeline for timeline in store.timeline_ids() if not store.ended(timeline)]
    if open_ones and not end:
        raise StoreError(
            f"points can still be added to the timelines {', '.join(open_ones)}",
            code="store.not-ended",
            remedy="`homeport disable` the machine first; if nothing writes to it any more, add --end.",
            timelines=open_ones,
        )
    for timeline in open_ones:
        store.end(timeline, "purged")


def purge(objects: Objects, machine: str, *, shred: bool, progress: Callable[[int, int], None] | None = None) -> Purged:
    """Delete all objects of a machine; ``machine``: its id, also of one that has no key any more. The checks are the
    caller's. Idempotent. ``progress``: objects done, and in all."""
    prefix = names.machine(machine)
    keys = names.machine_keys(machine)
    every = sorted(objects.list(prefix), key=lambda found: (found[0].startswith(keys) != shred, found[0]))
    for number, (key, _) in enumerate(every, 1):
        objects.delete(key)
        if progress is not None:
            progress(number, len(every))
    return Purged(shred, len(every), sum(size for _, size in every))


def keyless(objects: Objects, machine: str) -> bool:
    """Only remains of the machine are there: its keys were shredded."""
    try:
        held = inventory.take(objects, names.machine(machine))
    except ValueError:
        return False
    return machine in held.keyless
