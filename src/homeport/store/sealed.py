"""A sealed object: what every object but the vault's file and segments is (docs/store-format.md, "Sealed objects").

A plain header (magic, version, lengths, checksum), a head (JSON) and numbered sections (bytes), each zstd-compressed
and sealed with AES-256-GCM under a key of the object's own: HKDF of the machine's key and 32 fresh random bytes in the
header. The nonce is the section's number (0: the head). Vault, key of the object and section are associated data.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from homeport.store import heads
from homeport.store.compression import ZstdError, compress, decompress
from homeport.store.errors import Corrupt
from homeport.store.objects import Objects
from homeport.store.ranges import MOST, groups

VERSION = 1
TAG = 16
FIRST_READ = 64 << 10
"""Bytes asked for first: most records come whole."""

MOST_HEAD = 256 << 20
MOST_SECTION = 1 << 30
"""Bytes of a head, and of a section of which nothing more is known, at the most: no writer comes near."""

_HEADER = struct.Struct("<8sHH32sIQ")
HEADER_SIZE = _HEADER.size + 4


class Kind(NamedTuple):
    """What an object is: eight bytes at its start, and the words that go into its key's derivation."""

    magic: bytes
    info: bytes

    @property
    def word(self) -> str:
        """Of ``homeport <word> <version>``."""
        return self.info.decode().removeprefix("homeport ").rsplit(" ", 1)[0]


POINT = Kind(b"HP-POINT", b"homeport point 1")
PART = Kind(b"HP-PART\0", b"homeport part 1")
THIN = Kind(b"HP-THIN\0", b"homeport thin 1")
LAYER = Kind(b"HP-LAYER", b"homeport layer 1")
TIMELINE = Kind(b"HP-TMLNE", b"homeport timeline 1")
EPOCH = Kind(b"HP-EPOCH", b"homeport epoch 1")
FOLD = Kind(b"HP-FOLD\0", b"homeport fold 1")
HIDE = Kind(b"HP-HIDE\0", b"homeport hide 1")
BOUNDARY = Kind(b"HP-BOUND", b"homeport boundary 1")
LEASE = Kind(b"HP-LEASE", b"homeport lease 1")
DESCRIPTION = Kind(b"HP-DESCR", b"homeport description 1")
DIGESTS = Kind(b"HP-DIGST", b"homeport digests 1")
MACHINE_KEY = Kind(b"HP-MKEY\0", b"homeport machine key 1")
VAULT_BACKUP = Kind(b"HP-VBKUP", b"homeport vault backup 1")


def text_field(text: str) -> bytes:
    """A string inside associated data: its length in bytes (u16), then UTF-8."""
    data = text.encode()
    return struct.pack("<H", len(data)) + data


