"""Records that carry an index: points, parts of a first copy, thinning records (docs/store-format.md, "Records").

Section 1 is the table of segments (where there are any); then, as the head's ``index`` lists them, one section for the
data rows of each 64 GiB shard of a disk, and one for each disk's zero rows.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.units import BLOCK
from homeport.store import sealed
from homeport.store.errors import Corrupt
from homeport.store.index import (
    EMPTY,
    SHARD_BLOCKS,
    ZERO,
    Rows,
    clip,
    ends,
    join_zeros,
    overlay,
    pack_data,
    pack_zeros,
    planes,
    unpack_data,
    unpack_zeros,
    unplanes,
)
from homeport.store.names import Segment
from homeport.store.segment import SegmentInfo

_TABLE = {"timeline": "<u2", "epoch": "<u8", "seq": "<u8", "size": "<u8", "directory": "<u8"}
_ZEROS = -1


def blocks_of(size: int) -> int:
    """Blocks of a disk of ``size`` bytes (the last may be short)."""
    return -(-size // BLOCK)


class Index(Protocol):
    """Rows by disk and shard, and the segments that they name."""

    @property
    def segments(self) -> list[SegmentInfo]: ...

    def index_disks(self) -> list[str]: ...

    def shards(self, disk: str) -> list[int]: ...

    def data(self, disk: str, shard: int) -> Rows: ...

    def zeros(self, disk: str) -> Rows: ...


@dataclass
class MemoryIndex:
    """An index in memory: per disk disjoint ascending rows of data, by shard, and of zeroes."""

    segments: list[SegmentInfo] = field(default_factory=list)
    by_shard: dict[str, dict[int, Rows]] = field(default_factory=dict)
    zero_rows: dict[str, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: dict[str, Rows], segments: list[SegmentInfo]) -> MemoryIndex:
        """From disjoint ascending rows of each disk."""
        result = cls(segments)
        for disk, all_rows in rows.items():
            data = all_rows[all_rows["segment"] != ZERO]
            shard = data["first"] // SHARD_BLOCKS
            result.by_shard[disk] = {int(number): data[shard == number] for number in np.unique(shard)}
            result.zero_rows[disk] = join_zeros(all_rows[all_rows["segment"] == ZERO])
        return result

    def index_disks(self) -> list[str]:
        return sorted({*self.by_shard, *self.zero_rows})

    def shards(self, disk: str) -> list[int]:
        return sorted(self.by_shard.get(disk, {}))

    def data(self, disk: str, shard: int) -> Rows:
        return self.by_shard.get(disk, {}).get(shard, EMPTY)

    def zeros(self, disk: str) -> Rows:
        return self.zero_rows.get(disk, EMPTY)


def merge(layers: Sequence[tuple[Index, dict[str, int]]], *, keep_zeros: bool) -> MemoryIndex:
    """Indexes laid over each other, oldest first, as one. With each: how many bytes of a disk (by id) are valid, beyond
    which its rows are void (the disk was smaller later). Segments that lost all their rows aren't named any more."""
    table: dict[Segment, int] = {}
    segments: list[SegmentInfo] = []
    remaps: list[NDArray[np.int32]] = []
    for layer, _ in layers:
        numbers = []
        for info in layer.segments:
            if info.segment not in table:
                table[info.segment] = len(segments)
                segments.append(info)
            numbers.append(table[info.segment])
        remaps.append(np.array(numbers, np.int32))
    result = MemoryIndex()
    for disk in sorted({disk for layer, _ in layers for disk in layer.index_disks()}):
        limits = [blocks_of(valid.get(disk, 0)) for _, valid in layers]
        zeros = [clip(layer.zeros(disk), 0, limit) for (layer, _), limit in zip(layers, limits, strict=True)]
        shards = sorted({shard for layer, _ in layers for shard in layer.shards(disk)})
        left: list[Rows] = []
        gap = 0
        for shard in shards:
            start, stop = shard * SHARD_BLOCKS, (shard + 1) * SHARD_BLOCKS
            if start > gap:
                left.append(overlay(np.concatenate([clip(rows, gap, start) for rows in zeros])))
            gap = stop
            pieces = []
            for (layer, _), limit, remap, zero in zip(layers, limits, remaps, zeros, strict=True):
                data = clip(layer.data(disk, shard), 0, limit)
                if len(data):
                    data["segment"] = remap[data["segment"]]
                pieces += [data, clip(zero, start, stop)]
            rows = overlay(np.concatenate(pieces))
            live = rows[rows["segment"] != ZERO]
            if len(live):
                result.by_shard.setdefault(disk, {})[shard] = live
            left.append(rows[rows["segment"] == ZERO])
        left.append(overlay(np.concatenate([clip(rows, gap, 1 << 62) for rows in zeros])))
        if keep_zeros:
            kept = join_zeros(np.concatenate(left))
            if len(kept):
                result.zero_rows[disk] = kept
    _prune(result, segments)
    return result


