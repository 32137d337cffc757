"""The map of a recovery point: for each block of its disks the newest row at or below the point.

The indexes of its links (called layers here, whatever they are: points, thinning records or merged ones) are laid over
each other lazily, 1 GiB of a disk at a time, so that a disk's size costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents, distinct
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, MiB
from homeport.store import digests as digests_
from homeport.store.cache import Cache
from homeport.store.chain import Link, chain
from homeport.store.errors import Corrupt, LayerGone, NotFound, PointNotFound
from homeport.store.index import (
    EMPTY,
    PAGE_BLOCKS,
    SHARD_BLOCKS,
    ZERO,
    Rows,
    between,
    clip,
    ends,
    expand,
    overlay,
    window,
)
from homeport.store.names import Segment
from homeport.store.records import Record, blocks_of, caps, lacking
from homeport.store.segment import SegmentInfo

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

T = TypeVar("T")

_AT_ONCE = 1 << 18
"""Rows that are laid over each other at once."""


class PointMap:
    """Thread-safe. ``points`` and ``layers``: oldest first; ``caps``: for each layer, up to which byte of each disk its
    rows are valid at the point; ``segments``: those that rows asked for so far name."""

    def __init__(
        self,
        store: MachineStore,
        point: PointId,
        *,
        layers: bool = True,
        cuts: Collection[PointId] = (),
        without: Collection[Segment] = (),
    ) -> None:
        """``layers``, ``cuts``, ``without``: see :func:`homeport.store.chain.chain`. Raises PointNotFound, Corrupt."""
        self._store = store
        self._point = point
        links = chain(store, point, layers=layers, cuts=cuts, without=without)[::-1]
        self.points = [point for point, _ in links]
        self.layers: list[Record] = [record for _, record in links]
        self.caps = caps(self.layers)
        self.segments: list[SegmentInfo] = []
        self._without = without
        self._lock = threading.Lock()
        self._numbers: dict[Segment, int] = {}
        self._pages: Cache[Rows] = Cache(64 * MiB, lambda rows: rows.nbytes + 64)
        self._digest_maps: dict[str, tuple[digests_.DigestMap | None, int]] = {}
        self._for_digests: dict[str, PointMap] = {}

    @property
    def disks(self) -> dict[str, int]:
        return self.layers[-1].disks

    def rows(self, disk: str, block: int) -> Rows:
        """The resolved rows of the page that ``block`` lies in: disjoint, ascending; gaps are zeroes. ``segment`` is a
        number of :attr:`segments`, ``layer`` counts from the oldest."""
        page = block // PAGE_BLOCKS
        found = self._pages.get((disk, page))
        if found is None:
            rows = self._resolve(disk, page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS)
            found = self._pages.put((disk, page), self._named(rows))
        return found

    def _resolve(self, disk: str, start: int, stop: int) -> Rows:
        """Rows of blocks ``[start, stop)``, within a shard; ``segment`` is still the layer's own number."""
        shard = start // SHARD_BLOCKS
        pieces = []
        for number, layer in enumerate(self.layers):
            limit = blocks_of(self.caps[number].get(disk, 0))
            if limit <= start or not layer.has_rows(disk, shard):
                continue
            end = min(stop, limit)
            data = window(self._kept(layer, disk, shard), shard, start, end)
            for rows in (data, between(self._kept(layer, disk, None), start, end)):
                if len(rows):
                    rows["layer"] = number
                    pieces.append(rows)
        return overlay(np.concatenate(pieces)) if pieces else EMPTY

    def layer_rows(self, layer: Record, disk: str, shard: int | None) -> Rows:
        """Data rows of a shard, or (None) the zero rows of a disk, of one layer."""
        kept = self._kept(layer, disk, shard)
        return kept if shard is None else expand(kept, shard)

    def _kept(self, layer: Record, disk: str, shard: int | None) -> NDArray[Any]:
        """As :meth:`layer_rows`, but data rows compact."""
        name = (layer.key, layer.opened.salt, disk, shard)
        found = self._store.index_rows.get(name)
        if found is None:
            found = self._ask(layer, lambda: layer.zeros(disk) if shard is None else layer.packed(disk, shard))
            self._store.index_rows.put(name, found)
        return found

    def _ask(self, layer: Record, what: Callable[[], T]) -> T:
        """Raises LayerGone: thinned away meanwhile, or a layer that is damaged and not needed; Corrupt."""
        try:
            return what()
        except NotFound as error:
            raise LayerGone(error.cause) from None
        except Corrupt as error:
            if layer.head["kind"] != "layer":
                raise
            self._store.distrust(layer)
            raise LayerGone(error.cause) from None

    def _named(self, rows: Rows) -> Rows:
        """From the layers' own numbers of segments to those of this map."""
        data = rows["segment"] != ZERO
        if not data.any():
            return rows
        own = np.stack((rows["layer"][data], rows["segment"][data]), axis=1)
        unique, places = np.unique(own, axis=0, return_inverse=True)
        numbers = [self._number(layer, segment) for layer, segment in unique.tolist()]
        rows["segment"][data] = np.array(numbers, np.int32)[places.reshape(-1)]
        return rows

    def _number(self, number: int, segment: int) -> int:
        info = self._segment(self.layers[number], segment)
        with self._lock:
            place = self._numbers.setdefault(info.segment, len(self.segments))
            if place == len(self.segments):
                self.segments.append(info)
            return place

    def _segment(self, layer: Record, place: int) -> SegmentInfo:
        return self._ask(layer, lambda: layer.segment(place))

    def _stretches(self, disk: str, from_layer: int = 0) -> Iterator[Rows]:
        """All resolved rows, ascending, in pieces that fit into memory; where layers from ``from_layer`` on have data
        rows. ``segment`` is the layer's own number."""
        limit = blocks_of(self.disks[disk])
        for shard in sorted({shard for layer in self.layers[from_layer:] for shard in layer.shards(disk)}):
            start, stop = shard * SHARD_BLOCKS, min((shard + 1) * SHARD_BLOCKS, limit)
            many = sum(layer.count(disk, shard) for layer in self.layers) > _AT_ONCE
            for at in range(start, stop, PAGE_BLOCKS if many else SHARD_BLOCKS):
                yield self._resolve(disk, at, min(at + PAGE_BLOCKS, stop) if many else stop)

    def pages_with_rows(self, disk: str) -> list[int]:
        """Pages that any layer has data rows in, ascending."""
        pages: set[int] = set()
        size = blocks_of(self.disks[disk])
        for layer in self.layers:
            for shard in layer.shards(disk):
                pages.update(distinct(self.layer_rows(layer, disk, shard)["first"] // PAGE_BLOCKS).tolist())
        return sorted(page for page in pages if page * PAGE_BLOCKS < size)

    # -- what is where ---

    def extents(self, disk: str) -> Extents:
        """What is not zero (in 16 KiB blocks)."""
        pieces = [_byte_runs(rows[rows["segment"] != ZERO]) for rows in self._stretches(disk)]
        return _extents(pieces, self.disks[disk])

    def changed_since(self, ancestor: PointId, disk: str) -> Extents:
        """See :meth:`homeport.store.reader.PointReader.changed_since`."""
        mine = list(zip(self.points, self.layers, strict=True))
        theirs = self._of_other(ancestor)
        parting = _parting(self.points, [point for point, _ in theirs])
        if parting is not None and not (parting in self.points and parting in (point for point, _ in theirs)):
            # A layer of one of them may stand across the point where they part.
            mine = chain(self._store, self._point, cuts=[parting], without=self._without)[::-1]
            theirs = self._of_other(ancestor, cuts=[parting])
        places = {point: number for number, (point, _) in enumerate(theirs)}
        # The newest point that both stand on: below it nothing differs.
        shared = next((number for number in range(len(mine) - 1, -1, -1) if mine[number][0] in places), None)
        base = [] if shared is None else [mine[shared]]
        sides = (mine, theirs) if shared is None else (mine[shared + 1 :], theirs[places[mine[shared][0]] + 1 :])
        if lacking([record for _, record in sides[1]]):
            raise PointNotFound(
                f"recovery point {ancestor} was dropped, and not all is known any more that it had changed",
                point=str(ancestor),
            )
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

    def _of_other(self, point: PointId, cuts: Collection[PointId] = ()) -> list[Link]:
        """The links of a point that may have been dropped, oldest first. Up to its newest own record it has no layers:
        they don't tell whether what they were made of was pruned."""
        links = chain(self._store, point, dropped=True, cuts=cuts)
        top = next((record for _, record in links if record.head["kind"] != "thin"), None)
        if top is not None and top.head["kind"] == "layer":
            links = chain(self._store, point, dropped=True, layers=False)
        return links[::-1]

    # -- digests ---

    def for_digests(self, disk: str) -> PointMap:
        """This map, or where a layer stands across the newest digest map: one in which none does."""
        found = self._for_digests.get(disk)
        if found is None:
            newest = self._newest_digest_map(disk)
            cut = newest is not None and newest not in self.points
            found = PointMap(self._store, self._point, cuts=[newest], without=self._without) if cut and newest else self
            self._for_digests[disk] = found
        return found

    def _newest_digest_map(self, disk: str) -> PointId | None:
        """The newest point at or below this one that has a digest map and that can be stood on."""
        store = self._store
        tops = {point.timeline: point.number for point in self.points}
        for timeline in reversed(tops):
            numbers = digests_.maps(store.objects, store.keys, timeline, disk)
            found = store.scan(timeline)
            for number in reversed(numbers):
                if number <= tops[timeline] and found.link(number) is not None:
                    return PointId(timeline, number)
        return None

    def digest_map(self, disk: str) -> tuple[digests_.DigestMap | None, int]:
        """The newest digest map at or below the point, and the number of its layer (-1: none). A disk that shrank after
        it makes it useless."""
        if disk not in self._digest_maps:
            found, layer = digests_.newest_map(self._store.objects, self._store.keys, self.points, disk, self._built)
            if found is not None and self.caps[layer].get(disk, 0) < found.size:
                found, layer = None, -1
            self._digest_maps[disk] = found, layer
        return self._digest_maps[disk]

    def _built(self, point: PointId) -> str | None:
        """By the record of the point itself, or the one that stands for it and those before. None: it isn't known."""
        link = self._store.scan(point.timeline).link(point.number)
        if link is None:
            return None
        try:
            found = self._store.layer(link[1]).head.get("built")
        except NotFound as error:
            raise LayerGone(error.cause) from None
        return str(found) if found else None

    def touched_regions(self, disk: str, after_layer: int) -> list[int]:
        """16 MiB regions that layers after the given one have rows in, ascending."""
        regions: set[int] = set()
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
        for rows in self._stretches(disk, after_layer + 1):
            rows = rows[(rows["segment"] != ZERO) & (rows["layer"] > after_layer)]
            regions.update(distinct(rows["first"] // BLOCKS_PER_REGION).tolist())
        return sorted(regions)

    def live_rows(self, disk: str) -> Iterator[tuple[SegmentInfo, Rows]]:
        """All data rows of a disk, by layer and segment (one that two layers name comes twice)."""
        pieces = [rows[rows["segment"] != ZERO] for rows in self._stretches(disk)]
        rows = np.concatenate(pieces) if pieces else EMPTY
        order = np.lexsort((rows["segment"], rows["layer"]))
        rows = rows[order]
        changes = (np.diff(rows["segment"]) != 0) | (np.diff(rows["layer"]) != 0)
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows)]
        for start, stop in pairwise(edges) if len(rows) else ():
            layer, place = self.layers[int(rows["layer"][start])], int(rows["segment"][start])
            yield self._segment(layer, place), rows[start:stop]


def _parting(one: list[PointId], other: list[PointId]) -> PointId | None:
    """The newest point that two histories (their links, oldest first) may have in common."""
    tops = [{point.timeline: point.number for point in points} for points in (one, other)]
    for timeline in reversed(tops[0]):
        if timeline in tops[1]:
            return PointId(timeline, min(tops[0][timeline], tops[1][timeline]))
    return None


def _byte_runs(rows: Rows) -> NDArray[np.int64]:
    result: NDArray[np.int64] = np.stack((rows["first"] * BLOCK, ends(rows) * BLOCK), axis=1)
    return result


def _extents(pieces: list[NDArray[np.int64]], size: int) -> Extents:
    if not pieces:
        return Extents()
    runs = np.concatenate(pieces)
    return Extents._coalesce(runs[:, 0], runs[:, 1]).clip(0, size)
