"""What an NBD server exports: anything that reads like a disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from homeport.disks.nbd import wire
from homeport.disks.raw import RawImage


class Export(Protocol):
    """One disk. Called from the threads of all connections at once; offsets and lengths lie within ``size``.

    Errors: OSError with one of the protocol's numbers (ENOSPC, EINVAL, …) is answered with it, everything else that
    is raised with EIO; the connection goes on.
    """

    @property
    def size(self) -> int:
        """Bytes; must not change while it is exported."""

    @property
    def read_only(self) -> bool: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``."""

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(length, base:allocation flags) of consecutive ranges from ``offset``; may stop short, not be empty."""


Pieces = list[memoryview | int]
"""Consecutive bytes: read-only views of what won't change while they are held, and numbers of zeroes."""


@runtime_checkable
class PieceExport(Export, Protocol):
    """A read-only export that keeps content in memory, and sends it from there."""

    def at_hand(self, offset: int, length: int) -> Pieces | None:
        """The content, if all of it is in memory. Waits for nothing, and raises nothing."""

    def pieces(self, offset: int, length: int) -> Pieces:
        """The content; waits for it."""

    def prepare(self, ranges: Sequence[tuple[int, int]]) -> None:
        """These (offset, length) will be read next: fetch in the background what isn't at hand. A hint."""


@runtime_checkable
class WritableExport(Export, Protocol):
    """An export whose ``read_only`` is false."""

    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes."""

    def trim(self, offset: int, length: int) -> None:
        """The range's content isn't needed any more."""

    def flush(self) -> None:
        """All writes that returned before are on stable storage when this returns."""


class FileExport:
    """A raw image file or block device. Raises DiskInUse, DiskError."""

    def __init__(self, path: Path, writable: bool = False) -> None:
        self._image = RawImage(path, writable=writable)
        self.size = self._image.size
        self.read_only = not writable
        self.read_into = self._image.read_into
        self.write = self._image.write
        self.zero = self._image.zero
        self.trim = self._image.trim
        self.flush = self._image.flush
        self.close = self._image.close

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        hole = wire.STATE_HOLE | wire.STATE_ZERO
        result: list[tuple[int, int]] = []
        position, end = offset, offset + length
        for start, stop in self._image.data(offset, length):
            if start > position:
                result.append((start - position, hole))
            result.append((stop - start, 0))
            position = stop
        if position < end:
            result.append((end - position, hole))
        return result
