"""The index of what changed: rows, each a run of blocks of one disk and where its data lies. Arrays only.

A row is either data (blocks of one frame) or zeroes (any number of blocks). Frames never cross a multiple of sixteen
blocks, so a data row never crosses a page or a shard.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import distinct
from homeport.domain.units import BLOCK, GiB
from homeport.store.errors import Corrupt
from homeport.store.heads import MOST_DISK

FRAME_BLOCKS = 16
"""Blocks in a frame at most; no frame crosses a multiple of it."""

PAGE_BLOCKS = GiB // BLOCK
"""The piece of a disk's map that is resolved at once: 1 GiB."""

SHARD_BLOCKS = 64 * PAGE_BLOCKS
"""The piece of a disk whose data rows are one section of a record: 64 GiB."""

ZERO = -1
"""In the column ``segment``: the row is zeroes."""

ROW = np.dtype(
    [
        ("first", "<i8"),  # first block
        ("count", "<i8"),  # blocks
        ("segment", "<i4"),  # number in a table of segments, or ZERO
        ("skip", "<i4"),  # blocks of the frame before `first`
        ("offset", "<i8"),  # of the frame in its segment, bytes
        ("length", "<i8"),  # of the frame in its segment, bytes, header and tag included
        ("frame", "<i8"),  # its number in the segment
        ("layer", "<i4"),  # who brought the row (while resolving; not stored)
    ]
)
Rows = NDArray[Any]
"""An array of ``ROW``."""

EMPTY: Rows = np.zeros(0, ROW)

_COUNT = struct.Struct("<I")
_MOST_BLOCKS = MOST_DISK // BLOCK
_LONG = 64


def rows_of(columns: dict[str, Any], length: int) -> Rows:
    """Rows from columns; what isn't named is 0."""
    rows = np.zeros(length, ROW)
    for column, values in columns.items():
        rows[column] = values
    return rows


def zeros(pairs: Sequence[tuple[int, int]]) -> Rows:
    """Zero rows from ``(first block, blocks)``."""
    array = np.array(pairs, np.int64).reshape(-1, 2)
    return rows_of({"first": array[:, 0], "count": array[:, 1], "segment": ZERO}, len(array))


def ends(rows: Rows) -> NDArray[np.int64]:
    result: NDArray[np.int64] = rows["first"] + rows["count"]
    return result


def overlay(rows: Rows) -> Rows:
    """Rows painted one after another, the later over the earlier: disjoint rows, ascending."""
    rows = rows[rows["count"] > 0]
    if len(rows) < 2:
        return rows
    ordered = rows[np.argsort(rows["first"], kind="stable")]
    if (ordered["first"][1:] >= ends(ordered)[:-1]).all():
        return ordered
    edges = distinct(np.concatenate((rows["first"], ends(rows))))
    begin = np.searchsorted(edges, rows["first"])
    end = np.searchsorted(edges, ends(rows))
    spans = end - begin
    winner = np.full(len(edges) - 1, -1, np.int64)
    position = 0
    # Rows over many cells (long runs of zeroes) are painted as slices, the rest all at once, in their order.
    for index in [*np.flatnonzero(spans > _LONG).tolist(), len(rows)]:
        counts = spans[position:index]
        total = int(counts.sum())
        if total:
            cells = np.arange(total) + np.repeat(begin[position:index] - (np.cumsum(counts) - counts), counts)
            np.maximum.at(winner, cells, np.repeat(np.arange(position, index), counts))
        if index < len(rows):
            winner[begin[index] : end[index]] = index
        position = index + 1
    live = np.flatnonzero(winner >= 0)
    owner = winner[live]
    heads = np.flatnonzero(np.concatenate(([True], (np.diff(owner) != 0) | (np.diff(live) != 1))))
    tails = np.concatenate((heads[1:] - 1, [len(live) - 1]))
    result = rows[owner[heads]]
    return _cut(result, edges[live[heads]], edges[live[tails] + 1])