def _prune(index: MemoryIndex, segments: list[SegmentInfo]) -> None:
    """Keep only the segments that rows name, and renumber the rows."""
    used = np.zeros(len(segments), np.bool_)
    for shards in index.by_shard.values():
        for rows in shards.values():
            used[rows["segment"]] = True
    numbers = (np.cumsum(used) - 1).astype(np.int32)
    for shards in index.by_shard.values():
        for rows in shards.values():
            rows["segment"] = numbers[rows["segment"]]
    index.segments = [info for info, keep in zip(segments, used.tolist(), strict=True) if keep]


def pack(index: Index) -> tuple[dict[str, Any], list[bytes]]:
    """An index as sections of a sealed object, and what the head says of them."""
    sections = []
    listed: list[list[Any]] = []
    timelines = sorted({info.segment.timeline for info in index.segments})
    if index.segments:
        table = {
            "timeline": [timelines.index(info.segment.timeline) for info in index.segments],
            "epoch": [info.segment.epoch for info in index.segments],
            "seq": [info.segment.seq for info in index.segments],
            "size": [info.size for info in index.segments],
            "directory": [info.directory for info in index.segments],
        }
        columns = [planes(np.array(table[name], np.uint64), kind) for name, kind in _TABLE.items()]
        sections.append(
            struct.pack("<I", len(index.segments)) + b"".join(columns) + b"".join(i.random for i in index.segments)
        )
    for disk in index.index_disks():
        for shard in index.shards(disk):
            rows = index.data(disk, shard)
            sections.append(pack_data(rows, shard))
            listed.append([disk, shard, len(rows)])
        zeros = index.zeros(disk)
        if len(zeros):
            sections.append(pack_zeros(zeros))
            listed.append([disk, _ZEROS, len(zeros)])
    return {"segments": len(index.segments), "timelines": timelines, "index": listed}, sections


def unpack_table(data: bytes, timelines: list[str], object: str) -> list[SegmentInfo]:
    (count,) = struct.unpack_from("<I", data)
    view = memoryview(data)[4:]
    if len(view) != count * (sum(np.dtype(kind).itemsize for kind in _TABLE.values()) + 32):
        raise Corrupt(f"{object}: its table of segments has the wrong length", object=object)
    columns = []
    for kind in _TABLE.values():
        size = count * np.dtype(kind).itemsize
        columns.append(unplanes(view[:size], count, kind).tolist())
        view = view[size:]
    return [
        SegmentInfo(Segment(timelines[timeline], epoch, seq), size, directory, bytes(view[32 * n : 32 * n + 32]))
        for n, (timeline, epoch, seq, size, directory) in enumerate(zip(*columns, strict=True))
    ]


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
        self._first = 2 if head.get("segments") else 1
        self._places: dict[str, dict[int, int]] = {}
        for section, (disk, shard, _) in enumerate(head.get("index", ()), self._first):
            self._places.setdefault(disk, {})[shard] = section

    @property
    def ended(self) -> bool:
        """It is the mark of a timeline's end, no point."""
        return bool(self.head.get("kind") == "end")

    @property
    def segments(self) -> list[SegmentInfo]:
        if not self.head.get("segments"):
            return []
        return unpack_table(self.opened.section(1), self.head["timelines"], self.key)

    def index_disks(self) -> list[str]:
        return sorted(self._places)

    def shards(self, disk: str) -> list[int]:
        return sorted(shard for shard in self._places.get(disk, ()) if shard != _ZEROS)

    def data(self, disk: str, shard: int) -> Rows:
        section = self._places.get(disk, {}).get(shard)
        return EMPTY if section is None else unpack_data(self.opened.section(section), shard, self.key)

    def zeros(self, disk: str) -> Rows:
        section = self._places.get(disk, {}).get(_ZEROS)
        return EMPTY if section is None else unpack_zeros(self.opened.section(section), self.key)

    def has_rows(self, disk: str, shard: int) -> bool:
        """Whether there may be rows in this shard: zero rows are of any."""
        places = self._places.get(disk)
        return places is not None and (shard in places or _ZEROS in places)

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
        )


def all_rows(index: Index, disk: str) -> Rows:
    """All rows of a disk, data and zeroes, in no order."""
    return np.concatenate([*(index.data(disk, shard) for shard in index.shards(disk)), index.zeros(disk)])


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
