"""Digests of blocks and regions, and the digest map of a recovery point.

Keyed BLAKE3-128, the key is the machine's own: digests tell nothing to who lacks it, and compare across sites. A short
last block counts as filled up with zeroes, as does a short last region, so that growing a disk changes no digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, REGION
from homeport.store import index, names, sealed
from homeport.store.errors import Corrupt, LayerGone, NotFound
from homeport.store.keys import MachineKey
from homeport.store.objects import Objects

if TYPE_CHECKING:
    from homeport.store.pointmap import PointMap
    from homeport.store.reader import PointReader

SIZE = 16
Digests = NDArray[np.uint8]
_ZERO_REGION = bytes(BLOCKS_PER_REGION * SIZE)


def nonzero_blocks(data: memoryview) -> NDArray[np.bool_]:
    """Which 16 KiB blocks of ``data`` hold anything but zeroes (the last may be short)."""
    whole = len(data) // BLOCK
    result = np.empty(-(-len(data) // BLOCK), np.bool_)
    if whole:
        np.frombuffer(data[: whole * BLOCK], np.uint64).reshape(whole, BLOCK // 8).any(axis=1, out=result[:whole])
    if len(result) > whole:
        result[whole] = np.frombuffer(data[whole * BLOCK :], np.uint8).any()
    return result


def block_digests(keys: MachineKey, data: memoryview | bytes | bytearray) -> Digests:
    """``(n, 16)`` digests of the 16 KiB blocks of ``data``; sixteen zero bytes for a block of zeroes."""
    view = memoryview(data).cast("B")
    result = np.zeros((-(-len(view) // BLOCK), SIZE), np.uint8)
    key = keys.digest_key
    for number in np.flatnonzero(nonzero_blocks(view)).tolist():
        block = view[number * BLOCK : (number + 1) * BLOCK]
        if len(block) < BLOCK:
            block = memoryview(bytes(block).ljust(BLOCK, b"\0"))
        result[number] = np.frombuffer(blake3(block, key=key).digest(SIZE), np.uint8)
    return result


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


def seal_map(keys: MachineKey, key: str, size: int, blocks: Digests) -> bytes:
    """The digest map of a disk of ``size`` bytes as a sealed object: region digests, then one section of block
    digests for each region that isn't all zeroes."""
    regions = region_digests(keys, blocks)
    present = np.flatnonzero(regions.any(axis=1))
    sections = [regions.tobytes()]
    sections += [
        np.ascontiguousarray(blocks[number * BLOCKS_PER_REGION : (number + 1) * BLOCKS_PER_REGION]).tobytes()
        for number in present.tolist()
    ]
    head = {"size": size, "regions": len(regions)}
    return sealed.seal(keys.key, keys.vault, key, sealed.DIGESTS, head, sections)


class DigestMap:
    """An opened digest map; block digests are fetched region by region."""

    def __init__(self, opened: sealed.Sealed) -> None:
        self._opened = opened
        regions = opened.section(1)
        self.regions: Digests = np.frombuffer(regions, np.uint8).reshape(-1, SIZE)
        self.size: int = opened.head["size"]
        if len(self.regions) != opened.head["regions"]:
            raise Corrupt(f"{opened.key}: the digest map has the wrong length", object=opened.key)
        self._section = np.cumsum(self.regions.any(axis=1)) + 1

    @classmethod
    def open(cls, objects: Objects, keys: MachineKey, point: PointId, disk: str) -> DigestMap:
        """Raises NotFound, Corrupt."""
        key = names.digests(keys.machine, point, disk)
        return cls(sealed.open_object(objects, keys.key, keys.vault, key, sealed.DIGESTS))

    def blocks(self, region: int) -> Digests:
        """All 1024 digests of a region (zeroes beyond the disk's end)."""
        result = np.zeros((BLOCKS_PER_REGION, SIZE), np.uint8)
        if region < len(self.regions) and self.regions[region].any():
            try:
                section = self._opened.section(int(self._section[region]))
            except NotFound as error:
                raise LayerGone(error.cause) from None
            found = np.frombuffer(section, np.uint8).reshape(-1, SIZE)
            result[: len(found)] = found
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
        known, layer = point_map.digest_map(self._disk)
        if known is not None:
            kept = known.regions[: len(result)]
            result[: len(kept)] = kept
        for region in point_map.touched_regions(self._disk, layer):
            if region < len(result):
                blocks = self._blocks(point_map, region)
                result[region] = np.frombuffer(region_digest(self._reader.keys, blocks), np.uint8)
        return result

    def blocks(self, region: int) -> Digests:
        """``(n, 16)``: one digest for each 16 KiB block of a region, 1024 or, at the disk's end, fewer."""
        if not 0 <= region < self._count:
            raise ValueError(f"{self._disk} has no region {region}")
        count = -(-self.size // BLOCK) - region * BLOCKS_PER_REGION
        return self._reader.with_map(lambda point_map: self._blocks(point_map, region))[:count]

    def _blocks(self, point_map: PointMap, region: int) -> Digests:
        start = region * BLOCKS_PER_REGION
        known, layer = point_map.digest_map(self._disk)
        result = np.zeros((BLOCKS_PER_REGION, SIZE), np.uint8) if known is None else known.blocks(region)
        rows = index.between(point_map.rows(self._disk, start), start, start + BLOCKS_PER_REGION)
        # Without a map `layer` is -1: all rows.
        self._reader.fill_digests(point_map, self._disk, rows[rows["layer"] > layer], start, result)
        return result


def newest_map(
    objects: Objects, keys: MachineKey, layers: Sequence[PointId], disk: str
) -> tuple[DigestMap | None, int]:
    """The newest digest map among ``layers`` (oldest first), and the number of its layer (-1: none)."""
    listed: dict[str, set[int]] = {}
    for number in range(len(layers) - 1, -1, -1):
        point = layers[number]
        if point.timeline not in listed:
            prefix = names.timeline(keys.machine, point.timeline) + "digests/"
            listed[point.timeline] = {int(key.split("/")[-2]) for key, _ in objects.list(prefix)}
        if point.number in listed[point.timeline]:
            try:
                return DigestMap.open(objects, keys, point, disk), number
            except NotFound:
                continue
    return None, -1
