"""Compressed VMDK images for transport (createType "streamOptimized"), written from the first byte to the last.

After VMware's "Virtual Disk Format 1.1", "Stream-Optimized Compressed Sparse Extents": grains in the order of the disk,
each deflated behind a marker; a table behind the 512 grains that it is for; then the directory, the header once more as
a footer, and a marker of the end.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from homeport.disks.vmdk import DESCRIPTOR_SECTORS, GRAIN, HEADER, PER_TABLE, SECTOR, descriptor, sectors
from homeport.disks.zero import is_zero
from homeport.domain.extents import Extents
from homeport.domain.units import MiB

PIECE = 4 * MiB
LEVEL = 1
"""Of deflate: its higher levels cost several times as much for a few per cent."""

_MARKER = struct.Struct("<QII496x")  # sectors, size (0), kind
_GRAIN = struct.Struct("<QI")  # sector of the disk, bytes that follow
_END, _TABLE, _DIRECTORY, _FOOTER = range(4)
_FLAGS = 1 | 1 << 16 | 1 << 17  # valid newlines, compressed, markers
_AT_END = 0xFFFFFFFFFFFFFFFF
_DEFLATE = 1

Grains = list[tuple[int, bytes]]


def write_stream(
    path: Path,
    size: int,
    name: str,
    data: Extents,
    read_into: Callable[[int, memoryview], None],
    advance: Callable[[int], None],
) -> None:
    """Write the image of a disk of ``size`` bytes, zero outside ``data``, to the new file ``path``, and flush it.
    ``read_into`` is called from several threads. Raises what it raises, OSError."""
    workers = max(2, len(os.sched_getaffinity(0)))
    wanted = data.align(GRAIN, size)
    with path.open("xb") as file, ThreadPoolExecutor(workers) as pool:
        image = _Writer(file, size, name)
        waiting: deque[tuple[int, Future[Grains]]] = deque()

        def take() -> None:
            length, future = waiting.popleft()
            for grain, packed in future.result():
                image.grain(grain, packed)
            advance(length)

        try:
            for offset, length in _pieces(wanted):
                waiting.append((length, pool.submit(_pack, read_into, offset, length)))
                if len(waiting) > 2 * workers:
                    take()
            while waiting:
                take()
        finally:
            for _, future in waiting:
                future.cancel()
        image.finish()
        file.flush()
        os.fsync(file.fileno())


def _pieces(wanted: Extents) -> Iterator[tuple[int, int]]:
    return wanted.pieces(PIECE)


def _pack(read_into: Callable[[int, memoryview], None], offset: int, length: int) -> Grains:
    buffer = memoryview(bytearray(-(-length // GRAIN) * GRAIN))
    read_into(offset, buffer[:length])
    result = []
    for start in range(0, len(buffer), GRAIN):
        grain = buffer[start : start + GRAIN]
        if not is_zero(grain):
            result.append(((offset + start) // GRAIN, zlib.compress(grain, LEVEL)))
    return result


class _Writer:
    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._size = file, size
        grains = -(-size // GRAIN)
        self._directory = np.zeros(-(-grains // PER_TABLE), "<u4")
        self._table = np.zeros(PER_TABLE, "<u4")
        self._current = -1
        self._place = 0
        self._put(self._header(_AT_END))
        self._put(descriptor(size, "streamOptimized", name))
        # The first grain begins where a grain could.
        self._put(bytes(GRAIN - self._place * SECTOR))

    def _header(self, directory: int) -> bytes:
        overhead = GRAIN // SECTOR
        return HEADER.pack(
            b"KDMV",
            3,
            _FLAGS,
            sectors(self._size),
            GRAIN // SECTOR,
            1,
            DESCRIPTOR_SECTORS,
            PER_TABLE,
            0,
            directory,
            overhead,
            0,
            b"\n",
            b" ",
            b"\r",
            b"\n",
            _DEFLATE,
        )

    def _put(self, data: bytes) -> None:
        """Filled up to whole sectors."""
        data += bytes(-len(data) % SECTOR)
        self._file.write(data)
        self._place += len(data) // SECTOR

    def grain(self, number: int, packed: bytes) -> None:
        table = number // PER_TABLE
        if table != self._current:
            self._end_table()
            self._current = table
        self._table[number % PER_TABLE] = self._place
        self._put(_GRAIN.pack(number * (GRAIN // SECTOR), len(packed)) + packed)

    def _end_table(self) -> None:
        if self._current < 0:
            return
        data = self._table.tobytes()
        self._put(_MARKER.pack(len(data) // SECTOR, 0, _TABLE))
        self._directory[self._current] = self._place
        self._put(data)
        self._table[:] = 0

    def finish(self) -> None:
        self._end_table()
        data = self._directory.tobytes()
        data += bytes(-len(data) % SECTOR)
        self._put(_MARKER.pack(len(data) // SECTOR, 0, _DIRECTORY))
        place = self._place
        self._put(data)
        self._put(_MARKER.pack(1, 0, _FOOTER))
        self._put(self._header(place))
        self._put(_MARKER.pack(0, 0, _END))
