"""Frames: what a disk held, as it crosses from where a machine runs to its process server.

A body of the wire is frames, one after the other. Each is a header and what it says follows:

    4  "HPf1"         1  kind: 0 zeroes, 1 as it is, 2 zstd       2  number of the disk in its view
    8  number of the piece in what was asked for                  8  offset in the disk (bytes)
    4  bytes of the disk      4  bytes that follow               16  BLAKE3 of the 31 bytes before and of what follows

All numbers are big-endian. Which bytes belong together, both sides know by themselves: they cut the extents that were
asked for into the same pieces, and a frame that fits none is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from blake3 import blake3

from homeport.disks.zero import fill_zero, is_zero
from homeport.sources.errors import SourceError
from homeport.store.compression import ZstdError, compress, decompress

MAGIC = b"HPf1"
_HEAD = struct.Struct(">4sBHQQII")
_DIGEST = 16
HEAD_BYTES = _HEAD.size + _DIGEST
PIECE_MOST = 1 << 20
"""Bytes of a disk in one frame at most."""


class FrameWrong(SourceError):
    """What came is not what was sent, or not what was asked for."""

    code = "source.frame-wrong"
    remedy = "The point is taken again by itself. If it comes again, look at the memory of both machines."


class Kind(IntEnum):
    ZERO = 0
    RAW = 1
    ZSTD = 2


class Reader(Protocol):
    def read(self, size: int, /) -> bytes:
        """``size`` bytes, fewer at the end."""


@dataclass(frozen=True)
class Frame:
    """``disk``, ``number``: which piece of what it is; ``offset``, ``length``: in bytes of the disk."""

    kind: Kind
    disk: int
    number: int
    offset: int
    length: int
    payload: bytes

    def unpack_into(self, buffer: memoryview) -> None:
        """Fill ``buffer``, which is ``length`` bytes long. Raises FrameWrong."""
        if self.kind is Kind.ZERO:
            fill_zero(buffer)
            return
        try:
            content = self.payload if self.kind is Kind.RAW else decompress(self.payload, self.length)
        except ZstdError as error:
            raise FrameWrong(f"a frame can't be unpacked: {error}") from error
        if len(content) != self.length:
            raise FrameWrong(f"a frame of {self.length} bytes holds {len(content)}")
        buffer[:] = content


def pack(disk: int, number: int, offset: int, content: memoryview) -> bytes:
    """The frame of a piece."""
    if is_zero(content):
        kind, payload = Kind.ZERO, b""
    else:
        payload, kind = compress(content), Kind.ZSTD
        if len(payload) >= len(content):
            payload, kind = bytes(content), Kind.RAW
    head = _HEAD.pack(MAGIC, kind, disk, number, offset, len(content), len(payload))
    return b"".join((head, _digest(head, payload), payload))


def _digest(head: bytes, payload: bytes) -> bytes:
    return blake3(head).update(payload).digest(_DIGEST)


def unpack(body: Reader, length: int) -> Iterator[Frame]:
    """The frames of a body of ``length`` bytes, each as soon as it is there and found sound. Raises FrameWrong, and
    EOFError where the body ends before."""
    left = length
    while left:
        if left < HEAD_BYTES:
            raise FrameWrong(f"a body ends in {left} bytes that are no frame")
        head = _exactly(body, HEAD_BYTES)
        magic, kind, disk, number, offset, size, stored = _HEAD.unpack_from(head)
        left -= HEAD_BYTES + stored
        if magic != MAGIC or kind not in set(Kind):
            raise FrameWrong("what came is no frame")
        if left < 0 or not 0 < size <= PIECE_MOST or stored > size or (kind == Kind.RAW and stored != size):
            raise FrameWrong(f"a frame of {size} bytes can't be of {stored} bytes, with {left + stored} left")
        payload = _exactly(body, stored)
        if _digest(head[: _HEAD.size], payload) != head[_HEAD.size :]:
            raise FrameWrong(f"a frame's checksum is wrong: bytes {offset} to {offset + size} of disk {disk}")
        yield Frame(Kind(kind), disk, number, offset, size, payload)


def _exactly(body: Reader, size: int) -> bytes:
    found = body.read(size) if size else b""
    if len(found) != size:
        raise EOFError(f"{len(found)} bytes came of {size}")
    return found
