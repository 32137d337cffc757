"""Finds the guest's records on a raw image of a disk, whatever the file system on it says."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from demo.guest.inside.records import MAGIC, SLOT, decode

FoundRecords = dict[int, list[tuple[bytes, bytes]]]
"""By number: the hash of the previous record, and the record's own."""

_PIECE = 4 << 20
_MAGIC = np.frombuffer(MAGIC, dtype=np.uint64)


def find_records(image: Path) -> FoundRecords:
    """Every whole record in a raw image (holes are skipped). Raises OSError."""
    found: FoundRecords = {}
    file = os.open(image, os.O_RDONLY)
    try:
        for start, end in _data(file):
            for offset in range(start, end, _PIECE):
                piece = os.pread(file, min(_PIECE, end - offset), offset)
                for slot in _slots(piece):
                    record = decode(slot)
                    if record is not None:
                        found.setdefault(record.number, []).append((record.previous, record.digest))
    finally:
        os.close(file)
    return found


def _slots(piece: bytes) -> Iterator[bytes]:
    """The 4 KiB blocks of a piece that begin as a record does."""
    whole = len(piece) // SLOT
    words = np.frombuffer(piece, dtype=np.uint64, count=whole * (SLOT // 8)).reshape(whole, SLOT // 8)
    for index in np.flatnonzero((words[:, : len(_MAGIC)] == _MAGIC).all(axis=1)):
        yield piece[index * SLOT : (index + 1) * SLOT]


def _data(file: int) -> Iterator[tuple[int, int]]:
    """Where the file isn't a hole, on multiples of SLOT."""
    size = os.fstat(file).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start // SLOT * SLOT, min(-(-end // SLOT) * SLOT, size)
        position = end