def derive(secret: bytes, salt: bytes | None, info: bytes) -> bytes:
    """HKDF-SHA256, 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def nonce(number: int) -> bytes:
    """A counter as a 96-bit big-endian nonce."""
    return number.to_bytes(12, "big")


def _associated(kind: Kind, vault: str, key: str, section: int) -> bytes:
    return b"".join(
        (
            b"homeport sealed 1",
            kind.magic,
            struct.pack("<HH", VERSION, 0),
            text_field(vault),
            text_field(key),
            struct.pack("<I", section),
        )
    )


def seal(
    secret: bytes,
    vault: str,
    key: str,
    kind: Kind,
    head: dict[str, Any],
    sections: Sequence[bytes] = (),
    *,
    salt: bytes | None = None,
) -> bytes:
    """The bytes of the object that is to lie under ``key``. Fresh randomness: no two calls give the same bytes, unless
    ``salt`` (32 random bytes) is given: never store two different objects that were sealed with one."""
    salt = salt or os.urandom(32)
    cipher = AESGCM(derive(secret, salt, kind.info))
    sealed = [
        cipher.encrypt(nonce(number), compress(section), _associated(kind, vault, key, number))
        for number, section in enumerate(sections, 1)
    ]
    text = json.dumps({**head, "sections": [len(section) for section in sealed]}, separators=(",", ":"), sort_keys=True)
    first = cipher.encrypt(nonce(0), compress(text.encode()), _associated(kind, vault, key, 0))
    total = HEADER_SIZE + len(first) + sum(map(len, sealed)) + 4
    header = _HEADER.pack(kind.magic, VERSION, 0, salt, len(first), total)
    body = b"".join((header, struct.pack("<I", zlib.crc32(header)), first, *sealed))
    return body + struct.pack("<I", zlib.crc32(body))


@dataclass
class Sealed:
    """An opened sealed object: its head; sections are fetched (unless they came along) and opened when asked for.
    ``salt`` is another for each object that ever lay under the key."""

    key: str
    kind: Kind
    vault: str
    head: dict[str, Any]
    total: int
    cipher: AESGCM = field(repr=False)
    salt: bytes = field(repr=False)
    start: int
    have: bytes = field(repr=False)
    objects: Objects | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        self._places = list(accumulate(self.head["sections"], initial=self.start))

    def section(self, number: int, most: int = MOST_SECTION) -> bytes:
        """Section ``number`` (from 1), opened; ``most``: bytes that it can have. Raises Corrupt (also where it has
        more), NotFound, StoreUnavailable."""
        return self.sections([number], [most])[0]

    def sections(self, numbers: Sequence[int], most: Sequence[int]) -> list[bytes]:
        """Several sections, neighbours fetched together. Raises as :meth:`section` does."""
        places = [self._place(number) for number in numbers]
        result = [b""] * len(numbers)
        for together in groups(places, MOST):
            start = places[together[0]][0]
            data = self._read(start, max(map(sum, (places[index] for index in together))) - start)
            for index in together:
                offset, length = places[index]
                part = data[offset - start : offset - start + length]
                result[index] = _unseal(self.cipher, part, self.kind, self.vault, self.key, numbers[index], most[index])
        return result

    def _place(self, number: int) -> tuple[int, int]:
        """Offset and length in the object."""
        if not 0 < number < len(self._places):
            raise Corrupt(f"{self.key} has no section {number}", object=self.key, section=number)
        return self._places[number - 1], self._places[number] - self._places[number - 1]

    def _read(self, offset: int, length: int) -> memoryview:
        if offset + length <= len(self.have):
            return memoryview(self.have)[offset : offset + length]
        if self.objects is None:
            raise Corrupt(f"{self.key} is cut off", object=self.key)
        return memoryview(self.objects.get_range(self.key, offset, length))


def _unseal(
    cipher: AESGCM, data: bytes | memoryview, kind: Kind, vault: str, key: str, section: int, most: int
) -> bytes:
    try:
        return decompress(cipher.decrypt(nonce(section), data, _associated(kind, vault, key, section)), most)
    except (InvalidTag, ZstdError):
        what = "head" if section == 0 else f"section {section}"
        raise Corrupt(
            f"{key}: its {what} is damaged, was moved here from elsewhere, or was sealed with another key",
            object=key,
            section=section,
        ) from None


def open_bytes(secret: bytes, vault: str, key: str, kind: Kind, data: bytes, objects: Objects | None = None) -> Sealed:
    """Open an object from its first bytes (all of them unless ``objects`` is given). Raises Corrupt."""
    if len(data) < HEADER_SIZE:
        raise Corrupt(f"{key} is cut off: {len(data)} bytes", object=key)
    magic, version, flags, salt, length, total = _HEADER.unpack_from(data)
    (check,) = struct.unpack_from("<I", data, _HEADER.size)
    if magic != kind.magic or zlib.crc32(data[: _HEADER.size]) != check:
        raise Corrupt(f"{key}: its header is damaged, or it is no {kind.info.decode()!r}", object=key)
    if version != VERSION or flags:
        raise Corrupt(
            f"{key} is written in format {version} (flags {flags}), this is format {VERSION}",
            object=key,
        )
    if len(data) < HEADER_SIZE + length:
        if objects is None:
            raise Corrupt(f"{key} is cut off: {len(data)} bytes", object=key)
        data += objects.get_range(key, len(data), HEADER_SIZE + length - len(data))
    cipher = AESGCM(derive(secret, salt, kind.info))
    text = _unseal(cipher, data[HEADER_SIZE : HEADER_SIZE + length], kind, vault, key, 0, MOST_HEAD)
    try:
        head = json.loads(text)
        wrong = heads.wrong(kind.word, head)
    except (ValueError, RecursionError):
        wrong = "it can't be read"
    if wrong is None and HEADER_SIZE + length + sum(head["sections"]) + 4 != total:
        wrong = "sections"
    if wrong is not None:
        raise Corrupt(f"{key}: its head isn't one that this version knows ({wrong})", object=key)
    return Sealed(key, kind, vault, head, total, cipher, salt, HEADER_SIZE + length, data, objects)


def open_object(
    objects: Objects, secret: bytes, vault: str, key: str, kind: Kind, *, first_read: int | None = None
) -> Sealed:
    """Open the object under ``key``, fetching its beginning (``first_read`` bytes at first). Raises NotFound, Corrupt,
    StoreUnavailable."""
    return open_bytes(secret, vault, key, kind, objects.get_range(key, 0, first_read or FIRST_READ), objects)


def check_bytes(key: str, data: bytes) -> None:
    """Compare a whole object with its own length and checksum. Raises Corrupt."""
    if len(data) < HEADER_SIZE + 4:
        raise Corrupt(f"{key} is cut off: {len(data)} bytes", object=key)
    total = _HEADER.unpack_from(data)[5]
    if len(data) != total:
        raise Corrupt(f"{key} has {len(data)} bytes, {total} were written", object=key)
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise Corrupt(f"{key}: its checksum is wrong", object=key)
