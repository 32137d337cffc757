"""What the store holds of one disk, as digests: a local mapped file beside the process server's cache.

    header (4096 bytes): magic, what the digests are valid for, disk's size │ 16 bytes per 16 KiB block …

The file is a convenience, never a truth: it names the *point* for which it is valid (and its incarnation: there may be
another one of that number) and is void while an update is under way (but for :meth:`DigestFile.exchange`), so a crash
at any moment leaves either a valid file or a void one; a void file is rebuilt or done without.
A digest of sixteen zero bytes is a zero block; sixteen 0xFF bytes mean 'not known': such a block is always sent.
Where a disk has grown, what was added counts as zeroes, as it does in the store, and the block that was the last one
isn't known: it has become longer.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.units import BLOCK

MAGIC = b"HPDIGEST1\n"
HEADER = 4096
WIDTH = 16
UNKNOWN = 0xFF

Digests = NDArray[np.uint8]


class DigestFile:
    """Digests of a disk of ``size`` bytes. ``valid_for`` is None when nothing may be relied on. Raises OSError where
    there is no room for the file.

    ``covers``: bytes that the disk had when the file was last valid (less than ``size`` where it has grown since).
    None: it never was, or the disk has shrunk.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.blocks = -(-size // BLOCK)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        length = HEADER + self.blocks * WIDTH
        held = os.fstat(self._file).st_size
        try:
            if held != length:
                os.ftruncate(self._file, length)
            # A hole that can't be filled would be a SIGBUS, when it is written to through the map.
            os.posix_fallocate(self._file, 0, length)
        except OSError:
            os.close(self._file)
            raise
        self._map = mmap.mmap(self._file, length)
        self.digests: Digests = np.frombuffer(self._map, np.uint8, offset=HEADER).reshape(-1, WIDTH)
        covers = self._header().get("size")
        self.covers: int | None = None
        if isinstance(covers, int) and covers <= size and held >= HEADER + -(-covers // BLOCK) * WIDTH:
            self.covers = covers
        if self.covers is None:
            self.invalidate()
        elif self.covers < size and self.covers % BLOCK:
            self.digests[self.covers // BLOCK] = UNKNOWN

    @property
    def valid_for(self) -> str | None:
        valid = self._header().get("valid_for")
        return valid if isinstance(valid, str) else None

    def _header(self) -> dict[str, Any]:
        head = bytes(self._map[:HEADER]).rstrip(b"\0")
        try:
            content = json.loads(head[len(MAGIC) :]) if head.startswith(MAGIC) else {}
        except ValueError:
            content = {}
        return content if isinstance(content, dict) else {}

    def invalidate(self) -> None:
        """Durable before any digest changes."""
        self._write_header(None)

    def validate(self, valid_for: str) -> None:
        """The digests are durable before they are said to be valid."""
        self._map.flush()
        os.fdatasync(self._file)
        self.covers = self.size
        self._write_header(valid_for)

    def _write_header(self, valid_for: str | None) -> None:
        head = MAGIC + json.dumps({"valid_for": valid_for, "size": self.covers}).encode()
        self._map[:HEADER] = head.ljust(HEADER, b"\0")
        self._map.flush(0, HEADER)
        os.fdatasync(self._file)

    def reset(self, value: int) -> None:
        """All digests set to zero blocks (0) or to 'not known' (:data:`UNKNOWN`); void until validated."""
        self.invalidate()
        self.digests[:] = value

    def exchange(self, numbers: NDArray[np.int64], digests: Digests | int) -> None:
        """Of a file that stays valid: blocks from known to 'not known', or back. Durable. Of what was under way at a
        crash a digest may be half of either: it equals none, so the block is sent if it is looked at."""
        self.digests[numbers] = digests
        self._map.flush()
        os.fdatasync(self._file)

    def close(self) -> None:
        """Twice does no harm."""
        if self._file < 0:
            return
        self.digests = np.empty((0, WIDTH), np.uint8)
        with contextlib.suppress(BufferError):  # a reader still holds a slice: the map goes with it
            self._map.close()
        os.close(self._file)
        self._file = -1


def known(digests: Digests) -> NDArray[np.bool_]:
    """Which rows are known."""
    result: NDArray[np.bool_] = ~(digests == UNKNOWN).all(axis=1)
    return result
