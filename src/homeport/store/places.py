"""Where the bytes of a disk lie, as plain Python: what a read needs, resolved once for each 16 MiB that are read.

The map's arrays (:mod:`homeport.store.pointmap`) answer for a gigabyte at once, but a question costs them as much as a
thousand comparisons. Here a region of the disk is a list of pieces, found by halving.
"""

from __future__ import annotations

from typing import NamedTuple

from homeport.domain.units import BLOCK, BLOCKS_PER_REGION
from homeport.store.frame_cache import FrameCache
from homeport.store.index import ZERO, between
from homeport.store.pointmap import PointMap
from homeport.store.segment import SegmentInfo

SHIFT = 24
"""A byte's region: its offset shifted by this much (a region is 16 MiB)."""


class Source(NamedTuple):
    """A frame as the index tells of it; offset and length in bytes, in the segment."""

    info: SegmentInfo
    offset: int
    length: int
    number: int
    first: int


Piece = tuple[int, int, int, Source | None]
"""Up to which byte of the disk it holds; at which byte its frame begins; the frame's place, or −1 for zeroes; what to
fetch."""


class Region(NamedTuple):
    """Pieces that cover a region without a gap, up to the disk's end: ``pieces[n]`` begins at byte ``starts[n]``."""

    starts: list[int]
    pieces: list[Piece]

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly."""
        return 400 + 350 * len(self.starts)


def resolve(found: PointMap, disk: str, region: int, frames: FrameCache) -> Region:
    """Raises LayerGone, Corrupt, StoreUnavailable."""
    block = region * BLOCKS_PER_REGION
    position, end = block * BLOCK, min((block + BLOCKS_PER_REGION) * BLOCK, found.disks[disk])
    rows = between(found.rows(disk, block), block, block + BLOCKS_PER_REGION)
    rows = rows[rows["segment"] != ZERO]
    starts: list[int] = []
    pieces: list[Piece] = []
    columns = [
        rows[name].tolist() for name in ("first", "count", "skip", "segment", "layer", "offset", "length", "frame")
    ]
    for first, count, skip, segment, layer, offset, length, number in zip(*columns, strict=True):
        start = first * BLOCK
        # A disk that shrank within a block and grew again: what lay beyond is gone.
        stop = min((first + count) * BLOCK, end, found.caps[layer].get(disk, 0))
        if stop <= start:
            continue
        if start > position:
            starts.append(position)
            pieces.append((start, 0, -1, None))
        info = found.segments[segment]
        source = Source(info, offset, length, number, first - skip)
        starts.append(start)
        pieces.append((stop, source.first * BLOCK, frames.place(info.segment, offset), source))
        position = stop
    if position < end:
        starts.append(position)
        pieces.append((end, 0, -1, None))
    return Region(starts, pieces)
