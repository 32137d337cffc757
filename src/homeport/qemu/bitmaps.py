"""Dirty bitmaps: a machine's changes since a recovery point, tracked by its QEMU.

A bitmap is called ``hp.<timeline>.<number>.<incarnation>`` and marks what was written since that point. QEMU keeps it
across a clean stop where the disk is qcow2; after any other stop it is gone, or there but ``inconsistent``: useless.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.qemu.graph import DiskNode, Nodes, disks, format_node, nodes
from homeport.qemu.qmp import Qmp

GRANULARITY = BLOCK
"""Bytes per bit."""

Action = dict[str, Any]
"""One step of a QMP transaction."""

_NAME = re.compile(r"^hp\.([0-9a-f]{16})\.(\d{1,16})\.([0-9a-f]{8})$")


@dataclass(frozen=True)
class Bitmap:
    """``recording``: writes are marked now; ``count``: bytes marked; ``busy``: exported or used by a job."""

    disk: str
    point: PointId
    incarnation: str
    recording: bool
    inconsistent: bool = False
    busy: bool = False
    persistent: bool = False
    count: int = 0

    @property
    def name(self) -> str:
        return bitmap_name(self.point, self.incarnation)


def bitmap_name(point: PointId, incarnation: str) -> str:
    return f"hp.{point.timeline}.{point.number}.{incarnation}"


def new_incarnation() -> str:
    """Eight fresh hex digits."""
    return secrets.token_hex(4)


def bitmaps(qmp: Qmp, known: Nodes | None = None) -> dict[str, list[Bitmap]]:
    """Homeport's bitmaps of each disk, sorted by timeline and number; other bitmaps are none of our business."""
    known = nodes(qmp) if known is None else known
    return {disk.id: _bitmaps_of(disk, known) for disk in disks(qmp, known)}


def _bitmaps_of(disk: DiskNode, known: Nodes) -> list[Bitmap]:
    found = []
    for entry in known[disk.format_node].get("dirty-bitmaps", ()):
        match = _NAME.match(entry.get("name", ""))
        if match:
            found.append(
                Bitmap(
                    disk=disk.id,
                    point=PointId(match[1], int(match[2])),
                    incarnation=match[3],
                    recording=entry["recording"] and not entry.get("inconsistent", False),
                    inconsistent=entry.get("inconsistent", False),
                    busy=entry["busy"],
                    persistent=entry["persistent"],
                    count=entry["count"],
                )
            )
    return sorted(found, key=lambda bitmap: (bitmap.point, bitmap.incarnation))


def add(disk: DiskNode, point: PointId, incarnation: str) -> Action:
    """A new, recording bitmap; kept over a clean stop where the format can."""
    data = {"name": bitmap_name(point, incarnation), "granularity": GRANULARITY, "persistent": disk.format == "qcow2"}
    return _action("block-dirty-bitmap-add", disk.id, data)


def enable(bitmap: Bitmap) -> Action:
    return _action("block-dirty-bitmap-enable", bitmap.disk, {"name": bitmap.name})


def disable(bitmap: Bitmap) -> Action:
    return _action("block-dirty-bitmap-disable", bitmap.disk, {"name": bitmap.name})


def merge(source: Bitmap, target: Bitmap) -> Action:
    """What ``source`` marks, ``target`` marks too."""
    return _action("block-dirty-bitmap-merge", target.disk, {"target": target.name, "bitmaps": [source.name]})


def remove(bitmap: Bitmap) -> Action:
    """Also an inconsistent one; from the qcow2 file too."""
    return _action("block-dirty-bitmap-remove", bitmap.disk, {"name": bitmap.name})


def copy_actions(source: Bitmap) -> list[Action]:
    """Make :func:`copy_name` of ``source``'s disk mark what ``source`` marks now; it does not record."""
    name = copy_name(source.disk)
    return [
        _action("block-dirty-bitmap-add", source.disk, {"name": name, "granularity": GRANULARITY, "disabled": True}),
        _action("block-dirty-bitmap-merge", source.disk, {"target": name, "bitmaps": [source.name]}),
    ]


def remove_copies(qmp: Qmp, known: Nodes) -> None:
    """Remove all copies; none may be exported."""
    found = [(disk, entry) for disk in disks(qmp, known) for entry in known[disk.format_node].get("dirty-bitmaps", ())]
    copies = [disk.id for disk, entry in found if entry.get("name") == copy_name(disk.id)]
    transact(qmp, [_action("block-dirty-bitmap-remove", disk, {"name": copy_name(disk)}) for disk in copies])


def copy_name(disk: str) -> str:
    return f"hp-copy-{disk}"


def _action(kind: str, disk: str, data: dict[str, Any]) -> Action:
    return {"type": kind, "data": {"node": format_node(disk), **data}}


def transact(qmp: Qmp, actions: Sequence[Action]) -> None:
    """Do all of ``actions`` in their order, or none."""
    if actions:
        qmp.execute("transaction", {"actions": list(actions)})


def known_to_all(found: Iterable[Sequence[Bitmap]]) -> dict[PointId, str]:
    """The points since which *every* disk's changes are known, with their incarnation; newest last.

    ``found``: each disk's bitmaps. A point counts only where it has the same incarnation on all disks, and where
    something still records on each of them.
    """
    common: set[tuple[PointId, str]] | None = None
    now: set[str] = set()
    for of_disk in found:
        tails = {bitmap.point.timeline for bitmap in of_disk if bitmap.recording}
        now |= tails
        sound = {(b.point, b.incarnation) for b in of_disk if not b.inconsistent} if tails else set()
        common = sound if common is None else common & sound
    return dict(sorted(common or (), key=lambda pair: (pair[0].timeline in now, pair[0])))


def start_tracking(qmp: Qmp, base: PointId, exclude: Collection[str] = ()) -> str:
    """Mark what is written from now on as changes since ``base`` on all disks but those of ``exclude`` (ids) at one
    instant; the incarnation.

    Where every disk tracks ``base`` already, nothing happens. Otherwise all other knowledge of Homeport's is removed:
    it belongs to content that the disks don't have any more. Before the guest's first instruction nothing is missed.
    """
    known = nodes(qmp)
    found = bitmaps(qmp, known)
    already = known_to_all(of_disk for disk, of_disk in found.items() if disk not in exclude)
    if base in already:
        return already[base]
    incarnation = new_incarnation()
    actions = [remove(bitmap) for of_disk in found.values() for bitmap in of_disk]
    actions += [add(disk, base, incarnation) for disk in disks(qmp, known) if disk.id not in exclude]
    transact(qmp, actions)
    return incarnation


def stop_tracking(qmp: Qmp) -> None:
    """Remove all of Homeport's bitmaps. Twice does no harm."""
    transact(qmp, [remove(bitmap) for of_disk in bitmaps(qmp).values() for bitmap in of_disk])
