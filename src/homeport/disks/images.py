"""Disk images of powered-off machines, read and written whatever their format."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from homeport.disks.errors import DiskError
from homeport.disks.raw import RawImage
from homeport.domain.extents import Extents


class Image(Protocol):
    """An open disk image. Reads and writes are safe from several threads. All offsets and lengths in bytes."""

    @property
    def size(self) -> int: ...

    @property
    def writable(self) -> bool: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``. Raises DiskError, OSError."""

    def allocated(self) -> Extents:
        """What may hold data, backing chain included; the rest reads as zeroes for certain."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Raises DiskError, OSError. Durable after :meth:`flush` only."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes; its space may be given back."""

    def flush(self) -> None:
        """All that was written before is on stable storage when this returns."""

    def close(self) -> None:
        """Let go of the image and its lock. Flushes nothing for certain: call :meth:`flush` first."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_image(path: Path, format: str, *, writable: bool = False) -> Image:
    """Open a disk image of format "raw" or "qcow2" (with any backing chain).

    While it is open no QEMU can write to it, and a writable one can't be opened twice. Raises DiskInUse where a
    running machine (or another Homeport process) holds it, DiskError where it can't be opened.
    """
    if format == "raw":
        return RawImage(path, writable=writable)
    if format == "qcow2":
        from homeport.disks.qcow2 import Qcow2Image  # it loads an NBD client

        return Qcow2Image(path, writable=writable)
    raise DiskError(
        f"{path}: disk format {format!r} is not supported",
        code="disk.format",
        remedy="Convert the disk to raw or qcow2 with qemu-img convert.",
        path=str(path),
        format=format,
    )
