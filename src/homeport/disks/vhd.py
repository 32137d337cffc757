"""Fixed VHD images: the disk's bytes, and a footer behind them.

After Microsoft's "Virtual Hard Disk Image Format Specification" 1.0 (2006), "Hard Disk Footer Format" and the appendix
"CHS Calculation". Numbers are big-endian.
"""

from __future__ import annotations

import struct
import time
import uuid

from homeport.disks.errors import DiskError
from homeport.domain.units import GiB

FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427s")
FOOTER_SIZE = 512
MOST = 2040 * GiB
"""The specification's largest disk."""

_EPOCH = 946684800  # 2000-01-01 00:00 UTC
_FIXED = 2
_ALONE = 0xFFFFFFFFFFFFFFFF
_CREATOR = b"win "
"""Who made it. QEMU's block/vpc.c takes the disk's size from the footer for this creator (Hyper-V) and a few others,
and from the geometry, which rounds it down, for those that it doesn't know."""
_HOST = b"Wi2k"


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track for a disk of ``size`` bytes; at most that large."""
    total = min(size // 512, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        sectors, heads = 255, 16
        times = total // sectors
    else:
        sectors = 17
        times = total // sectors
        heads = max((times + 1023) // 1024, 4)
        if times >= heads * 1024 or heads > 16:
            sectors, heads = 31, 16
            times = total // sectors
        if times >= heads * 1024:
            sectors, heads = 63, 16
            times = total // sectors
    return times // heads, heads, sectors


def footer(size: int) -> bytes:
    """The footer of a fixed image of ``size`` bytes, rounded up to sectors of 512. Raises DiskError (too large)."""
    if size > MOST:
        raise DiskError(
            f"a VHD image holds at most {MOST} bytes, the disk has {size}",
            code="disk.format",
            remedy="Choose another format.",
        )
    size = -(-size // 512) * 512

    def pack(checksum: int) -> bytes:
        return FOOTER.pack(
            b"conectix",
            2,  # features: the reserved bit, always set
            0x00010000,  # version
            _ALONE,  # no dynamic header
            max(int(time.time()) - _EPOCH, 0),
            _CREATOR,
            0x00060001,
            _HOST,
            size,
            size,
            *geometry(size),
            _FIXED,
            checksum,
            identity,
            0,
            bytes(427),
        )

    identity = uuid.uuid4().bytes
    return pack(~sum(pack(0)) & 0xFFFFFFFF)
