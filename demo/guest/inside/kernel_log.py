"""Counts what the guest's kernel says about failing disks."""

from __future__ import annotations

import os

_BAD = (b"I/O error", b"EXT4-fs error", b"Aborting journal", b"Remounting filesystem read-only")


class KernelLog:
    """``errors``: lines about failed I/O or a damaged file system since the guest's boot (see /dev/kmsg in the kernel's
    documentation, ABI/testing/dev-kmsg)."""

    def __init__(self) -> None:
        self.errors = 0
        self.newest = ""
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def look(self) -> int:
        """Reads what is new; the count of bad lines so far."""
        while True:
            try:
                line = os.read(self._file, 8192)
            except BlockingIOError:
                return self.errors
            except BrokenPipeError:  # lines were dropped from the kernel's ring; reading goes on with the oldest left
                continue
            if any(bad in line for bad in _BAD):
                self.errors += 1
                self.newest = line.split(b";", 1)[-1].split(b"\n", 1)[0].decode("ascii", "replace")
