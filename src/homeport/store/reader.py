"""Reading a recovery point.

Decoded frames are kept in a cache of bounded size, which all readers of a machine share. No lock is held while anything
is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents
from homeport.domain.points import PointId, PointInfo
from homeport.domain.units import BLOCK, MiB
from homeport.store import digests as digests_
from homeport.store.builder import gather
from homeport.store.errors import CorruptFrame, LayerGone, NotFound
from homeport.store.index import PAGE_BLOCKS, ZERO, Rows, between
from homeport.store.pointmap import PointMap
from homeport.store.segment import Directory, SegmentCipher, SegmentInfo, open_frame, read_directory

if TYPE_CHECKING:
    from homeport.store.keys import MachineKey
    from homeport.store.timeline import MachineStore

T = TypeVar("T")
_READ_GAP = 64 << 10
_READ_MOST = 4 * MiB
_ZEROES = bytes(MiB)
_TRIES = 8


class PointReader:
    """One recovery point. Thread-safe. ``disks``: sizes in bytes; ``machine``: its description as of the point."""

    def __init__(self, store: MachineStore, point: PointId) -> None:
        """Raises PointNotFound, Corrupt."""
        self._store = store
        self.point = point
        self._map = PointMap(store, point)
        record = self._map.layers[-1]
        hidden = store.scan(point.timeline).hidden_upto >= point.number
        self.info: PointInfo = record.info(point, hidden)
        self.disks: dict[str, int] = dict(record.disks)
        self.machine: dict[str, Any] = record.head["machine"]
        self.incarnation: str = record.head["incarnation"]
        self.notes: tuple[str, ...] = tuple(record.head["notes"])

    def __repr__(self) -> str:
        return f"PointReader({self.point})"

    @property
    def keys(self) -> MachineKey:
        return self._store.keys

    def with_map(self, ask: Callable[[PointMap], T]) -> T:
        """Ask the point's map. Where a layer was thinned away meanwhile, the map is made anew: what the point holds is
        the same, only the records that say so differ."""
        for _ in range(_TRIES):
            current = self._map
            try:
                return ask(current)
            except LayerGone:
                for layer in current.layers:
                    self._store.forget(layer.key)
                self._map = PointMap(self._store, self.point)
        return ask(self._map)

    def _disk(self, disk: str) -> str:
        if disk not in self.disks:
            raise ValueError(f"{self.point} has no disk {disk}")
        return disk

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, disk: str, offset: int, length: int) -> bytes:
        """See :meth:`read_into`."""
        buffer = bytearray(length)
        self.read_into(disk, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, disk: str, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``, of any alignment, within the disk. Raises Corrupt (naming what is
        damaged; reads that don't touch it go on), StoreUnavailable, ValueError."""
        view = buffer.cast("B")
        end = offset + len(view)
        if offset < 0 or end > self.disks[self._disk(disk)]:
            raise ValueError(f"{offset}+{len(view)} is beyond {disk} of {self.disks[disk]} bytes")
        position = offset
        while position < end:
            page = position // BLOCK // PAGE_BLOCKS
            stop = min(end, (page + 1) * PAGE_BLOCKS * BLOCK)
            self._read_page(disk, position, view[position - offset : stop - offset])
            position = stop

    def _read_page(self, disk: str, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        found, rows = self.with_map(lambda point_map: (point_map, point_map.rows(disk, offset // BLOCK)))
        rows = between(rows, offset // BLOCK, -(-end // BLOCK))
        rows = rows[rows["segment"] != ZERO]
        frames = self._frames(found, disk, rows)
        done = offset
        for first, count, skip, layer, blocks in zip(
            rows["first"].tolist(),
            rows["count"].tolist(),
            rows["skip"].tolist(),
            rows["layer"].tolist(),
            frames,
            strict=True,
        ):
            start = max(first * BLOCK, offset)
            # A disk that shrank within a block and grew again: what lay beyond is gone.
            stop = min((first + count) * BLOCK, end, found.caps[layer].get(disk, 0))
            source = start - (first - skip) * BLOCK
            piece = memoryview(blocks)[source : source + max(stop - start, 0)]
            _fill_zero(view[done - offset : start - offset])
            view[start - offset : start - offset + len(piece)] = piece
            done = start + len(piece)
        _fill_zero(view[done - offset :])

    def _frames(self, point_map: PointMap, disk: str, rows: Rows) -> list[bytes]:
        """The decoded frames of data rows. Neighbours in a segment are fetched together."""
        result: list[bytes | None] = []
        wanted: dict[tuple[int, int], tuple[int, int, int]] = {}
        places = []
        for segment, place, length, number, first, skip in zip(
            rows["segment"].tolist(),
            rows["offset"].tolist(),
            rows["length"].tolist(),
            rows["frame"].tolist(),
            rows["first"].tolist(),
            rows["skip"].tolist(),
            strict=True,
        ):
            places.append((segment, place))
            found = self._store.frames.get((point_map.segments[segment].segment, place))
            result.append(found)
            if found is None:
                wanted[segment, place] = (length, number, first - skip)
        fetched = self._fetch(point_map, disk, wanted) if wanted else {}
        return [fetched[place] if found is None else found for found, place in zip(result, places, strict=True)]

    def _fetch(
        self, point_map: PointMap, disk: str, wanted: dict[tuple[int, int], tuple[int, int, int]]
    ) -> dict[tuple[int, int], bytes]:
        order = sorted(wanted)
        result: dict[tuple[int, int], bytes] = {}
        index = 0
        while index < len(order):
            segment, start = order[index]
            stop = start + wanted[order[index]][0]
            last = index
            while (
                last + 1 < len(order)
                and order[last + 1][0] == segment
                and order[last + 1][1] - stop <= _READ_GAP
                and order[last + 1][1] + wanted[order[last + 1]][0] - start <= _READ_MOST
            ):
                last += 1
                stop = order[last][1] + wanted[order[last]][0]
            info = point_map.segments[segment]
            data = memoryview(self._get_range(info, disk, wanted[order[index]], start, stop - start))
            cipher = self.cipher(info)
            for place in order[index : last + 1]:
                length, number, first = wanted[place]
                at = place[1] - start
                blocks = open_frame(self.keys, cipher, info.segment, disk, number, first, data[at : at + length])
                result[place] = self._store.frames.put((info.segment, place[1]), blocks)
            index = last + 1
        return result

    def _get_range(self, info: SegmentInfo, disk: str, frame: tuple[int, int, int], offset: int, length: int) -> bytes:
        key = info.segment.key(self.keys.machine)
        try:
            return self._store.objects.get_range(key, offset, length)
        except NotFound:
            # A reader without a lease, whose point was dropped and whose data is gone; else it is damage.
            self._store.chain(self.point)
            _, number, first = frame
            raise CorruptFrame(
                f"{key} is missing: frame {number} ({disk}, from block {first}) can't be read",
                object=key,
                frame=number,
                disk=disk,
                first_block=first,
            ) from None

    def cipher(self, info: SegmentInfo) -> SegmentCipher:
        found = self._store.ciphers.get(info.segment)
        if found is None:
            found = self._store.ciphers.put(info.segment, SegmentCipher(self.keys, info.segment, info.random))
        return found

    # -- what is where -------------------------------------------------------------------------------------------------

    def extents(self, disk: str) -> Extents:
        """What is not zero (in 16 KiB blocks)."""
        return self.with_map(lambda found: found.extents(self._disk(disk)))

    def changed_since(self, ancestor: PointId, disk: str) -> Extents:
        """What may differ from another point of this store, by the indexes: a superset of what does, none missed. For
        points of two histories with an ancestor in common: what either changed since. Raises PointNotFound where the
        store can't say (the other point was dropped)."""
        return self.with_map(lambda found: found.changed_since(ancestor, self._disk(disk)))

    # -- digests -------------------------------------------------------------------------------------------------------

    def digests(self, disk: str) -> digests_.PointDigests:
        """The digests of a disk as of this point."""
        return digests_.PointDigests(self, self._disk(disk))

    def fill_digests(self, point_map: PointMap, disk: str, rows: Rows, start: int, result: NDArray[np.uint8]) -> None:
        """Put the digests of resolved rows into ``result``, whose first row is block ``start``; from directories."""
        zeros = rows[rows["segment"] == ZERO]
        for first, count in zip(zeros["first"].tolist(), zeros["count"].tolist(), strict=True):
            result[first - start : first - start + count] = 0
        data = rows[rows["segment"] != ZERO]
        for segment in np.unique(data["segment"]).tolist():
            mine = data[data["segment"] == segment]
            directory = self.directory(point_map.segments[segment])
            blocks, found = gather(mine, directory.starts, directory.digests)
            result[blocks - start] = found
        for number in np.unique(data["layer"]).tolist():
            # A block cut by a disk that shrank: its directory tells of what it was.
            cap = point_map.caps[number].get(disk, 0)
            block = cap // BLOCK
            if (
                cap % BLOCK
                and cap < point_map.layers[number].disks.get(disk, 0)
                and start <= block < start + len(result)
            ):
                content = self.read(disk, block * BLOCK, min(BLOCK, self.disks[disk] - block * BLOCK))
                result[block - start] = digests_.block_digests(self.keys, content)[0]

    def directory(self, info: SegmentInfo) -> Directory:
        found = self._store.directories.get(info.segment)
        if found is None:
            found = self._store.directories.put(info.segment, read_directory(self._store.objects, self.keys, info))
        return found


def _fill_zero(view: memoryview) -> None:
    for start in range(0, len(view), len(_ZEROES)):
        piece = view[start : start + len(_ZEROES)]
        piece[:] = _ZEROES[: len(piece)]
