"""Timelines made of records alone: points whose segments nobody wrote, to measure and test what maps cost."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import numpy as np

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, TiB
from homeport.store import MachineStore, names, sealed
from homeport.store.index import FRAME_BLOCKS, ROW, Rows
from homeport.store.names import Segment
from homeport.store.records import MemoryIndex, disks_list, pack
from homeport.store.segment import SegmentInfo
from tests.store.stores import NOW, T1

FRAMES = 128
"""Full frames in a segment of about 32 MiB."""


def synthetic(
    store: MachineStore, count: int, size: int = 64 * TiB, changes: int = 20, base: int = 0, per_segment: int = FRAMES
) -> None:
    """Points 1 … ``count`` of one disk, each with ``changes`` scattered blocks; the first with ``base`` full frames
    beside, evenly spread."""
    store.create_timeline(T1)
    rng = np.random.default_rng(1)
    if base:
        add(store, 1, size, *base_rows(size, base, per_segment, rng))
    for number in range(2 if base else 1, count + 1):
        first = np.unique(rng.integers(0, size // BLOCK, changes))
        rows = np.zeros(len(first), ROW)
        rows["first"], rows["count"], rows["length"] = first, 1, 9000
        rows["frame"] = np.arange(len(first))
        rows["offset"] = 48 + 9000 * rows["frame"]
        add(store, number, size, rows, [SegmentInfo(Segment(T1, 1, number), 1 << 20, 1 << 19, rng.bytes(32))])


def base_rows(size: int, frames: int, per_segment: int, rng: np.random.Generator) -> tuple[Rows, list[SegmentInfo]]:
    rows = np.zeros(frames, ROW)
    rows["first"] = np.arange(frames) * (size // BLOCK // FRAME_BLOCKS // frames) * FRAME_BLOCKS
    rows["count"], rows["length"] = FRAME_BLOCKS, rng.integers(20_000, 200_000, frames)
    rows["segment"], rows["frame"] = np.divmod(np.arange(frames), per_segment)
    rows["offset"] = rows["frame"] * 200_000
    segments = [
        SegmentInfo(Segment(T1, 1, 1_000_000 + number), 33 << 20, 32 << 20, rng.bytes(32))
        for number in range(-(-frames // per_segment))
    ]
    return rows, segments


def add(store: MachineStore, number: int, size: int, rows: Rows, segments: Iterable[SegmentInfo]) -> PointId:
    """One point on the one before."""
    fields, sections = pack(MemoryIndex.of({"disk0": rows}, segments))
    point = PointId(T1, number)
    key = names.point(store.machine, point)
    head = {
        "kind": "point", "timeline": T1, "number": number, "parent": f"{T1}/{number - 1}" if number > 1 else None,
        "parent_sha256": "00" * 32, "instant": (NOW + timedelta(seconds=15 * number)).isoformat(),
        "consistency": "crash-consistent", "tags": [], "incarnation": "", "epoch": 1,
        "disks": disks_list({"disk0": size}), "machine": {}, "logical_bytes": 0, "stored_bytes": 0, "notes": [],
        "folds": [], "built": "00" * 16,
    }  # fmt: skip
    store.objects.put(key, store.seal(key, sealed.POINT, {**head, **fields}, sections))
    return point
