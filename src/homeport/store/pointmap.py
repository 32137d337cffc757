"""The map of a recovery point: for each block of its disks the newest row at or below the point.

The layers' indexes are laid over each other lazily, 1 GiB of a disk at a time, so that a disk's size costs nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, MiB
from homeport.store import digests as digests_
from homeport.store.cache import Cache
from homeport.store.errors import LayerGone, NotFound
from homeport.store.index import (
    EMPTY,
    PAGE_BLOCKS,
    SHARD_BLOCKS,
    ZERO,
    Rows,
    between,
    clip,
    ends,
    overlay,
)
from homeport.store.names import Segment
from homeport.store.records import Record, blocks_of, caps
from homeport.store.segment import SegmentInfo

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore


class PointMap:
    """Thread-safe. ``points`` and ``layers``: oldest first; ``caps``: for each layer, up to which byte of each disk its
    rows are valid at the point."""

    def __init__(self, store: MachineStore, point: PointId) -> None:
        """Raises PointNotFound, Corrupt."""
        self._store = store
        chain = store.chain(point)[::-1]
        self.points = [point for point, _ in chain]
        self.layers: list[Record] = [record for _, record in chain]
        self.caps = caps(self.layers)
        self.segments: list[SegmentInfo] = []
        self._lock = threading.Lock()
        self._remaps: dict[int, NDArray[np.int32]] = {}
        self._numbers: dict[Segment, int] = {}
        self._pages: Cache[Rows] = Cache(64 * MiB, lambda rows: rows.nbytes + 64)
        self._digest_maps: dict[str, tuple[digests_.DigestMap | None, int]] = {}

    @property
    def disks(self) -> dict[str, int]:
        return self.layers[-1].disks

    def rows(self, disk: str, block: int) -> Rows:
        """The resolved rows of the page that ``block`` lies in: disjoint, ascending; gaps are zeroes. ``segment`` is a
        number of :attr:`segments`, ``layer`` counts from the oldest."""
        page = block // PAGE_BLOCKS
        found = self._pages.get((disk, page))
        if found is None:
            found = self._pages.put((disk, page), self._resolve(disk, page))
        return found

    def _resolve(self, disk: str, page: int) -> Rows:
        start, stop = page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS
        shard = start // SHARD_BLOCKS
        pieces = []
        for number, layer in enumerate(self.layers):
            limit = blocks_of(self.caps[number].get(disk, 0))
            if limit <= start or not layer.has_rows(disk, shard):
                continue
            data = between(self.layer_rows(layer, disk, shard), start, min(stop, limit))
            if len(data):
                data["segment"] = self._remap(number)[data["segment"]]
            zeros = between(self.layer_rows(layer, disk, None), start, min(stop, limit))
            for rows in (data, zeros):
                if len(rows):
                    rows["layer"] = number
                    pieces.append(rows)
        return overlay(np.concatenate(pieces)) if pieces else EMPTY

    def layer_rows(self, layer: Record, disk: str, shard: int | None) -> Rows:
        """Data rows of a shard, or (None) the zero rows of a disk, of one layer."""
        name = (layer.key, disk, shard)
        found = self._store.index_rows.get(name)
        if found is None:
            try:
                found = layer.zeros(disk) if shard is None else layer.data(disk, shard)
            except NotFound as error:
                raise LayerGone(error.cause) from None
            self._store.index_rows.put(name, found)
        return found

    def _remap(self, number: int) -> NDArray[np.int32]:
        """From a layer's numbers of segments to this reader's."""
        found = self._remaps.get(number)
        if found is None:
            try:
                infos = self._store.segments_of(self.layers[number])
            except NotFound as error:
                raise LayerGone(error.cause) from None
            with self._lock:
                numbers = []
                for info in infos:
                    place = self._numbers.setdefault(info.segment, len(self.segments))
                    if place == len(self.segments):
                        self.segments.append(info)
                    numbers.append(place)
                found = self._remaps[number] = np.array(numbers, np.int32)
        return found

    def pages_with_rows(self, disk: str, from_layer: int = 0) -> list[int]:
        """Pages that any layer from ``from_layer`` on has rows in, ascending."""
        pages: set[int] = set()
        size = blocks_of(self.disks[disk])
        for layer in self.layers[from_layer:]:
            for shard in layer.shards(disk):
                rows = self.layer_rows(layer, disk, shard)
                pages.update(np.unique(rows["first"] // PAGE_BLOCKS).tolist())
        return sorted(page for page in pages if page * PAGE_BLOCKS < size)

    # -- what is where ---

    def extents(self, disk: str) -> Extents:
        """What is not zero (in 16 KiB blocks)."""
        pieces = []
        for page in self.pages_with_rows(disk):
            rows = self.rows(disk, page * PAGE_BLOCKS)
            pieces.append(_byte_runs(rows[rows["segment"] != ZERO]))
        return _extents(pieces, self.disks[disk])

    def changed_since(self, ancestor: PointId, disk: str) -> Extents:
        """See :meth:`homeport.store.reader.PointReader.changed_since`."""
        mine = list(zip(self.points, self.layers, strict=True))
        theirs = self._store.chain(ancestor, dropped=True)[::-1]
        places = {point: number for number, (point, _) in enumerate(theirs)}
        # The newest point that both stand on: below it nothing differs.
        shared = next((number for number in range(len(mine) - 1, -1, -1) if mine[number][0] in places), None)
        base = [] if shared is None else [mine[shared]]
        sides = (mine, theirs) if shared is None else (mine[shared + 1 :], theirs[places[mine[shared][0]] + 1 :])
        size = self.disks[disk]
        pieces: list[NDArray[np.int64]] = []
        for side in sides:
            layers = [record for _, record in (*base, *side)]
            sizes = [record.disks.get(disk, 0) for record in layers]
            floors = [record.floor.get(disk, 0) for record in layers[1:]]
            for below, floor in zip(sizes, floors, strict=False):
                if floor < below:  # it shrank: what lay beyond was lost, and may be back as zeroes
                    pieces.append(np.array([[floor // BLOCK * BLOCK, below]], np.int64))
            for _, record in side:
                for shard in record.shards(disk):
                    pieces.append(_byte_runs(self.layer_rows(record, disk, shard)))
                pieces.append(_byte_runs(self.layer_rows(record, disk, None)))
        return _extents(pieces, size)

    # -- digests ---

    def digest_map(self, disk: str) -> tuple[digests_.DigestMap | None, int]:
        """The newest digest map at or below the point, and the number of its layer (-1: none). A disk that shrank after
        it makes it useless."""
        if disk not in self._digest_maps:
            found, layer = digests_.newest_map(self._store.objects, self._store.keys, self.points, disk)
            if found is not None and self.caps[layer].get(disk, 0) < found.size:
                found, layer = None, -1
            self._digest_maps[disk] = found, layer
        return self._digest_maps[disk]

    def touched_regions(self, disk: str, after_layer: int) -> list[int]:
        """16 MiB regions that layers after the given one have rows in, ascending."""
        regions: set[int] = set()
        per_page = PAGE_BLOCKS // BLOCKS_PER_REGION
        if after_layer >= 0:
            for layer in self.layers[after_layer + 1 :]:
                zeros = self.layer_rows(layer, disk, None)
                zeros = clip(zeros, 0, blocks_of(self.disks[disk]))
                for first, last in zip(
                    (zeros["first"] // BLOCKS_PER_REGION).tolist(),
                    ((ends(zeros) - 1) // BLOCKS_PER_REGION).tolist(),
                    strict=True,
                ):
                    regions.update(range(first, last + 1))
        for page in self.pages_with_rows(disk, after_layer + 1):
            rows = self.rows(disk, page * PAGE_BLOCKS)
            rows = rows[(rows["segment"] != ZERO) & (rows["layer"] > after_layer)]
            found = np.unique(rows["first"] // BLOCKS_PER_REGION)
            regions.update(found[found < (page + 1) * per_page].tolist())
        return sorted(regions)

    def live_rows(self, disk: str) -> list[tuple[SegmentInfo, Rows]]:
        """All data rows of a disk, by segment."""
        result: dict[int, list[Rows]] = {}
        for page in self.pages_with_rows(disk):
            rows = self.rows(disk, page * PAGE_BLOCKS)
            for segment in np.unique(rows["segment"][rows["segment"] != ZERO]).tolist():
                result.setdefault(segment, []).append(rows[rows["segment"] == segment])
        return [(self.segments[segment], np.concatenate(rows)) for segment, rows in sorted(result.items())]


def _byte_runs(rows: Rows) -> NDArray[np.int64]:
    result: NDArray[np.int64] = np.stack((rows["first"] * BLOCK, ends(rows) * BLOCK), axis=1)
    return result


def _extents(pieces: list[NDArray[np.int64]], size: int) -> Extents:
    if not pieces:
        return Extents()
    runs = np.concatenate(pieces)
    return Extents._coalesce(runs[:, 0], runs[:, 1]).clip(0, size)
