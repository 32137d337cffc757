"""What a restore reads, and in which order: by segment, so that each stored range is read once, in large pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, MiB
from homeport.store.index import EMPTY, PAGE_BLOCKS, ZERO, Rows, ends
from homeport.store.pointmap import PointMap
from homeport.store.reader import PointReader
from homeport.store.segment import SegmentInfo

READ_MOST = 4 * MiB
"""Bytes that are read from a segment at once, at most."""

READ_GAP = 64 << 10
"""Bytes between two frames that are read and thrown away rather than asked around."""

ZERO_MOST = 256 * MiB
"""Bytes that are zeroed at once, at most."""

WINDOW = 16
"""Pages (1 GiB of the disk each) that are planned at once: what bounds the memory."""


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Frames of one segment, neighbours, and which of their blocks go to the disk.

    ``rows`` are ordered by ``offset``; ``stops``: byte of the disk before which each row ends, where what lay beyond
    was lost when the disk shrank.
    """

    info: SegmentInfo
    offset: int
    length: int
    rows: Rows
    stops: NDArray[np.int64]

    @property
    def ranges(self) -> Iterator[tuple[int, int]]:
        """``(start, end)`` in bytes of the disk, by row; the last block is not cut at the disk's end."""
        return zip((self.rows["first"] * BLOCK).tolist(), (ends(self.rows) * BLOCK).tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Zeroes:
    """A range of the disk that is zeroes. Bytes."""

    offset: int
    length: int


def plan(reader: PointReader, disk: str, wanted: Extents, *, zeroes: bool) -> Iterator[Piece | Zeroes]:
    """How to bring ``wanted`` (bytes; grown to whole blocks) of a disk to the point. ``zeroes``: what is zero is told
    too, for targets that hold something. Raises Corrupt, StoreUnavailable."""
    size = reader.disks[disk]
    wanted = wanted.align(BLOCK, size)
    known = np.array(reader.with_map(lambda found: found.pages_with_rows(disk)), np.int64)
    reach = PAGE_BLOCKS * BLOCK
    pages = [page for page in known.tolist() if part_of(wanted, page * reach, (page + 1) * reach)]
    told = 0
    for at in range(0, len(pages), WINDOW):
        window = pages[at : at + WINDOW]
        found, rows = reader.with_map(lambda map_, window=window: (map_, _rows(map_, disk, window)))  # type: ignore[misc]
        rows = within(rows, wanted)
        yield from _pieces(found, disk, size, rows)
        if zeroes:
            end = (window[-1] + 1) * reach
            yield from _zeroes(part_of(wanted, told, end).subtract(_covered(rows)))
            told = end
    if zeroes:
        yield from _zeroes(part_of(wanted, told, size))


def within(rows: Rows, wanted: Extents) -> Rows:
    """The parts of disjoint ascending rows that lie in ``wanted`` (bytes, whole blocks but for the disk's end)."""
    starts, stops = wanted.starts // BLOCK, -(-wanted.ends // BLOCK)
    low = np.searchsorted(stops, rows["first"], side="right")
    high = np.searchsorted(starts, ends(rows), side="left")
    counts = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(rows)), counts)
    run = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    result = rows[owner]
    first = np.maximum(result["first"], starts[run])
    last = np.minimum(ends(result), stops[run])
    result["skip"] += (first - result["first"]).astype(np.int32)
    result["first"], result["count"] = first, last - first
    return result


def _rows(point_map: PointMap, disk: str, pages: list[int]) -> Rows:
    """The data rows of some pages, ascending."""
    found = [point_map.rows(disk, page * PAGE_BLOCKS) for page in pages]
    rows = np.concatenate(found) if found else EMPTY
    data: Rows = rows[rows["segment"] != ZERO]
    return data


def _pieces(point_map: PointMap, disk: str, size: int, rows: Rows) -> Iterator[Piece]:
    if not len(rows):
        return
    limits = np.array([min(cap.get(disk, 0), size) for cap in point_map.caps], np.int64)
    rows = rows[np.lexsort((rows["first"], rows["offset"], rows["segment"]))]
    stops = np.minimum(ends(rows) * BLOCK, limits[rows["layer"]])
    segments, offsets = rows["segment"].tolist(), rows["offset"].tolist()
    tails = (rows["offset"] + rows["length"]).tolist()
    begin = 0
    for index in range(1, len(rows) + 1):
        if (
            index < len(rows)
            and segments[index] == segments[begin]
            and offsets[index] - tails[index - 1] <= READ_GAP
            and tails[index] - offsets[begin] <= READ_MOST
        ):
            continue
        info = point_map.segments[segments[begin]]
        length = tails[index - 1] - offsets[begin]
        yield Piece(info, offsets[begin], length, rows[begin:index], stops[begin:index])
        begin = index


def _covered(rows: Rows) -> Extents:
    return Extents.of_runs(rows["first"] * BLOCK, ends(rows) * BLOCK)


def _zeroes(found: Extents) -> Iterator[Zeroes]:
    for offset, length in found.pieces(ZERO_MOST):
        yield Zeroes(offset, length)


def part_of(extents: Extents, start: int, end: int) -> Extents:
    """As ``extents.clip``, found by halving."""
    low = int(np.searchsorted(extents.ends, start, side="right"))
    high = int(np.searchsorted(extents.starts, end, side="left"))
    runs: Any = np.stack((extents.starts[low:high], extents.ends[low:high]), axis=1)
    return Extents(runs).clip(start, end)
