"""fallocate(2) with its modes, which the os module lacks."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate64.restype = ctypes.c_int


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make a range read as zeroes and give its space back. False: not possible here. Raises OSError."""
    return _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(descriptor: int, offset: int, length: int) -> bool:
    """Make a range read as zeroes, keeping its space. False: not possible here. Raises OSError."""
    return _fallocate(descriptor, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    while _libc.fallocate64(descriptor, mode, offset, length):
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
