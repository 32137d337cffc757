"""Reading a recovery point.

Decoded frames are kept in a cache of bounded size, which all readers of a machine share. No lock is held while anything
is fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents, distinct
from homeport.domain.points import PointId, PointInfo
from homeport.domain.units import BLOCK, REGION, MiB
from homeport.store import digests as digests_
from homeport.store.builder import gather
from homeport.store.cache import Cache
from homeport.store.disk_reader import DiskReader, Pieces
from homeport.store.errors import Corrupt, CorruptFrame, LayerGone, NotFound
from homeport.store.frame_cache import FrameCache
from homeport.store.index import ZERO, Rows
from homeport.store.names import Segment
from homeport.store.places import Region, Source, resolve
from homeport.store.pointmap import PointMap
from homeport.store.ranges import RangeCache, get_ranges
from homeport.store.segment import Directory, SegmentCipher, SegmentInfo, open_frame, read_directory

if TYPE_CHECKING:
    from homeport.store.keys import MachineKey
    from homeport.store.timeline import MachineStore

T = TypeVar("T")
_ZEROES = bytes(MiB)
_TRIES = 8
_RESOLVED_MOST = 32 * MiB


class _SegmentGone(LayerGone):
    """A segment that the map names isn't there: its records may have moved. ``damage``: what it is otherwise."""

    def __init__(self, segment: Segment, damage: Corrupt) -> None:
        super().__init__(damage.cause)
        self.segment = segment
        self.damage = damage


@dataclass(frozen=True, eq=False)
class View:
    """A point's map, the regions resolved from it, and the segments that had been found missing before it was made."""

    map: PointMap
    missed: frozenset[Segment] = frozenset()
    regions: dict[str, Cache[Region]] = field(default_factory=dict)


