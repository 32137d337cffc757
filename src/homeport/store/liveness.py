"""What of a thinning record any retained point can still see.

Above a thinning record lie others perhaps, and then the first point that is retained: whatever stands on the record
stands on all of these. So rows that they cover together are dead. That holds for good only where none of the points in
between can come back: the records must be gone, not just dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from homeport.store import worth
from homeport.store.index import EMPTY, PAGE_BLOCKS, SHARD_BLOCKS, ZERO, Rows, between, clip, overlay
from homeport.store.layout import Layout, Range
from homeport.store.records import Record, blocks_of, caps

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

_AT_ONCE = 1 << 18
"""Rows that are laid over each other at once."""


@dataclass
class Live:
    """Of one thinning record: its data rows that are alive, by disk and shard; of each of its segments (in the order of
    its table) size and live bytes; ``limits``: blocks of each disk that are valid."""

    reach: Range
    record: Record
    rows: dict[str, dict[int, Rows]]
    sizes: NDArray[np.int64]
    live: NDArray[np.int64]
    limits: dict[str, int]


def above(store: MachineStore, found: Layout, reach: Range) -> list[Record] | None:
    """The records that follow a thinning record, oldest first, up to the first retained point. None: what follows may
    change yet. Raises NotFound (dropped meanwhile), Corrupt."""
    result: list[Record] = []
    number = reach[1] + 1
    while True:
        over = found.thin_over(number)
        if over is None:
            break
        if over[0] != number:
            return None
        result.append(store.layer(found.thin_key(over)))
        number = over[1] + 1
    if any(reach[0] <= other < number for other in found.records) or number not in found.known:
        return None
    point = store.layer(f"{found.prefix}point/{number:016d}")
    return None if point.ended else [*result, point]


def live(store: MachineStore, found: Layout, reach: Range) -> Live | None:
    """None: that can't be said now. Raises NotFound, Corrupt."""
    following = above(store, found, reach)
    if following is None:
        return None
    record = store.layer(found.thin_key(reach))
    layers = [record, *following]
    valid = caps(layers)
    rows: dict[str, dict[int, Rows]] = {}
    limits: dict[str, int] = {}
    table = record.segments
    bytes_ = np.zeros(len(table), np.int64)
    for disk in record.index_disks():
        stops = [blocks_of(cap.get(disk, 0)) for cap in valid]
        limits[disk] = stops[0]
        zeros = [layer.zeros(disk) for layer in following]
        for shard in record.shards(disk):
            mine = clip(record.data(disk, shard), 0, stops[0])
            others = []
            for layer, zero, stop in zip(following, zeros, stops[1:], strict=True):
                others.append(clip(layer.data(disk, shard), 0, stop))
                others.append(between(zero, shard * SHARD_BLOCKS, min((shard + 1) * SHARD_BLOCKS, stop)))
            alive = uncovered(mine, others)
            rows.setdefault(disk, {})[shard] = alive
            bytes_ += worth.live_bytes(alive, len(table))
    return Live(reach, record, rows, table.rows["size"].astype(np.int64), bytes_, limits)


def uncovered(mine: Rows, others: list[Rows]) -> Rows:
    """What of disjoint ascending rows no row of others (each disjoint and ascending) covers."""
    others = [rows for rows in others if len(rows)]
    if not len(mine) or not others:
        return mine
    if len(mine) + sum(map(len, others)) <= _AT_ONCE:
        return _uncovered(mine, others)
    start, stop = int(mine["first"][0]), int(mine["first"][-1] + mine["count"][-1])
    pieces = []
    for low in range(start // PAGE_BLOCKS * PAGE_BLOCKS, stop, PAGE_BLOCKS):
        piece = between(mine, low, low + PAGE_BLOCKS)
        if len(piece):
            pieces.append(_uncovered(piece, [between(rows, low, low + PAGE_BLOCKS) for rows in others]))
    return np.concatenate(pieces)


def _uncovered(mine: Rows, others: list[Rows]) -> Rows:
    mine = mine.copy()
    mine["layer"] = 0
    over = np.concatenate([EMPTY, *others])
    over["layer"] = 1
    over["segment"] = ZERO
    laid = overlay(np.concatenate([mine, over]))
    result: Rows = laid[laid["layer"] == 0]
    return result
