"""Segments: frames of all disks of a machine, a sealed directory, a footer (docs/store-format.md, "Segments")."""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from homeport.domain.units import BLOCK, MiB
from homeport.store.compression import ZstdError, compress, decompress
from homeport.store.errors import Corrupt, CorruptFrame
from homeport.store.index import FRAME_BLOCKS, planes, unplanes
from homeport.store.keys import MachineKey
from homeport.store.names import Segment
from homeport.store.objects import Objects
from homeport.store.sealed import TAG, derive, nonce, text_field

TARGET = 32 * MiB
"""Bytes after which a segment is closed and the next begun."""

MAGIC = b"HP-SEGMT"
END_MAGIC = b"HP-SEGND"
FRAME_MAGIC = b"HPFR"
VERSION = 1
COMPRESSED = 1
"""Flag of a frame: its blocks are zstd-compressed."""

HEADER = struct.Struct("<8sHH32s")  # magic, version, flags, random
HEADER_SIZE = HEADER.size + 4
FOOTER = struct.Struct("<8sHHQII")  # magic, version, flags, directory's offset, its length, frames
FOOTER_SIZE = FOOTER.size + 4
FRAME = struct.Struct("<4sIQHBBI")  # magic, number, first block, disk, blocks, flags, length of what follows
FRAME_SIZE = FRAME.size + 4
_COLUMNS = {"disk": "<u2", "first": "<u8", "count": "<u1", "offset": "<u4", "length": "<u4", "flags": "<u1"}


def _scope(keys: MachineKey, segment: Segment) -> bytes:
    return b"".join(
        (
            text_field(keys.vault),
            text_field(keys.machine),
            text_field(segment.timeline),
            struct.pack("<QQ", segment.epoch, segment.seq),
        )
    )


class SegmentCipher:
    """Seals and opens the frames and the directory of one segment (its header's random bytes make its keys)."""

    def __init__(self, keys: MachineKey, segment: Segment, random: bytes) -> None:
        self._scope = _scope(keys, segment)
        self.frames = AESGCM(derive(keys.key, random, b"homeport segment 1" + self._scope))
        self.directory = AESGCM(derive(keys.key, random, b"homeport directory 1" + self._scope))
        self._prefixes: dict[str, bytes] = {}

    def frame_data(self, disk: str, number: int, first: int, count: int, flags: int) -> bytes:
        """A frame's associated data: nothing of it can be moved, swapped or relabelled."""
        prefix = self._prefixes.get(disk)
        if prefix is None:
            prefix = self._prefixes[disk] = b"homeport frame 1" + self._scope + text_field(disk)
        return prefix + struct.pack("<IQBB", number, first, count, flags)

    @property
    def directory_data(self) -> bytes:
        return b"homeport directory 1" + self._scope


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """A frame that waits for its place: blocks ``[first, first + count)`` of a disk, packed."""

    first: int
    count: int
    flags: int
    payload: bytes | memoryview
    digests: NDArray[np.uint8]


class Place(NamedTuple):
    """Where a frame went."""

    segment: Segment
    number: int
    offset: int
    length: int