class PointReader:
    """One recovery point. Thread-safe. ``disks``: sizes in bytes; ``machine``: its description as of the point."""

    def __init__(self, store: MachineStore, point: PointId) -> None:
        """Raises PointNotFound, Corrupt."""
        self._store = store
        self.point = point
        self._lock = threading.Lock()
        self.view = View(PointMap(store, point))
        record = self.view.map.layers[-1]
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

    # -- the map -------------------------------------------------------------------------------------------------------

    def with_map(self, ask: Callable[[PointMap], T]) -> T:
        """Ask the point's map. Where a layer was thinned away meanwhile, or a segment compacted, the map is made anew:
        what the point holds is the same, only the records that say so differ."""
        return self.with_view(lambda view: ask(view.map))

    def with_view(self, ask: Callable[[View], T]) -> T:
        for _ in range(_TRIES):
            view = self.view
            try:
                return ask(view)
            except LayerGone as gone:
                self._renew(view, gone)
        return ask(self.view)

    def _renew(self, stale: View, gone: LayerGone) -> None:
        """Raises Corrupt: a segment is missing that the map still names although it was made after it was missed.
        Raises PointNotFound: the point was dropped."""
        missed = stale.missed
        if isinstance(gone, _SegmentGone):
            if gone.segment in missed:
                raise gone.damage from None
            missed |= {gone.segment}
        for layer in stale.map.layers:
            self._store.forget(layer.key)
        fresh = View(PointMap(self._store, self.point, without=missed), missed)
        with self._lock:
            if self.view is stale:
                self.view = fresh

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
        self._check(disk, offset, len(view))
        position = 0
        while position < len(view):
            # No more than a region's frames are held at once.
            length = min(len(view) - position, REGION - (offset + position) % REGION)
            for piece in self.pieces(disk, offset + position, length):
                if isinstance(piece, int):
                    _fill_zero(view[position : position + piece])
                    position += piece
                else:
                    view[position : position + len(piece)] = piece
                    position += len(piece)

    def _check(self, disk: str, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.disks[self._disk(disk)]:
            raise ValueError(f"{offset}+{length} is beyond {disk} of {self.disks[disk]} bytes")

    def pieces(self, disk: str, offset: int, length: int) -> Pieces:
        """What :meth:`read_into` would fill in, without a copy: as views of the frames, which stay valid for as long
        as they are held. Raises as it does."""
        self._check(disk, offset, length)
        return self.disk(disk).pieces(offset, length)

    def disk(self, disk: str) -> DiskReader:
        """One disk, for many reads."""
        return DiskReader(self, self._disk(disk))

    # -- what a DiskReader asks for ------------------------------------------------------------------------------------

    def region(self, view: View, disk: str, region: int) -> Region:
        """Where a region's bytes lie by the view's map."""
        cache = view.regions.get(disk)
        if cache is None:
            cache = view.regions.setdefault(disk, Cache(_RESOLVED_MOST, lambda region: region.weight))
        found = cache.get(region)
        if found is None:
            found = cache.put(region, resolve(view.map, disk, region, self._store.frames))
        return found

    @property
    def frames(self) -> FrameCache:
        return self._store.frames

    def fetch(self, disk: str, wanted: dict[int, Source], *, wait: bool = True) -> dict[int, memoryview]:
        """Decoded frames by their places. Each is fetched by one thread, others wait for it; those that other threads
        fetch are left out unless ``wait``. Raises what the first that failed did: _SegmentGone, Corrupt, …"""
        frames = self._store.frames
        mine, result, others = frames.claim(wanted)
        failed: BaseException | None = None
        left = set(mine)
        try:
            by_segment: dict[Segment, list[int]] = {}
            for place in mine:
                by_segment.setdefault(wanted[place].info.segment, []).append(place)
            for places in by_segment.values():
                try:
                    sealed = self._sealed(disk, [wanted[place] for place in places])
                except Exception as error:
                    failed = failed or error
                    for place in places:
                        left.discard(place)
                        frames.fail(place, error)
                    continue
                for place, data in zip(places, sealed, strict=True):
                    left.discard(place)
                    try:
                        blocks = self._open(disk, wanted[place], data)
                    except Exception as error:
                        failed = failed or error
                        frames.fail(place, error)
                    else:
                        result[place] = frames.deliver(place, blocks)
        finally:
            for place in left:
                frames.fail(place, InterruptedError("the fetching thread was ended"))
        if failed is not None:
            raise failed
        if wait:
            for place, flight in others.items():
                result[place] = flight.wait()
        return result

    def _sealed(self, disk: str, sources: list[Source]) -> list[memoryview]:
        """Frames of one segment, still sealed. Raises _SegmentGone, StoreUnavailable."""
        segment = sources[0].info.segment
        key = segment.key(self.keys.machine)
        ranges = [(source.offset, source.length) for source in sources]
        try:
            return get_ranges(self._store.objects, key, ranges)
        except NotFound:
            raise _SegmentGone(segment, _missing_frame(key, disk, sources[0])) from None

    def _open(self, disk: str, source: Source, data: memoryview) -> bytes:
        """Raises CorruptFrame."""
        segment = source.info.segment
        cipher = self.cipher(source.info)
        try:
            return open_frame(self.keys, cipher, segment, disk, source.number, source.first, data)
        except CorruptFrame:
            objects = self._store.objects
            key = segment.key(self.keys.machine)
            if not isinstance(objects, RangeCache) or not objects.drop_range(key, (source.offset, source.length)):
                raise
        # The cache's disk was at fault perhaps: the store itself is asked.
        try:
            again = memoryview(objects.get_range(key, source.offset, source.length))
        except NotFound:
            raise _SegmentGone(segment, _missing_frame(key, disk, source)) from None
        return open_frame(self.keys, cipher, segment, disk, source.number, source.first, again)

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
        store can't say (the other point was dropped, or was and the space of what it had changed was given back)."""
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
        for segment in distinct(data["segment"]).tolist():
            mine = data[data["segment"] == segment]
            info = point_map.segments[segment]
            directory = self.directory(info)
            directory.check(mine, info.segment.key(self.keys.machine))
            blocks, found = gather(mine, directory.starts, directory.digests)
            result[blocks - start] = found
        for number in distinct(data["layer"]).tolist():
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
        """Raises LayerGone (within :meth:`with_map`: the map is made anew), Corrupt, StoreUnavailable."""
        found = self._store.directories.get(info.segment)
        if found is None:
            try:
                found = read_directory(self._store.objects, self.keys, info)
            except NotFound:
                key = info.segment.key(self.keys.machine)
                raise _SegmentGone(info.segment, Corrupt(f"{key} is missing", object=key)) from None
            self._store.directories.put(info.segment, found)
        return found


def _missing_frame(key: str, disk: str, source: Source) -> CorruptFrame:
    return CorruptFrame(
        f"{key} is missing: frame {source.number} ({disk}, from block {source.first}) can't be read",
        object=key,
        frame=source.number,
        disk=disk,
        first_block=source.first,
    )


def _fill_zero(view: memoryview) -> None:
    for start in range(0, len(view), len(_ZEROES)):
        piece = view[start : start + len(_ZEROES)]
        piece[:] = _ZEROES[: len(piece)]
