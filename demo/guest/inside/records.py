"""The numbered records whose one hash chain alternates over both disks of the guest.

Record ``n`` (from 0) lies on disk ``n % 2``, in the file RECORDS of that disk's file system, at byte ``n // 2 * SLOT``.
Its SHA-256 covers everything before it, and it names the SHA-256 of record ``n - 1``, which lies on the *other* disk.
Each record is on stable storage before the next one is begun, so that in every consistent cut over both disks all
records up to the last one are there, and nothing beyond. A slot is one block of the file system, so that a scan of a
raw disk finds every record whole at a 4 KiB boundary without knowing the file system.

Layout of a slot, little endian: 16 bytes magic, u64 number, u64 time in nanoseconds since the epoch (UTC), 32 bytes
SHA-256 of the previous record (zeroes for record 0), 4000 random bytes, 32 bytes SHA-256 of the 4064 bytes before.
"""

from __future__ import annotations

import struct

# Not hashlib's, which would pull OpenSSL's 5 MB into the guest.
try:
    from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # Python 3.12 and newer
except ImportError:
    from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]

SLOT = 4096
MAGIC = b"homeport-record\0"
NOTHING = bytes(32)
"""What record 0 names as its predecessor."""

_HEAD = struct.Struct("<16sQQ32s")
PAYLOAD = SLOT - _HEAD.size - 32
_BODY = SLOT - 32


class Record:
    """A record that was read: ``number``, ``time`` (nanoseconds, UTC), ``previous`` and ``digest`` (32 bytes each)."""

    __slots__ = ("digest", "number", "previous", "time")

    def __init__(self, number: int, time: int, previous: bytes, digest: bytes) -> None:
        self.number = number
        self.time = time
        self.previous = previous
        self.digest = digest


class BrokenChain(Exception):
    """The chain breaks at record ``number``, because of ``why``."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"broken at {number}: {why}")
        self.number = number
        self.why = why


def disk_of(number: int) -> int:
    return number % 2


def offset_of(number: int) -> int:
    return number // 2 * SLOT


def encode(number: int, time: int, previous: bytes, payload: bytes) -> bytes:
    """The slot of a record; its digest is the slot's last 32 bytes."""
    if len(payload) != PAYLOAD or len(previous) != len(NOTHING):
        raise ValueError("a record has a payload of 4000 bytes and names 32 bytes of its predecessor")
    body = _HEAD.pack(MAGIC, number, time, previous) + payload
    digest: bytes = sha256(body).digest()
    return body + digest


def decode(slot: bytes | memoryview) -> Record | None:
    """The record in a slot, or None where the slot holds no whole record."""
    if len(slot) != SLOT:
        return None
    magic, number, time, previous = _HEAD.unpack_from(slot)
    if magic != MAGIC:
        return None
    digest = bytes(slot[_BODY:])
    if sha256(slot[:_BODY]).digest() != digest:
        return None
    return Record(number, time, previous, digest)