def pack_frame(first: int, data: memoryview, digests: NDArray[np.uint8]) -> Frame:
    """Compress up to sixteen blocks (the last may be short), unless that doesn't make them smaller."""
    count = -(-len(data) // BLOCK)
    packed = compress(data)
    if len(packed) < len(data):
        return Frame(first, count, COMPRESSED, packed, digests)
    return Frame(first, count, 0, data, digests)


@dataclass
class _Entry:
    disk: int
    first: int
    count: int
    offset: int
    length: int
    flags: int
    digests: NDArray[np.uint8]


class SegmentFile:
    """A segment that grows in a local file. Thread-safe: only giving out places happens under a lock."""

    def __init__(self, folder: Path, keys: MachineKey, segment: Segment) -> None:
        self.segment = segment
        self.path = folder / segment.file
        self.random = os.urandom(32)
        self.size = HEADER_SIZE
        self.directory_offset = 0
        self.starts: NDArray[np.int64] = np.zeros(0, np.int64)
        self.digests: NDArray[np.uint8] = np.zeros((0, 16), np.uint8)
        self._cipher = SegmentCipher(keys, segment, self.random)
        self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self._entries: list[_Entry] = []
        self._disks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._writing = 0
        header = HEADER.pack(MAGIC, VERSION, 0, self.random)
        _write(self._fd, header + struct.pack("<I", zlib.crc32(header)), 0)

    @property
    def full(self) -> bool:
        return self.size >= TARGET

    def append(self, disk: str, frames: list[Frame]) -> list[Place]:
        """Seal frames and write them, side by side, in one go."""
        lengths = [FRAME_SIZE + len(frame.payload) + TAG for frame in frames]
        total = sum(lengths)
        with self._lock:
            start = self.size
            self.size += total
            number = len(self._entries)
            disk_number = self._disks.setdefault(disk, len(self._disks))
            offset = start
            for frame, length in zip(frames, lengths, strict=True):
                self._entries.append(
                    _Entry(disk_number, frame.first, frame.count, offset, length, frame.flags, frame.digests)
                )
                offset += length
        buffer = memoryview(bytearray(total))
        position = 0
        places = []
        for index, (frame, length) in enumerate(zip(frames, lengths, strict=True), number):
            FRAME.pack_into(
                buffer,
                position,
                FRAME_MAGIC,
                index,
                frame.first,
                disk_number,
                frame.count,
                frame.flags,
                length - FRAME_SIZE,
            )
            check = zlib.crc32(buffer[position : position + FRAME.size])
            struct.pack_into("<I", buffer, position + FRAME.size, check)
            self._cipher.frames.encrypt_into(
                nonce(index),
                frame.payload,
                self._cipher.frame_data(disk, index, frame.first, frame.count, frame.flags),
                buffer[position + FRAME_SIZE : position + length],
            )
            places.append(Place(self.segment, index, start + position, length))
            position += length
        _write(self._fd, buffer, start)
        return places

    def enter(self) -> None:
        """An append is coming: ``finish`` waits until it left."""
        with self._lock:
            self._writing += 1

    def leave(self) -> None:
        with self._lock:
            self._writing -= 1
            self._idle.notify_all()

    def finish(self) -> None:
        """Write directory and footer, fsync, close. Waits for appends under way."""
        with self._lock:
            while self._writing:
                self._idle.wait()
            entries, self._entries = self._entries, []
        self.directory_offset = self.size
        head = json.dumps({"disks": list(self._disks), "frames": len(entries)}, separators=(",", ":")).encode()
        columns = b"".join(
            planes(np.array([getattr(entry, name) for entry in entries], np.uint64), kind)
            for name, kind in _COLUMNS.items()
        )
        counts = np.array([entry.count for entry in entries], np.int64)
        self.starts = np.cumsum(counts) - counts
        if entries:
            self.digests = np.concatenate([entry.digests for entry in entries])
        plain = struct.pack("<I", len(head)) + head + columns + self.digests.tobytes()
        sealed = self._cipher.directory.encrypt(nonce(0), compress(plain), self._cipher.directory_data)
        footer = FOOTER.pack(END_MAGIC, VERSION, 0, self.directory_offset, len(sealed), len(entries))
        _write(self._fd, sealed + footer + struct.pack("<I", zlib.crc32(footer)), self.size)
        self.size += len(sealed) + FOOTER_SIZE
        os.fsync(self._fd)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentInfo:
    """What a record tells of a segment. Bytes."""

    segment: Segment
    size: int
    directory: int
    random: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Directory:
    """A segment's directory: columns by frame number; ``starts[n]`` is where frame n's digests begin."""

    disks: list[str]
    disk: NDArray[np.uint16]
    first: NDArray[np.uint64]
    count: NDArray[np.uint8]
    offset: NDArray[np.uint32]
    length: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    starts: NDArray[np.int64]
    digests: NDArray[np.uint8]


def parse_footer(key: str, data: bytes) -> tuple[int, int, int]:
    """A footer's directory offset, directory length and frame count. Raises Corrupt."""
    if len(data) != FOOTER_SIZE or struct.unpack_from("<I", data, FOOTER.size)[0] != zlib.crc32(data[: FOOTER.size]):
        raise Corrupt(f"{key}: the segment's footer is damaged", object=key)
    magic, version, flags, offset, length, frames = FOOTER.unpack_from(data)
    if magic != END_MAGIC or version != VERSION or flags:
        raise Corrupt(f"{key}: not a segment of format {VERSION}", object=key)
    return offset, length, frames


def parse_header(key: str, data: bytes) -> bytes:
    """A header's random bytes. Raises Corrupt."""
    if len(data) != HEADER_SIZE or struct.unpack_from("<I", data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]):
        raise Corrupt(f"{key}: the segment's header is damaged", object=key)
    magic, version, flags, random = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or flags:
        raise Corrupt(f"{key}: not a segment of format {VERSION}", object=key)
    return bytes(random)