def _cut(rows: Rows, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Rows:
    result = rows.copy()
    result["skip"] += np.where(rows["segment"] == ZERO, 0, starts - rows["first"]).astype(np.int32)
    result["first"] = starts
    result["count"] = stops - starts
    return result


def clip(rows: Rows, start: int, stop: int) -> Rows:
    """What lies in blocks ``[start, stop)``."""
    keep = (rows["first"] < stop) & (ends(rows) > start)
    rows = rows[keep]
    return _cut(rows, np.maximum(rows["first"], start), np.minimum(ends(rows), stop))


def between(rows: Rows, start: int, stop: int) -> Rows:
    """As ``clip``, for disjoint ascending rows: found by halving."""
    if not len(rows):
        return EMPTY
    low = int(np.searchsorted(rows["first"], start, side="right")) - 1
    low = max(low, 0)
    high = int(np.searchsorted(rows["first"], stop, side="left"))
    return clip(rows[low:high], start, stop)


def join_zeros(rows: Rows) -> Rows:
    """Disjoint ascending zero rows, touching ones made one."""
    if len(rows) < 2:
        return rows
    heads = np.flatnonzero(np.concatenate(([True], rows["first"][1:] != ends(rows)[:-1])))
    tails = np.concatenate((heads[1:] - 1, [len(rows) - 1]))
    stop = ends(rows)[tails]
    result = rows[heads].copy()
    result["count"] = stop - result["first"]
    return result


# -- sections ----------------------------------------------------------------------------------------------------------


def planes(values: NDArray[Any], kind: str) -> bytes:
    """A column as differences modulo its width, stored as byte planes: all lowest bytes first (compresses well)."""
    deltas = np.array(values, kind)
    deltas[1:] -= deltas[:-1].copy()
    return deltas.view(np.uint8).reshape(len(deltas), deltas.dtype.itemsize).T.tobytes()


def unplanes(data: memoryview, count: int, kind: str) -> NDArray[Any]:
    dtype = np.dtype(kind)
    bytes_ = np.frombuffer(data, np.uint8, count * dtype.itemsize).reshape(dtype.itemsize, count)
    deltas = np.ascontiguousarray(bytes_.T).reshape(-1).view(dtype)
    return np.cumsum(deltas, dtype=dtype)


class _Columns:
    """Columns one after another behind a row count (u32)."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds = kinds
        self._width = sum(np.dtype(kind).itemsize for kind in kinds.values())

    def pack(self, rows: Any) -> bytes:
        parts = [planes(rows[name], kind) for name, kind in self.kinds.items()]
        return _COUNT.pack(len(rows)) + b"".join(parts)

    def size(self, rows: int) -> int:
        """Bytes of a section of so many rows."""
        return _COUNT.size + rows * self._width

    def unpack(self, sections: Sequence[bytes], object: str) -> tuple[list[int], dict[str, NDArray[Any]]]:
        """How many rows each section has, and the columns of all of them, one section after another."""
        counts, parts = [], []
        for data in sections:
            count = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else -1
            if len(data) != self.size(count):
                raise Corrupt(f"{object}: its index has the wrong length", object=object)
            counts.append(count)
            parts.append(np.frombuffer(data, np.uint8, offset=_COUNT.size).reshape(self._width, count))
        everything = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        columns = {}
        at = 0
        for name, kind in self.kinds.items():
            dtype = np.dtype(kind)
            bytes_ = everything[at : at + dtype.itemsize]
            at += dtype.itemsize
            values = np.cumsum(np.ascontiguousarray(bytes_.T).reshape(-1).view(dtype), dtype=dtype)
            if len(counts) > 1:  # each section counts from 0
                ends_ = np.cumsum(counts)[:-1]
                before = np.zeros(len(counts), dtype)
                before[1:] = np.where(ends_ > 0, values[ends_ - 1], 0) if len(values) else 0
                values -= np.repeat(before, counts)
            columns[name] = values
        return counts, columns


_DATA = _Columns(
    {
        "first": "<u4",  # within the shard
        "count": "<u1",
        "skip": "<u1",
        "segment": "<u4",
        "offset": "<u4",
        "length": "<u4",
        "frame": "<u4",
    }
)
_ZEROS = _Columns({"first": "<u8", "count": "<u8"})


COMPACT = np.dtype(list(_DATA.kinds.items()))
"""Data rows of one shard as they are kept: less than half of ``ROW``."""


def compact(rows: Rows, shard: int) -> NDArray[Any]:
    """Data rows of one shard as ``COMPACT``."""
    result = np.empty(len(rows), COMPACT)
    result["first"] = rows["first"] - shard * SHARD_BLOCKS
    for column in COMPACT.names[1:]:  # type: ignore[index]
        result[column] = rows[column]
    return result


def expand(packed: NDArray[Any], shard: int) -> Rows:
    """What :func:`compact` was given."""
    rows = rows_of({column: packed[column] for column in COMPACT.names}, len(packed))  # type: ignore[union-attr]
    rows["first"] += shard * SHARD_BLOCKS
    return rows


def pack_data(packed: NDArray[Any]) -> bytes:
    """Disjoint ascending rows of one shard, ``COMPACT``, as a section."""
    return _DATA.pack(packed)


def data_size(rows: int) -> int:
    """Bytes of a section of data rows; more than one for each block of a shard are none."""
    return _DATA.size(min(rows, SHARD_BLOCKS))


def zeros_size(rows: int) -> int:
    """Bytes of a section of zero rows."""
    return _ZEROS.size(rows)


def _checked(columns: dict[str, NDArray[Any]], counts: Sequence[int], segments: int, object: str) -> None:
    """Raises Corrupt unless these are rows of data, ascending and disjoint in each section, each within a frame."""
    first, count = columns["first"].astype(np.int64), columns["count"].astype(np.int64)
    if not len(first):
        return
    fresh = np.zeros(len(first), np.bool_)
    fresh[(np.cumsum(counts) - counts)[np.array(counts) > 0]] = True
    if (
        not int(count.min()) > 0
        or int((columns["skip"] + count).max()) > FRAME_BLOCKS
        or int((first + count).max()) > SHARD_BLOCKS
        or int(columns["segment"].max()) >= segments
        or not (fresh[1:] | (first[1:] >= (first + count)[:-1])).all()
    ):
        raise Corrupt(f"{object}: its index has rows that can't be", object=object)


def unpack_data(sections: Sequence[bytes], shards: Sequence[int], segments: int, object: str) -> Rows:
    """The rows of several shards, one after another. ``segments``: how many there are for them to name."""
    if not sections:
        return EMPTY
    counts, columns = _DATA.unpack(sections, object)
    _checked(columns, counts, segments, object)
    rows = rows_of(columns, len(columns["first"]))
    rows["first"] += np.repeat(np.array(shards, np.int64) * SHARD_BLOCKS, counts)
    return rows


def unpack_compact(data: bytes, segments: int, object: str) -> NDArray[Any]:
    """The rows of one shard, as they are kept."""
    (count,), columns = _DATA.unpack([data], object)
    _checked(columns, [count], segments, object)
    packed = np.empty(count, COMPACT)
    for column, values in columns.items():
        packed[column] = values
    return packed


def window(packed: NDArray[Any], shard: int, start: int, stop: int) -> Rows:
    """What of a shard's rows, ``COMPACT``, lies in blocks ``[start, stop)``: no more than that is unpacked."""
    offset = shard * SHARD_BLOCKS
    # The column by itself: searching the records would copy it whole.
    low, high = np.searchsorted(packed["first"], np.array([start, stop - 1]) - offset, side="right").tolist()
    return clip(expand(packed[max(low - 1, 0) : high], shard), start, stop)


def pack_zeros(rows: Rows) -> bytes:
    """Disjoint ascending zero rows of one disk as a section."""
    return _ZEROS.pack(rows)


def unpack_zeros(data: bytes, object: str) -> Rows:
    (count,), columns = _ZEROS.unpack([data], object)
    first, many = columns["first"], columns["count"]
    if count and (
        int(first.max()) >= _MOST_BLOCKS
        or not 0 < int(many.min()) <= int(many.max()) <= _MOST_BLOCKS
        or not (first[1:] >= (first + many)[:-1]).all()
    ):
        raise Corrupt(f"{object}: its index has zero rows that can't be", object=object)
    return rows_of({**columns, "segment": ZERO}, count)
