"""Digests of blocks and regions, and the digest map of a recovery point.

Keyed BLAKE3-128, the key is the machine's own: digests tell nothing to who lacks it, and compare across sites. A short
last block counts as filled up with zeroes, as does a short last region, so that growing a disk changes no digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, REGION
from homeport.store import index, names, sealed
from homeport.store.errors import Corrupt, LayerGone, NotFound
from homeport.store.index import PAGE_BLOCKS
from homeport.store.keys import MachineKey
from homeport.store.objects import Objects

if TYPE_CHECKING:
    from homeport.store.pointmap import PointMap
    from homeport.store.reader import PointReader

SIZE = 16
Digests = NDArray[np.uint8]
ZERO_DIGEST = bytes(SIZE)
PAGE_REGIONS = PAGE_BLOCKS // BLOCKS_PER_REGION
_ZERO_BLOCK = bytearray(BLOCK)
_ZERO_REGION = bytes(BLOCKS_PER_REGION * SIZE)


def hash_blocks(key: bytes, data: memoryview) -> bytes:
    """The digests of the 16 KiB blocks of ``data``, one after another; sixteen zero bytes for a block of zeroes.
    ``key``: the machine's digest key. The hot loop of replication: one call per block, which lets others run."""
    zero = _ZERO_BLOCK  # on the left: bytearray == memoryview is memcmp, memoryview == anything goes item by item
    hasher = blake3(key=key)
    found = []
    whole = len(data) // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        block = data[start : start + BLOCK]
        if zero == block:
            found.append(ZERO_DIGEST)
        else:
            hasher.reset()
            found.append(hasher.update(block).digest(SIZE))
    if whole < len(data):
        last = bytes(data[whole:]).ljust(BLOCK, b"\0")
        found.append(ZERO_DIGEST if last == _ZERO_BLOCK else blake3(last, key=key).digest(SIZE))
    return b"".join(found)


def block_digests(keys: MachineKey, data: memoryview | bytes | bytearray) -> Digests:
    """``(n, 16)`` digests of the 16 KiB blocks of ``data``; sixteen zero bytes for a block of zeroes."""
    found = hash_blocks(keys.digest_key, memoryview(data).cast("B"))
    return np.frombuffer(bytearray(found), np.uint8).reshape(-1, SIZE)


def region_digest(keys: MachineKey, blocks: Digests) -> bytes:
    """The digest of one region from the digests of its blocks (1024, fewer at a disk's end)."""
    data = np.ascontiguousarray(blocks).tobytes().ljust(len(_ZERO_REGION), b"\0")
    if data == _ZERO_REGION:
        return bytes(SIZE)
    return blake3(data, key=keys.region_key).digest(SIZE)


