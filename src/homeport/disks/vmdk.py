"""Sparse VMDK images in one file (createType "monolithicSparse").

After VMware's "Virtual Disk Format 1.1": "Hosted Sparse Extents" and "The Descriptor File". Numbers are little-endian,
places in sectors of 512 bytes. A grain is 64 KiB, a grain table says where 512 of them lie (32 MiB of the disk), the
grain directory where the tables lie; both are there twice.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

from homeport.disks.errors import check_range
from homeport.disks.fallocate import punch_hole
from homeport.domain.units import KiB, MiB

SECTOR = 512
GRAIN = 64 * KiB
PER_TABLE = 512
TABLE = PER_TABLE * 4
DESCRIPTOR_SECTORS = 20

HEADER = struct.Struct("<4sIIQQQQIQQQBccccH433x")
"""magic, version, flags, capacity, grain size, descriptor's place and size, entries of a grain table, places of the
redundant grain directory, the grain directory and the first grain, unclean shutdown, "\\n", " ", "\\r", "\\n",
compression."""

_VALID_NEWLINES, _REDUNDANT = 1, 2


def sectors(size: int) -> int:
    return -(-size // SECTOR)


def descriptor(size: int, kind: str, name: str) -> bytes:
    """The embedded descriptor, filled up with zeroes. ``name``: of the file."""
    total = sectors(size)
    cylinders = min(max(total // (255 * 63), 1), 0xFFFFFFFF)
    safe = name.replace('"', "_").encode("utf-8")[:200].decode("utf-8", "ignore")
    text = f"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={secrets.randbelow(0xFFFFFFFE):08x}
parentCID=ffffffff
createType="{kind}"

# Extent description
RW {total} SPARSE "{safe}"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
"""
    return text.encode().ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")


class SparseVmdk:
    """A new image, written at any place and from several threads. Whole when closed without an error; what isn't
    written is zeroes. Offsets and lengths in bytes."""

    def __init__(self, path: Path, size: int, name: str) -> None:
        self.path, self.size = path, size
        self._name = name
        grains = -(-size // GRAIN)
        tables = -(-grains // PER_TABLE)
        directory = -(-tables * 4 // SECTOR) * SECTOR
        self._redundant = (1 + DESCRIPTOR_SECTORS) * SECTOR
        self._directory = self._redundant + directory + tables * TABLE
        head = self._directory + directory + tables * TABLE
        self._first = self._next = -(-head // GRAIN) * GRAIN
        self._tables, self._directory_size = tables, directory
        self._places = np.zeros(tables * PER_TABLE, "<u4")
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        check_range(self.path, self.size, offset, len(view))
        for place, start, count in self._runs(offset, len(view)):
            part = view[start - offset : start - offset + count]
            while part:
                done = os.pwrite(self._fd, part, place)
                part, place = part[done:], place + done

    def _runs(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """``(place in the file, offset, bytes)``: neighbouring grains as one. Grains get their place here."""
        result: list[tuple[int, int, int]] = []
        end = offset + length
        with self._lock:
            while offset < end:
                grain = offset // GRAIN
                count = min((grain + 1) * GRAIN, end) - offset
                if not self._places[grain]:
                    self._places[grain] = self._next // SECTOR
                    self._next += GRAIN
                place = int(self._places[grain]) * SECTOR + offset % GRAIN
                if result and result[-1][0] + result[-1][2] == place:
                    before = result.pop()
                    result.append((before[0], before[1], before[2] + count))
                else:
                    result.append((place, offset, count))
                offset += count
        return result

    def zero(self, offset: int, length: int) -> None:
        check_range(self.path, self.size, offset, length)
        end = offset + length
        while offset < end:
            count = min((offset // GRAIN + 1) * GRAIN, end) - offset
            with self._lock:
                place = int(self._places[offset // GRAIN]) * SECTOR
            if place and not punch_hole(self._fd, place + offset % GRAIN, count):
                self.write(offset, bytes(count))
            offset += count

    def flush(self) -> None:
        os.fdatasync(self._fd)

    def finish(self) -> None:
        """Write header, descriptor and tables, and flush."""
        os.ftruncate(self._fd, self._next)
        for place in (self._redundant, self._directory):
            first = (place + self._directory_size) // SECTOR
            directory = np.arange(self._tables, dtype="<u4") * (TABLE // SECTOR) + first
            self._put(place, directory.astype("<u4").tobytes())
            self._put(place + self._directory_size, self._places.tobytes())
        self._put(SECTOR, descriptor(self.size, "monolithicSparse", self._name))
        self._put(
            0,
            HEADER.pack(
                b"KDMV",
                1,
                _VALID_NEWLINES | _REDUNDANT,
                sectors(self.size),
                GRAIN // SECTOR,
                1,
                DESCRIPTOR_SECTORS,
                PER_TABLE,
                self._redundant // SECTOR,
                self._directory // SECTOR,
                self._first // SECTOR,
                0,
                b"\n",
                b" ",
                b"\r",
                b"\n",
                0,
            ),
        )
        os.fsync(self._fd)

    def _put(self, place: int, data: bytes) -> None:
        for start in range(0, len(data), MiB):
            part = memoryview(data)[start : start + MiB]
            at = place + start
            while part:
                done = os.pwrite(self._fd, part, at)
                part, at = part[done:], at + done

    def __enter__(self) -> SparseVmdk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            os.close(self._fd)
