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

from homeport.domain.units import BLOCK, GiB
from homeport.store.errors import Corrupt

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
    edges = np.unique(np.concatenate((rows["first"], ends(rows))))
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
    column = np.ascontiguousarray(values.astype(kind))
    deltas = np.diff(column, prepend=column.dtype.type(0))
    return deltas.view(np.uint8).reshape(len(column), column.dtype.itemsize).T.tobytes()


def unplanes(data: memoryview, count: int, kind: str) -> NDArray[Any]:
    dtype = np.dtype(kind)
    bytes_ = np.frombuffer(data, np.uint8, count * dtype.itemsize).reshape(dtype.itemsize, count)
    deltas = np.ascontiguousarray(bytes_.T).reshape(-1).view(dtype)
    return np.cumsum(deltas, dtype=dtype)


class _Columns:
    """Columns one after another behind a row count (u32)."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds = kinds

    def pack(self, rows: Any) -> bytes:
        parts = [planes(rows[name], kind) for name, kind in self.kinds.items()]
        return _COUNT.pack(len(rows)) + b"".join(parts)

    def unpack(self, data: bytes, object: str) -> tuple[int, dict[str, NDArray[Any]]]:
        (count,) = _COUNT.unpack_from(data)
        view = memoryview(data)[_COUNT.size :]
        if len(view) != count * sum(np.dtype(kind).itemsize for kind in self.kinds.values()):
            raise Corrupt(f"{object}: its index has the wrong length", object=object)
        columns = {}
        for name, kind in self.kinds.items():
            size = count * np.dtype(kind).itemsize
            columns[name] = unplanes(view[:size], count, kind)
            view = view[size:]
        return count, columns


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


def pack_data(rows: Rows, shard: int) -> bytes:
    """Disjoint ascending data rows of one shard as a section."""
    shifted = rows.copy()
    shifted["first"] -= shard * SHARD_BLOCKS
    return _DATA.pack(shifted)


def unpack_data(data: bytes, shard: int, object: str) -> Rows:
    count, columns = _DATA.unpack(data, object)
    rows = rows_of(columns, count)
    rows["first"] += shard * SHARD_BLOCKS
    return rows


def pack_zeros(rows: Rows) -> bytes:
    """Disjoint ascending zero rows of one disk as a section."""
    return _ZEROS.pack(rows)


def unpack_zeros(data: bytes, object: str) -> Rows:
    count, columns = _ZEROS.unpack(data, object)
    return rows_of({**columns, "segment": ZERO}, count)
