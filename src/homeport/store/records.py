"""Records that carry an index: points, parts of a first copy, thinning records (docs/store-format.md, "Records").

The first sections are the pages of the table of segments (where there are any); then, as the head's ``index`` lists
them, one section for the data rows of each 64 GiB shard of a disk, and one for each disk's zero rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import distinct
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.units import BLOCK, MiB
from homeport.store import sealed
from homeport.store.cache import Cache
from homeport.store.errors import Corrupt
from homeport.store.index import (
    COMPACT,
    EMPTY,
    PAGE_BLOCKS,
    SHARD_BLOCKS,
    ZERO,
    Rows,
    between,
    clip,
    compact,
    data_size,
    ends,
    expand,
    join_zeros,
    overlay,
    pack_data,
    pack_zeros,
    unpack_compact,
    unpack_data,
    unpack_zeros,
    zeros_size,
)
from homeport.store.segment import SegmentInfo
from homeport.store.table import PAGE_SEGMENTS, SegmentTable, join, page_size, pages_of, unpack_page

_ZEROS = -1
_TABLE_BYTES = 2 * MiB
_AT_ONCE = 1 << 18
"""Rows that are laid over each other at once."""


def blocks_of(size: int) -> int:
    """Blocks of a disk of ``size`` bytes (the last may be short)."""
    return -(-size // BLOCK)


class Index(Protocol):
    """Rows by disk and shard, and the segments that they name. ``data``: the rows of shards, in their order."""

    @property
    def segments(self) -> SegmentTable: ...

    def index_disks(self) -> list[str]: ...

    def shards(self, disk: str) -> list[int]: ...

    def data(self, disk: str, *shards: int) -> Rows: ...

    def count(self, disk: str, shard: int) -> int: ...

    def zeros(self, disk: str) -> Rows: ...


class MemoryIndex:
    """An index in memory: per disk disjoint ascending rows of data, by shard, and of zeroes."""

    def __init__(self, segments: SegmentTable | None = None) -> None:
        self.segments = SegmentTable() if segments is None else segments
        self._data: dict[str, dict[int, NDArray[Any]]] = {}
        self._zeros: dict[str, Rows] = {}

    @classmethod
    def of(cls, rows: dict[str, Rows], segments: Iterable[SegmentInfo]) -> MemoryIndex:
        """From disjoint ascending rows of each disk."""
        result = cls(SegmentTable.of(segments))
        for disk, all_rows in rows.items():
            data = all_rows[all_rows["segment"] != ZERO]
            shard = data["first"] // SHARD_BLOCKS
            for number in distinct(shard).tolist():
                result.add_data(disk, number, data[shard == number])
            result.add_zeros(disk, join_zeros(all_rows[all_rows["segment"] == ZERO]))
        return result

    def add_data(self, disk: str, shard: int, rows: Rows) -> None:
        if len(rows):
            self._data.setdefault(disk, {})[shard] = compact(rows, shard)

    def add_zeros(self, disk: str, rows: Rows) -> None:
        if len(rows):
            self._zeros[disk] = rows

    def index_disks(self) -> list[str]:
        return sorted({*self._data, *self._zeros})

    def shards(self, disk: str) -> list[int]:
        return sorted(self._data.get(disk, {}))

    def data(self, disk: str, *shards: int) -> Rows:
        held = self._data.get(disk, {})
        found = [expand(held[shard], shard) for shard in shards if shard in held]
        return np.concatenate(found) if found else EMPTY

    def count(self, disk: str, shard: int) -> int:
        return len(self._data.get(disk, {}).get(shard, ()))

    def zeros(self, disk: str) -> Rows:
        return self._zeros.get(disk, EMPTY)

    def drop_unnamed(self) -> None:
        """Keep only the segments that rows name."""
        used = np.zeros(len(self.segments), np.bool_)
        everything = [rows for shards in self._data.values() for rows in shards.values()]
        for rows in everything:
            used[rows["segment"]] = True
        numbers = (np.cumsum(used) - 1).astype(np.uint32)
        for rows in everything:
            rows["segment"] = numbers[rows["segment"]]
        self.segments = self.segments.take(used)


def merge(layers: Sequence[tuple[Index, dict[str, int]]], *, keep_zeros: bool) -> MemoryIndex:
    """Indexes laid over each other, oldest first, as one. With each: how many bytes of a disk (by id) are valid, beyond
    which its rows are void (the disk was smaller later). Segments that lost all their rows aren't named any more.

    Memory: the result in its compact form, and the rows of a shard or of what is less."""
    table, remaps = join([layer.segments for layer, _ in layers])
    result = MemoryIndex(table)
    for disk in sorted({disk for layer, _ in layers for disk in layer.index_disks()}):
        limits = [blocks_of(valid.get(disk, 0)) for _, valid in layers]
        zeros = [clip(layer.zeros(disk), 0, limit) for (layer, _), limit in zip(layers, limits, strict=True)]
        left: list[Rows] = []
        for shards, start, stop in _stretches([layer for layer, _ in layers], disk):
            pieces = []
            for place, (layer, _) in enumerate(layers):
                data = clip(layer.data(disk, *shards), 0, limits[place])
                if len(data):
                    data["segment"] = remaps[place][data["segment"]]
                    pieces.append(data)
                pieces.append(between(zeros[place], start, stop))
            laid = _overlay_wide([piece for piece in pieces if len(piece)])
            live = laid["segment"] != ZERO
            data, owners = laid[live], laid["first"][live] // SHARD_BLOCKS
            for mine in np.split(data, np.flatnonzero(np.diff(owners)) + 1):
                if len(mine):
                    result.add_data(disk, int(mine["first"][0] // SHARD_BLOCKS), mine)
            left.append(laid[~live])
        if keep_zeros:
            result.add_zeros(disk, join_zeros(np.concatenate(left)))
    result.drop_unnamed()
    return result


def _stretches(layers: Sequence[Index], disk: str) -> Iterator[tuple[list[int], int, int]]:
    """A disk from its beginning on, in stretches of whole shards with no more rows than are laid over each other at
    once (but one shard at least): the shards that have rows, first block, and the block behind the last."""
    counts: dict[int, int] = {}
    for layer in layers:
        for shard in layer.shards(disk):
            counts[shard] = counts.get(shard, 0) + layer.count(disk, shard)
    start, together, total = 0, list[int](), 0
    for shard in sorted(counts):
        if together and total + counts[shard] > _AT_ONCE:
            stop = shard * SHARD_BLOCKS
            yield together, start, stop
            start, together, total = stop, [], 0
        together.append(shard)
        total += counts[shard]
    yield together, start, 1 << 62


def _overlay_wide(pieces: list[Rows]) -> Rows:
    """``overlay`` of pieces that are disjoint and ascending each. Many rows are done by halves of the disk, since what
    overlaying needs of memory is a multiple of them."""
    if not pieces:
        return EMPTY
    start = min(int(piece["first"][0]) for piece in pieces)
    stop = max(int(ends(piece[-1:])[0]) for piece in pieces)
    middle = (start + stop) // 2 // PAGE_BLOCKS * PAGE_BLOCKS
    if sum(map(len, pieces)) <= 2 * _AT_ONCE or middle <= start:
        return overlay(np.concatenate(pieces))
    halves = [
        _overlay_wide([cut for piece in pieces if len(cut := between(piece, low, high))])
        for low, high in ((start, middle), (middle, stop))
    ]
    return np.concatenate(halves)


def pack(index: Index) -> tuple[dict[str, Any], list[bytes]]:
    """An index as sections of a sealed object, and what the head says of them."""
    timelines, sections = index.segments.pack()
    listed: list[list[Any]] = []
    for disk in index.index_disks():
        for shard in index.shards(disk):
            rows = index.data(disk, shard)
            sections.append(pack_data(compact(rows, shard)))
            listed.append([disk, shard, len(rows)])
        zeros = index.zeros(disk)
        if len(zeros):
            sections.append(pack_zeros(zeros))
            listed.append([disk, _ZEROS, len(zeros)])
    return {"segments": len(index.segments), "timelines": timelines, "index": listed}, sections


class Record:
    """An opened record with an index. What is asked for is decoded anew each time: keep it, or ask a cache."""

    def __init__(self, opened: sealed.Sealed) -> None:
        self.opened = opened
        head = self.head = opened.head
        self.key = opened.key
        self.parent = PointId.parse(head["parent"]) if head.get("parent") else None
        self.parent_sha256: str | None = head.get("parent_sha256")
        self.disks: dict[str, int] = dict(head.get("disks", ()))
        #: bytes of each disk beyond which what came before is void (less than its size where it shrank and grew again)
        self.floor: dict[str, int] = dict(head["floor"]) if "floor" in head else self.disks
        self._segments: int = head.get("segments", 0)
        self._pages = pages_of(self._segments)
        self._tables: Cache[SegmentTable] = Cache(_TABLE_BYTES, lambda table: table.rows.nbytes)

    @cached_property
    def _places(self) -> dict[str, dict[int, tuple[int, int]]]:
        """Section and rows, by disk and shard. Made when first asked: opening a point doesn't."""
        listed = groupby(enumerate(self.head.get("index", ()), self._pages + 1), lambda entry: entry[1][0])
        return {disk: {shard: (section, rows) for section, (_, shard, rows) in mine} for disk, mine in listed}

    @property
    def ended(self) -> bool:
        """It is the mark of a timeline's end, no point."""
        return bool(self.head.get("kind") == "end")

    @property
    def pruned(self) -> bool:
        """A thinning record that may lack rows which no retained point can see, since later ones cover them."""
        return bool(self.head.get("kind") == "thin" and self.head.get("pruned") is not False)

    @property
    def segments(self) -> SegmentTable:
        """All segments that the record names."""
        pages = [self._table(page) for page in range(self._pages)]
        rows = [page.rows for page in pages]
        return SegmentTable(self.head.get("timelines", ()), np.concatenate(rows) if rows else None)

    def segment(self, place: int) -> SegmentInfo:
        """One of them: only its page of the table is fetched."""
        page = self._tables.get(place // PAGE_SEGMENTS)
        if page is None:
            page = self._tables.put(place // PAGE_SEGMENTS, self._table(place // PAGE_SEGMENTS))
        if not place % PAGE_SEGMENTS < len(page):
            raise Corrupt(f"{self.key}: a row names segment {place}, which the table lacks", object=self.key)
        return page[place % PAGE_SEGMENTS]

    def _table(self, page: int) -> SegmentTable:
        if not 0 <= page < self._pages:
            raise Corrupt(f"{self.key}: a row names a segment that the table lacks", object=self.key)
        count = min(self._segments - page * PAGE_SEGMENTS, PAGE_SEGMENTS)
        return unpack_page(self.opened.section(page + 1, page_size(count)), count, self.head["timelines"], self.key)

    def index_disks(self) -> list[str]:
        return sorted(self._places)

    def shards(self, disk: str) -> list[int]:
        return sorted(shard for shard in self._places.get(disk, ()) if shard != _ZEROS)

    def data(self, disk: str, *shards: int) -> Rows:
        places = self._places.get(disk, {})
        held = [shard for shard in shards if shard in places]
        most = [data_size(places[shard][1]) for shard in held]
        sections = self.opened.sections([places[shard][0] for shard in held], most)
        return unpack_data(sections, held, self._segments, self.key)

    def packed(self, disk: str, shard: int) -> NDArray[Any]:
        """The rows of a shard as they are kept (``index.COMPACT``)."""
        section, rows = self._places.get(disk, {}).get(shard, (0, 0))
        if not section:
            return np.empty(0, COMPACT)
        return unpack_compact(self.opened.section(section, data_size(rows)), self._segments, self.key)

    def zeros(self, disk: str) -> Rows:
        section, rows = self._places.get(disk, {}).get(_ZEROS, (0, 0))
        return unpack_zeros(self.opened.section(section, zeros_size(rows)), self.key) if section else EMPTY

    def has_rows(self, disk: str, shard: int) -> bool:
        """Whether there may be rows in this shard: zero rows are of any."""
        places = self._places.get(disk)
        return places is not None and (shard in places or _ZEROS in places)

    def count(self, disk: str, shard: int) -> int:
        """Data rows of a shard, told without fetching them."""
        return self._places.get(disk, {}).get(shard, (0, 0))[1]

    def info(self, point: PointId, hidden: bool) -> PointInfo:
        head = self.head
        return PointInfo(
            id=point,
            time=datetime.fromisoformat(head["instant"]),
            consistency=Consistency(head["consistency"]),
            parent=self.parent,
            tags=tuple(head["tags"]),
            logical_bytes=head["logical_bytes"],
            stored_bytes=head["stored_bytes"],
            hidden=hidden,
            disks=dict(self.disks),
            group=head.get("group"),
        )


def lacking(records: Sequence[Record]) -> bool:
    """Whether records that follow each other (oldest first) may lack rows of what the last of them tells of. What a
    pruned one lacks is covered by the first point's own record above it."""
    for record in reversed(records):
        if record.head.get("kind") != "thin":
            return False
        if record.pruned:
            return True
    return False


def all_rows(index: Index, disk: str) -> Rows:
    """All rows of a disk, data and zeroes, in no order."""
    return np.concatenate([index.data(disk, *index.shards(disk)), index.zeros(disk)])


def logical_bytes(index: Index, disks: dict[str, int]) -> int:
    """Bytes that the rows of an index cover, cut at each disk's size."""
    total = 0
    for disk in index.index_disks():
        rows = all_rows(index, disk)
        size = disks.get(disk, 0)
        total += int(np.maximum(np.minimum(ends(rows) * BLOCK, size) - rows["first"] * BLOCK, 0).sum())
    return total


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def disks_list(disks: dict[str, int]) -> list[list[Any]]:
    """As pairs: the order of a machine's disks is kept."""
    return [[disk, size] for disk, size in disks.items()]


def caps(layers: Iterable[Record]) -> list[dict[str, int]]:
    """For each layer (oldest first): up to which byte of each disk its rows are still valid at the newest layer."""
    result: list[dict[str, int]] = []
    above: dict[str, int] | None = None
    for layer in reversed(list(layers)):
        valid = dict(layer.disks)
        if above is not None:
            valid = {disk: min(size, above.get(disk, 0)) for disk, size in valid.items()}
        result.append(valid)
        below = dict(layer.floor)
        if above is not None:
            below = {disk: min(size, above.get(disk, 0)) for disk, size in below.items()}
        above = below
    return result[::-1]
