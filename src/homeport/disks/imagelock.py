"""The locks by which QEMU keeps a second process off an image.

QEMU's block/file-posix.c: for each permission used a shared open-file-description lock on byte 100 + permission, for
each permission that others must not use one on byte 200 + permission; whoever comes then tests for the counterparts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from homeport.disks.errors import DiskInUse
from homeport.domain.logs import get_logger

log = get_logger(__name__)

_USED, _UNSHARED = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_FLOCK = struct.Struct("hhqqi4x")


def lock_image(descriptor: int, path: Path, *, writable: bool) -> None:
    """Hold the image as a QEMU would: others may read it, nobody else may write it. Closing the file lets go.

    Raises DiskInUse where a process uses it in a way that excludes this, or is excluded by it. Where the file system
    has no such locks QEMU goes on without, and so do we, with a warning.
    """
    used = (_READ, _WRITE) if writable else (_READ,)
    unshared = (_WRITE, _RESIZE)
    try:
        for byte in (*(_USED + bit for bit in used), *(_UNSHARED + bit for bit in unshared)):
            _control(descriptor, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
        taken = [_UNSHARED + bit for bit in used] + [_USED + bit for bit in unshared]
        conflict = any(_held(descriptor, byte) for byte in taken)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            log.warning("image locks are not available", path=str(path), reason=os.strerror(error.errno or 0))
            return
        conflict = True
    if conflict:
        raise DiskInUse(f"{path} is in use by another process", path=str(path))


def _held(descriptor: int, byte: int) -> bool:
    """Whether another open file holds a lock on ``byte``."""
    answer = _control(descriptor, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _control(descriptor: int, command: int, kind: int, byte: int) -> bytes:
    return fcntl.fcntl(descriptor, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
