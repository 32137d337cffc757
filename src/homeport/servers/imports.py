"""Making a powered-off machine's disks the base of a timeline in its own site's store: nothing crosses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from homeport.domain.choice import IMPORTED
from homeport.domain.extents import Extents
from homeport.domain.machines import Machine
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.units import BLOCK
from homeport.servers.difference import Base, Blank, Difference, PointBase
from homeport.servers.digest_file import Digests
from homeport.sources.interface import DiskView
from homeport.store.keys import MachineKey
from homeport.store.spool import spooled_points
from homeport.store.timeline import MachineStore

Progress = Callable[[int, int], None]


def import_base(
    store: MachineStore,
    keys: MachineKey,
    timeline: str,
    parent: PointId | None,
    origin: PointId | None,
    machine: Machine,
    views: list[tuple[DiskView, Extents]],
    spool: Path,
    owner: str,
    progress: Progress,
    tag: str = IMPORTED,
) -> tuple[PointInfo, int]:
    """Publish point 0 of ``timeline``: the disks of ``views``, each with the extents that may differ from ``parent``
    (from zeroes, where there is no parent). ``tag``: the point's.

    Returns the point and the bytes that differed. Idempotent: a point 0 that is there is returned.
    """
    point = PointId(timeline, 0)
    for info in store.points(timeline, hidden=True) if _exists(store, timeline) else []:
        if info.id == point:
            shutil.rmtree(spool, ignore_errors=True)
            return info, info.logical_bytes
    store.create_timeline(timeline, parent=parent, origin=origin)
    writer = store.writer(timeline, owner)
    for left in spooled_points(spool):
        left.remove()  # of an earlier try: the disks may have changed since
    total = sum(candidates.total for _, candidates in views)
    done = [0]

    def look(count: int) -> None:
        done[0] += count
        progress(min(done[0], total), total)

    reader = store.open(parent) if parent else None
    builder = writer.builder(0, spool, parent)
    maps: dict[str, Digests] = {}
    for view, candidates in views:
        blocks = -(-view.size // BLOCK)
        base: Base
        if reader is None or view.id not in reader.disks:
            base = Blank()
            held: Digests = np.zeros((blocks, 16), np.uint8)
        else:
            base = PointBase(reader.digests(view.id), blocks)
            held = np.array(base.digests(0, blocks))
        Difference(view, keys, builder, base, look, collect=held).ship(candidates, view.allocated())
        maps[view.id] = held
    spooled = builder.finish(
        instant=datetime.now(UTC),
        consistency=Consistency.CRASH,
        disks={view.id: view.size for view, _ in views},
        incarnation="import",
        tags=(tag,),
        machine=machine.to_json(),
        digest_maps=maps,
    )
    info = writer.publish(spooled)
    spooled.remove()
    return info, spooled.logical_bytes


def _exists(store: MachineStore, timeline: str) -> bool:
    return any(known.id == timeline for known in store.timelines())


def description(machine: Machine, policy: dict[str, Any]) -> dict[str, Any]:
    """What lies beside the data so that a vault can be rebuilt from the bucket: the machine and its policy."""
    return {"name": machine.name, "machine": machine.to_json(), "policy": policy}
