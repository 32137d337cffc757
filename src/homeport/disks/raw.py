"""Raw disk images and block devices, by file descriptor."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from homeport.disks.errors import DiskError, check_range
from homeport.disks.fallocate import punch_hole, zero_range
from homeport.disks.imagelock import lock_image
from homeport.domain.extents import Extents
from homeport.domain.units import MiB

_ZEROES = bytes(1 * MiB)


class RawImage:
    """See :class:`homeport.disks.images.Image`. Raises DiskInUse while a running machine holds the file."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path, self.writable = path, writable
        try:
            self._descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise DiskError(f"{path} can't be opened: {error.strerror}", code="disk.open-failed") from error
        try:
            self._device = stat.S_ISBLK(os.fstat(self._descriptor).st_mode)
            self.size = os.lseek(self._descriptor, 0, os.SEEK_END)
            if not self._device:
                lock_image(self._descriptor, path, writable=writable)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._unflushed: OSError | None = None
        self._closed = False

    def read_into(self, offset: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        check_range(self.path, self.size, offset, len(view))
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if not count:
                raise DiskError(f"{self.path} was cut short while it was in use", code="disk.truncated")
            done += count

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        check_range(self.path, self.size, offset, len(view))
        done = 0
        while done < len(view):
            done += os.pwritev(self._descriptor, [view[done:]], offset + done)

    def zero(self, offset: int, length: int) -> None:
        check_range(self.path, self.size, offset, length)
        if not length or punch_hole(self._descriptor, offset, length):
            return
        if zero_range(self._descriptor, offset, length):
            return
        for start in range(0, length, len(_ZEROES)):
            self.write(offset + start, memoryview(_ZEROES)[: length - start])

    def resize(self, size: int) -> None:
        """Cut a file to ``size`` bytes, or grow it with zeroes. No read or write may be under way."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` (a link isn't followed) names this very file. Raises FileNotFoundError."""
        return os.path.samestat(os.fstat(self._descriptor), os.lstat(path))

    def forget(self) -> None:
        """What the kernel has cached of the flushed image is read from the disk again."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def trim(self, offset: int, length: int) -> None:
        """Give the range's space back where that is possible; it reads as zeroes then."""
        check_range(self.path, self.size, offset, length)
        if length:
            punch_hole(self._descriptor, offset, length)

    def flush(self) -> None:
        if self._unflushed is not None:
            raise self._lost() from self._unflushed
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # The kernel reports a failed write-back once and then forgets it: a second fdatasync would lie.
            self._unflushed = error
            raise self._lost() from error

    def _lost(self) -> DiskError:
        return DiskError(
            f"{self.path}: writes could not be brought to stable storage: {self._unflushed}", code="disk.write-failed"
        )

    def data(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of the runs in a range that may hold data, ascending."""
        end = offset + length
        while offset < end:
            try:
                start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # no data up to the end of the file
                if error.errno == errno.EINVAL:  # a block device or file system without holes
                    yield offset, end
                    return
                raise
            if start >= end:
                return
            offset = min(os.lseek(self._descriptor, start, os.SEEK_HOLE), end)
            yield start, offset

    def allocated(self) -> Extents:
        if self._device:
            # A device's SEEK_HOLE knows of its end only, and what a discarded sector reads as is its own affair.
            return Extents.whole(self.size)
        return Extents.of((start, end - start) for start, end in self.data(0, self.size))

    def close(self) -> None:
        """Twice does no harm."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    def __enter__(self) -> RawImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
