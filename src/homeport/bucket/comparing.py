"""Which blocks of an image differ from a point, by keyed digests: read and hashed in threads, nothing is fetched but
digests."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from homeport.bucket.import_base import Base
from homeport.bucket.restore_plan import part_of
from homeport.bucket.restore_work import Advance, cores, in_threads
from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, REGION, MiB
from homeport.store.digests import SIZE, hash_blocks
from homeport.store.reader import PointReader


class Readable(Protocol):
    """See :class:`homeport.disks.images.Image`."""

    @property
    def size(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None: ...


def to_compare(reader: PointReader, disk: str, allocated: Extents) -> Extents:
    """Where an image and the point may differ, in whole regions: both are zeroes elsewhere. ``allocated``: the image's
    own."""
    size = reader.disks[disk]
    return allocated.clip(0, size).union(reader.extents(disk)).align(REGION, size)


def differing(
    reader: PointReader, disk: str, image: Readable, allocated: Extents, where: Extents, advance: Advance
) -> tuple[Extents, int]:
    """The blocks of ``where`` (whole regions) that differ, and how many bytes of the image were read to know. What lies
    beyond the image's end counts as zeroes. Raises Corrupt, StoreUnavailable, DiskError, OSError."""
    size = reader.disks[disk]
    base = Base.of_point(reader, disk)
    pieces = where.pieces(REGION)
    limit = min(size, image.size)
    found: list[NDArray[np.int64]] = []
    read = [0]
    lock = threading.Lock()

    def work(stop: threading.Event) -> None:
        buffer = new_buffer(MiB)
        while not stop.is_set():
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            offset, length = piece
            first = offset // BLOCK
            expected = base.known(first, -(-length // BLOCK))
            own = bytearray(len(expected) * SIZE)
            count = 0
            for start, end in _data(allocated, offset, length, limit):
                data = buffer[: end - start]
                image.read_into(start, data)
                found_here = hash_blocks(reader.keys.digest_key, data)
                at = (start - offset) // BLOCK * SIZE
                own[at : at + len(found_here)] = found_here
                count += end - start
            differs = np.frombuffer(own, np.uint64).reshape(-1, 2) != expected.view(np.uint64)
            blocks = np.flatnonzero(differs.any(axis=1)) + first
            with lock:
                read[0] += count
                if len(blocks):
                    found.append(blocks)
            advance(length)

    in_threads(work, max(2, cores()), lambda: None)
    if not found:
        return Extents(), read[0]
    return Extents.of_blocks(np.concatenate(found), BLOCK, size), read[0]


def _data(allocated: Extents, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
    """``(start, end)`` of what to read of a region: its allocated blocks before byte ``limit``, a MiB at a
    time."""
    end = min(offset + length, limit)
    grown = part_of(allocated, offset, end).align(BLOCK).clip(offset, end)
    return [(start, start + count) for start, count in grown.pieces(MiB)]