def read_directory(objects: Objects, keys: MachineKey, info: SegmentInfo) -> Directory:
    """Fetch and open a segment's directory. Raises Corrupt, NotFound, StoreUnavailable."""
    key = info.segment.key(keys.machine)
    sealed = objects.get_range(key, info.directory, info.size - FOOTER_SIZE - info.directory)
    cipher = SegmentCipher(keys, info.segment, info.random)
    try:
        plain = decompress(cipher.directory.decrypt(nonce(0), sealed, cipher.directory_data))
    except (InvalidTag, ZstdError, ValueError):
        raise Corrupt(f"{key}: the segment's directory is damaged or was moved here", object=key) from None
    (length,) = struct.unpack_from("<I", plain)
    head = json.loads(plain[4 : 4 + length])
    frames = head["frames"]
    view = memoryview(plain)[4 + length :]
    columns = {}
    for name, kind in _COLUMNS.items():
        size = frames * np.dtype(kind).itemsize
        columns[name] = unplanes(view[:size], frames, kind)
        view = view[size:]
    counts = columns["count"].astype(np.int64)
    digests = np.frombuffer(view, np.uint8).reshape(-1, 16)
    if len(digests) != int(counts.sum()):
        raise Corrupt(f"{key}: the segment's directory has the wrong length", object=key)
    return Directory(head["disks"], **columns, starts=np.cumsum(counts) - counts, digests=digests)


def open_frame(
    keys: MachineKey, cipher: SegmentCipher, segment: Segment, disk: str, number: int, first: int, data: memoryview
) -> bytes:
    """The blocks of a frame out of its bytes in the segment. ``number``, ``disk`` and ``first`` (its first block) are
    what the index says; whatever else the bytes say is refused. Raises CorruptFrame."""
    key = segment.key(keys.machine)

    def corrupt(why: str, count: int) -> CorruptFrame:
        return CorruptFrame(
            f"{key}: frame {number} ({disk}, blocks {first} to {first + count - 1}) {why}",
            object=key,
            frame=number,
            disk=disk,
            first_block=first,
            blocks=count,
        )

    if len(data) < FRAME_SIZE:
        raise corrupt("is cut off", FRAME_BLOCKS)
    magic, found, found_first, _, count, flags, length = FRAME.unpack_from(data)
    (check,) = struct.unpack_from("<I", data, FRAME.size)
    if zlib.crc32(data[: FRAME.size]) != check or magic != FRAME_MAGIC or not 0 < count <= FRAME_BLOCKS:
        raise corrupt("is damaged: its header isn't one", FRAME_BLOCKS)
    if (found, found_first) != (number, first) or length != len(data) - FRAME_SIZE:
        raise corrupt(f"isn't there: frame {found} of block {found_first} is", count)
    try:
        plain = cipher.frames.decrypt(
            nonce(number), data[FRAME_SIZE:], cipher.frame_data(disk, number, first, count, flags)
        )
        blocks = decompress(plain) if flags & COMPRESSED else plain
    except (InvalidTag, ZstdError):
        raise corrupt("is damaged, or was moved here from elsewhere", count) from None
    if -(-len(blocks) // BLOCK) != count:
        raise corrupt("has the wrong length", count)
    return blocks
