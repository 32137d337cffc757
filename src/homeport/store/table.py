"""The table of segments that a record's rows name (docs/store-format.md, "Records"): arrays, never a list of objects.

It is stored in pages of at most 4096 segments, each a section of its own, so that who needs few segments of a large
record fetches few pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.store.errors import Corrupt
from homeport.store.index import planes, unplanes
from homeport.store.names import Segment
from homeport.store.segment import SegmentInfo

PAGE_SEGMENTS = 4096

_KINDS = {"timeline": "<u2", "epoch": "<u8", "seq": "<u8", "size": "<u8", "directory": "<u8"}
_RANDOM = 32
_ROW = np.dtype([*_KINDS.items(), ("random", f"V{_RANDOM}")])
_WIDTH = _ROW.itemsize
_COUNT = struct.Struct("<I")


def pages_of(segments: int) -> int:
    """Sections that a table of so many segments takes."""
    return -(-segments // PAGE_SEGMENTS)


def page_size(segments: int) -> int:
    """Bytes of a page of a table, of so many segments."""
    return _COUNT.size + segments * _WIDTH


class SegmentTable:
    """Segments by place. ``timelines``: what the column ``timeline`` counts."""

    def __init__(self, timelines: Sequence[str] = (), rows: NDArray[Any] | None = None) -> None:
        self.timelines = list(timelines)
        self.rows = np.zeros(0, _ROW) if rows is None else rows

    @classmethod
    def of(cls, infos: Iterable[SegmentInfo]) -> SegmentTable:
        listed = list(infos)
        timelines = sorted({info.segment.timeline for info in listed})
        rows = [
            (timelines.index(info.segment.timeline), info.segment.epoch, info.segment.seq, info.size, info.directory,
             info.random)
            for info in listed
        ]  # fmt: skip
        return cls(timelines, np.array(rows, _ROW))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> SegmentInfo:
        row = self.rows[place]
        segment = Segment(self.timelines[row["timeline"]], int(row["epoch"]), int(row["seq"]))
        return SegmentInfo(segment, int(row["size"]), int(row["directory"]), row["random"].tobytes())

    def __iter__(self) -> Iterator[SegmentInfo]:
        return (self[place] for place in range(len(self)))

    def names(self) -> Iterator[Segment]:
        """As iterating, for who needs no more than the names."""
        columns = (self.rows[name].tolist() for name in ("timeline", "epoch", "seq"))
        return (Segment(self.timelines[owner], epoch, seq) for owner, epoch, seq in zip(*columns, strict=True))

    def take(self, keep: NDArray[Any]) -> SegmentTable:
        """Those that a mask (or places) chooses."""
        return SegmentTable(self.timelines, self.rows[keep])

    def pack(self) -> tuple[list[str], list[bytes]]:
        """Timelines that are named, ascending, and the pages."""
        used = sorted({self.timelines[number] for number in np.unique(self.rows["timeline"]).tolist()})
        numbers = np.array([used.index(name) if name in used else 0 for name in self.timelines], np.uint16)
        pages = []
        for start in range(0, len(self.rows), PAGE_SEGMENTS):
            rows = self.rows[start : start + PAGE_SEGMENTS]
            columns = [planes(numbers[rows["timeline"]], _KINDS["timeline"])]
            columns += [planes(rows[name], kind) for name, kind in _KINDS.items() if name != "timeline"]
            pages.append(b"".join((_COUNT.pack(len(rows)), *columns, rows["random"].tobytes())))
        return used, pages


def unpack_page(data: bytes, count: int, timelines: list[str], object: str) -> SegmentTable:
    """A page of ``count`` segments. Raises Corrupt."""
    view = memoryview(data)[_COUNT.size :]
    if len(data) != page_size(count) or _COUNT.unpack_from(data)[0] != count:
        raise Corrupt(f"{object}: its table of segments has the wrong length", object=object)
    rows = np.zeros(count, _ROW)
    for name, kind in _KINDS.items():
        size = count * np.dtype(kind).itemsize
        rows[name] = unplanes(view[:size], count, kind)
        view = view[size:]
    rows["random"] = np.frombuffer(view, f"V{_RANDOM}")
    if count and int(rows["timeline"].max()) >= len(timelines):
        raise Corrupt(f"{object}: its table of segments names a timeline that it doesn't list", object=object)
    return SegmentTable(timelines, rows)


def join(tables: Sequence[SegmentTable]) -> tuple[SegmentTable, list[NDArray[np.int32]]]:
    """One table of all segments, each once, in order of their names; and for each table where its places went."""
    timelines = sorted({name for table in tables for name in table.timelines})
    pieces = []
    for table in tables:
        rows = table.rows.copy()
        numbers = np.array([timelines.index(name) for name in table.timelines], np.uint16)
        if len(rows):
            rows["timeline"] = numbers[rows["timeline"]]
        pieces.append(rows)
    rows = np.concatenate(pieces) if pieces else np.zeros(0, _ROW)
    order = np.lexsort((rows["seq"], rows["epoch"], rows["timeline"]))
    ordered = rows[order]
    fresh = np.ones(len(rows), np.bool_)
    if len(rows):
        same = [ordered[name][1:] == ordered[name][:-1] for name in ("timeline", "epoch", "seq")]
        fresh[1:] = ~np.logical_and.reduce(same)
    places = np.empty(len(rows), np.int32)
    places[order] = np.cumsum(fresh) - 1
    stops = np.cumsum([len(piece) for piece in pieces])
    remaps = np.split(places, stops[:-1]) if pieces else []
    return SegmentTable(timelines, ordered[fresh]), remaps
