"""qcow2 images with any backing chain, through a qemu-nbd of our own that lives as long as the image is open."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from homeport.disks.nbd import wire
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.status import allocated
from homeport.disks.qemu_nbd import QemuNbd
from homeport.domain.extents import Extents

CONNECTIONS = 4
TIMEOUT = 600.0
"""Seconds: a flush may have to write gigabytes of cache."""


class Qcow2Image:
    """See :class:`homeport.disks.images.Image`. Raises DiskInUse while a running machine holds the file."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path, self.writable = path, writable
        self._server = QemuNbd(path, "qcow2", writable=writable, connections=CONNECTIONS)
        try:
            self._pool = NbdPool(
                self._server.address,
                "",
                connections=CONNECTIONS,
                meta_contexts=[wire.BASE_ALLOCATION],
                timeout=TIMEOUT,
            )
        except BaseException:
            self._server.close(TIMEOUT)
            raise
        self.size = self._pool.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._pool.read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        return self._pool.read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._pool.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._pool.zero(offset, length)

    def flush(self) -> None:
        if self.writable:
            self._pool.flush()

    def allocated(self) -> Extents:
        return allocated(self._pool)

    def close(self) -> None:
        """Returns when qemu-nbd has closed the image: its lock is free. Twice does no harm.

        Raises DiskError where it was not closed cleanly.
        """
        self._pool.close()
        self._server.close(TIMEOUT)

    def __enter__(self) -> Qcow2Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
