"""One disk of a recovery point, read in pieces: views of decoded frames that nobody copied."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from homeport.store.places import SHIFT, Region, Source

if TYPE_CHECKING:
    from homeport.store.reader import PointReader, View

Pieces = list[memoryview | int]
"""Consecutive bytes of a disk: read-only views of decoded frames, and numbers of zeroes."""

_Span = tuple[int, int, int, Source | None]  # bytes, where they begin in the frame, its place or -1, what to fetch


class DiskReader:
    """Thread-safe. Offsets and lengths in bytes, within the disk: they aren't checked."""

    def __init__(self, reader: PointReader, disk: str) -> None:
        self._reader = reader
        self._disk = disk
        self._get = reader.frames.get
        self.size = reader.disks[disk]

    def at_hand(self, offset: int, length: int) -> Pieces | None:
        """As :meth:`pieces` where all of it is in memory, else None. Waits for nothing."""
        regions = self._reader.view.regions.get(self._disk)
        if regions is None:
            return None
        region = regions.get(offset >> SHIFT)
        if region is None:
            return None
        starts, pieces = region
        stop, base, place, _ = pieces[bisect_right(starts, offset) - 1]
        if offset + length <= stop:  # within one frame, as small reads are: all the rest is for the others
            if place < 0:
                return [length]
            frame = self._get(place)
            if frame is None:
                return None
            offset -= base
            piece = frame[offset : offset + length]
            return [piece] if len(piece) == length else _joined([piece, length - len(piece)])
        spans: list[_Span] = []
        end = offset + length
        while offset < end:
            region = regions.get(offset >> SHIFT)
            if region is None:
                return None
            offset = _spans(region, offset, end, spans)
        frames: dict[int, memoryview] = {}
        for _, _, place, _ in spans:
            if place >= 0:
                frame = self._get(place)
                if frame is None:
                    return None
                frames[place] = frame
        return _cut(spans, frames)

    def pieces(self, offset: int, length: int) -> Pieces:
        """What the disk holds. Raises Corrupt, StoreUnavailable, PointNotFound."""
        return self._reader.with_view(lambda view: self._pieces(view, offset, length))

    def _pieces(self, view: View, offset: int, length: int) -> Pieces:
        spans = self._resolve(view, offset, length)
        frames: dict[int, memoryview] = {}
        missing: dict[int, Source] = {}
        for _, _, place, source in spans:
            if source is not None and place not in frames:
                frame = self._get(place)
                if frame is None:
                    missing[place] = source
                else:
                    frames[place] = frame
        if missing:
            frames |= self._reader.fetch(self._disk, missing)
        return _cut(spans, frames)

    def fetch(self, offset: int, length: int) -> None:
        """Have it in memory soon: what no other thread fetches is fetched. Raises as :meth:`pieces`."""
        spans = self._reader.with_view(lambda view: self._resolve(view, offset, length))
        missing = {place: source for _, _, place, source in spans if source and place not in self._reader.frames}
        if missing:
            self._reader.fetch(self._disk, missing, wait=False)

    def _resolve(self, view: View, offset: int, length: int) -> list[_Span]:
        spans: list[_Span] = []
        end = offset + length
        while offset < end:
            offset = _spans(self._reader.region(view, self._disk, offset >> SHIFT), offset, end, spans)
        return spans


def _spans(region: Region, offset: int, end: int, spans: list[_Span]) -> int:
    """Append what of ``[offset, end)`` lies in the region; returns where that ends."""
    starts, pieces = region
    for index in range(bisect_right(starts, offset) - 1, len(pieces)):
        stop, base, place, source = pieces[index]
        stop = min(stop, end)
        spans.append((stop - offset, offset - base, place, source))
        offset = stop
        if offset == end:
            break
    return offset


def _cut(spans: list[_Span], frames: dict[int, memoryview]) -> Pieces:
    result: Pieces = []
    for length, begin, place, _ in spans:
        if place < 0:
            result.append(length)
            continue
        piece = frames[place][begin : begin + length]
        result.append(piece)
        if len(piece) < length:  # the frame ended the disk, which has grown since
            result.append(length - len(piece))
    return _joined(result)


def _joined(pieces: Pieces) -> Pieces:
    """Without empty pieces, runs of zeroes in one."""
    result: Pieces = []
    for piece in pieces:
        if isinstance(piece, int):
            if result and isinstance(result[-1], int):
                result[-1] += piece
                continue
        elif not len(piece):
            continue
        result.append(piece)
    return result