def region_digests(keys: MachineKey, blocks: Digests) -> Digests:
    """``(n, 16)`` digests of the 16 MiB regions from the digests of all blocks of a disk."""
    count = -(-len(blocks) // BLOCKS_PER_REGION)
    result = np.zeros((count, SIZE), np.uint8)
    for number in range(count):
        part = blocks[number * BLOCKS_PER_REGION : (number + 1) * BLOCKS_PER_REGION]
        result[number] = np.frombuffer(region_digest(keys, part), np.uint8)
    return result


def seal_map(keys: MachineKey, key: str, size: int, blocks: Digests, built: str) -> bytes:
    """The digest map of a disk of ``size`` bytes as a sealed object: region digests, then one section of block
    digests for each region that isn't all zeroes. ``built``: what the record of the point says of itself, so that a map
    that another attempt at its number left isn't taken for its own."""
    regions = region_digests(keys, blocks)
    present = np.flatnonzero(regions.any(axis=1))
    sections = [regions.tobytes()]
    sections += [
        np.ascontiguousarray(blocks[number * BLOCKS_PER_REGION : (number + 1) * BLOCKS_PER_REGION]).tobytes()
        for number in present.tolist()
    ]
    head = {"size": size, "regions": len(regions), "built": built}
    return sealed.seal(keys.key, keys.vault, key, sealed.DIGESTS, head, sections)


class DigestMap:
    """An opened digest map; block digests are fetched region by region."""

    def __init__(self, opened: sealed.Sealed) -> None:
        self._opened = opened
        self.size: int = opened.head["size"]
        self.built: str | None = opened.head.get("built")
        count = -(-self.size // REGION)
        self.regions = self._digests(1, count)
        self._section = np.cumsum(self.regions.any(axis=1)) + 1
        if opened.head["regions"] != count:
            raise self._wrong()

    def _digests(self, section: int, count: int) -> Digests:
        """Raises Corrupt."""
        data = self._opened.section(section, count * SIZE)
        if len(data) != count * SIZE:
            raise self._wrong()
        return np.frombuffer(data, np.uint8).reshape(-1, SIZE)

    def _wrong(self) -> Corrupt:
        return Corrupt(f"{self._opened.key}: the digest map has the wrong length", object=self._opened.key)

    @classmethod
    def open(cls, objects: Objects, keys: MachineKey, point: PointId, disk: str) -> DigestMap:
        """Raises NotFound, Corrupt."""
        key = names.digests(keys.machine, point, disk)
        return cls(sealed.open_object(objects, keys.key, keys.vault, key, sealed.DIGESTS))

    def blocks(self, region: int) -> Digests:
        """All 1024 digests of a region (zeroes beyond the disk's end)."""
        result = np.zeros((BLOCKS_PER_REGION, SIZE), np.uint8)
        if region < len(self.regions) and self.regions[region].any():
            count = min(BLOCKS_PER_REGION, -(-self.size // BLOCK) - region * BLOCKS_PER_REGION)
            try:
                result[:count] = self._digests(int(self._section[region]), count)
            except NotFound as error:
                raise LayerGone(error.cause) from None
        return result


class PointDigests:
    """The digests of one disk as of a point: from the newest digest map at or below the point, and the directories of
    the segments that came after it; without a map from directories alone. No data is read."""

    def __init__(self, reader: PointReader, disk: str) -> None:
        self._reader = reader
        self._disk = disk
        self.size = reader.disks[disk]
        self._regions: Digests | None = None

    @property
    def _count(self) -> int:
        return -(-self.size // REGION)

    def regions(self) -> Digests:
        """``(n, 16)``: one digest for each 16 MiB of the disk."""
        if self._regions is None:
            self._regions = self._reader.with_map(self._all_regions)
            self._regions.setflags(write=False)
        return self._regions

    def _all_regions(self, point_map: PointMap) -> Digests:
        result = np.zeros((self._count, SIZE), np.uint8)
        point_map = point_map.for_digests(self._disk)
        known, layer = point_map.digest_map(self._disk)
        if known is not None:
            kept = known.regions[: len(result)]
            result[: len(kept)] = kept
        for region in point_map.touched_regions(self._disk, layer):
            if region < len(result):
                if self._zeroed(point_map, region, layer):
                    result[region] = 0
                    continue
                blocks = self._blocks(point_map, region)
                result[region] = np.frombuffer(region_digest(self._reader.keys, blocks), np.uint8)
        return result

    def _zeroed(self, point_map: PointMap, region: int, layer: int) -> bool:
        """Whether all of it was made zeroes after ``layer``: nothing needs to be fetched to know its digests."""
        start = region * BLOCKS_PER_REGION
        stop = min(start + BLOCKS_PER_REGION, -(-self.size // BLOCK))
        rows = index.between(point_map.rows(self._disk, start), start, stop)
        made = (rows["segment"] == index.ZERO) & (rows["layer"] > layer)
        return bool(made.all()) and int(rows["count"].sum()) == stop - start

    def blocks(self, region: int) -> Digests:
        """``(n, 16)``: one digest for each 16 KiB block of a region, 1024 or, at the disk's end, fewer."""
        if not 0 <= region < self._count:
            raise ValueError(f"{self._disk} has no region {region}")
        count = -(-self.size // BLOCK) - region * BLOCKS_PER_REGION
        return self._reader.with_map(lambda point_map: self._blocks(point_map, region))[:count]

    def page(self, page: int) -> Digests:
        """``(65536, 16)``: of all blocks of a page of 1 GiB; zeroes beyond the disk's end. What is cheapest for many:
        the directory of a segment is searched once, not once for each region."""
        regions = range(page * PAGE_REGIONS, min((page + 1) * PAGE_REGIONS, self._count))
        return self._reader.with_map(lambda point_map: self._span(point_map, page * PAGE_BLOCKS, PAGE_BLOCKS, regions))

    def _blocks(self, point_map: PointMap, region: int) -> Digests:
        return self._span(point_map, region * BLOCKS_PER_REGION, BLOCKS_PER_REGION, range(region, region + 1))

    def _span(self, point_map: PointMap, start: int, count: int, regions: range) -> Digests:
        """Of ``count`` blocks from ``start``, within a page; ``regions``: those of them that the disk has."""
        result = np.zeros((count, SIZE), np.uint8)
        point_map = point_map.for_digests(self._disk)
        known, layer = point_map.digest_map(self._disk)
        if known is not None:
            for number, region in enumerate(regions):
                result[number * BLOCKS_PER_REGION : (number + 1) * BLOCKS_PER_REGION] = known.blocks(region)
        rows = index.between(point_map.rows(self._disk, start), start, start + count)
        # Without a map `layer` is -1: all rows.
        self._reader.fill_digests(point_map, self._disk, rows[rows["layer"] > layer], start, result)
        return result


def newest_map(
    objects: Objects, keys: MachineKey, layers: Sequence[PointId], disk: str, built: Callable[[PointId], str | None]
) -> tuple[DigestMap | None, int]:
    """The newest digest map among ``layers`` (oldest first), and the number of its layer (-1: none). ``built``: asked
    for what the record of a point says; the map of another attempt is left aside."""
    listed: dict[str, list[int]] = {}
    for number in range(len(layers) - 1, -1, -1):
        point = layers[number]
        if point.timeline not in listed:
            listed[point.timeline] = maps(objects, keys, point.timeline, disk)
        if point.number in listed[point.timeline]:
            try:
                found = DigestMap.open(objects, keys, point, disk)
            except NotFound:
                continue
            if found.built is not None and found.built == built(point):
                return found, number
    return None, -1


def maps(objects: Objects, keys: MachineKey, timeline: str, disk: str) -> list[int]:
    """The numbers of a timeline's points with a digest map of the disk, ascending."""
    prefix = names.timeline(keys.machine, timeline) + "digests/"
    found = (key[len(prefix) :].split("/") for key, _ in objects.list(prefix))
    return [int(number) for number, owner in found if owner == disk]
