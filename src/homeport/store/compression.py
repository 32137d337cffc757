"""zstd, from the standard library where it has it. Level 1 everywhere; one compressor per thread."""

from __future__ import annotations

import sys
import threading

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
_own = threading.local()

ZstdError = zstd.ZstdError


def compress(data: bytes | bytearray | memoryview) -> bytes:
    """One zstd frame that states its content's size."""
    compressor = getattr(_own, "compressor", None)
    if compressor is None:
        compressor = _own.compressor = zstd.ZstdCompressor(LEVEL)
    return bytes(compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME))


def decompress(data: bytes | bytearray | memoryview) -> bytes:
    """Raises ZstdError."""
    return bytes(zstd.decompress(data))
