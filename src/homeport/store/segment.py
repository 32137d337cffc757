"""Segments: frames of all disks of a machine, a sealed directory, a footer (docs/store-format.md, "Segments")."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from homeport.domain.buffers import buffer as new_buffer
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
_ENTRY = sum(np.dtype(kind).itemsize for kind in _COLUMNS.values())
_IN_PLACE = FRAME_BLOCKS * BLOCK + TAG
"""Bytes of a sealed frame up to which it is decrypted into a buffer that is there already, rather than into new memory:
two threads then decode in 0.10 s what took them 0.13 s (1,140 frames of 256 KiB; least of six alternating runs)."""
_MOST_ENTRY = _ENTRY + FRAME_BLOCKS * 16
_MOST_HEAD = 512 * MiB
"""Bytes of a directory for each frame, and of its head (in which a manifest may be), at the most."""


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
    """A frame that waits for its place: blocks ``[first, first + count)`` of a disk, packed. ``digests``: of its
    blocks, sixteen bytes each, one after another."""

    first: int
    count: int
    flags: int
    payload: bytes | memoryview
    digests: bytes


class Place(NamedTuple):
    """Where a frame went."""

    segment: Segment
    number: int
    offset: int
    length: int


def pack_frame(first: int, data: memoryview, digests: bytes) -> Frame:
    """Compress up to sixteen blocks (the last may be short), unless that doesn't make them smaller: ``data`` then is
    what the frame holds, and must not change before it is appended."""
    count = -(-len(data) // BLOCK)
    packed = compress(data)
    if len(packed) < len(data):
        return Frame(first, count, COMPRESSED, packed, digests)
    return Frame(first, count, 0, data, digests)


_own = threading.local()


def _scratch(size: int) -> memoryview:
    """A buffer of this thread's own: for frames on their way to the file, sealed, and out of it, not yet unpacked."""
    buffer: memoryview | None = getattr(_own, "buffer", None)
    if buffer is None or len(buffer) < size:
        buffer = _own.buffer = new_buffer(max(size, MiB + MiB // 8))
    return buffer[:size]


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
        self.manifest: dict[str, Any] | None = None
        """To be written into the directory: the point's last segment has one (homeport.store.manifest)."""
        self._cipher = SegmentCipher(keys, segment, self.random)
        self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self._entries: list[tuple[int, ...]] = []
        self._frame_digests: list[bytes] = []
        self._disks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._writing = 0
        self._error: BaseException | None = None
        header = HEADER.pack(MAGIC, VERSION, 0, self.random)
        _write(self._fd, header + struct.pack("<I", zlib.crc32(header)), 0)

    @property
    def full(self) -> bool:
        return self.size >= TARGET

    def append(self, disk: str, frames: Sequence[Frame]) -> list[Place]:
        """Seal frames and write them, side by side, in one go."""
        places = []
        with self._lock:
            start = offset = self.size
            number = len(self._entries)
            disk_number = self._disks.setdefault(disk, len(self._disks))
            for frame in frames:
                length = FRAME_SIZE + len(frame.payload) + TAG
                places.append(Place(self.segment, number, offset, length))
                self._entries.append((disk_number, frame.first, frame.count, offset, length, frame.flags))
                self._frame_digests.append(frame.digests)
                offset += length
                number += 1
            self.size = offset
        buffer = _scratch(offset - start)
        seal, data, scope = FRAME.pack, self._cipher.frame_data, self._cipher.frames
        for frame, place in zip(frames, places, strict=True):
            at = place.offset - start
            body = at + FRAME_SIZE
            stop = at + place.length
            header = seal(
                FRAME_MAGIC, place.number, frame.first, disk_number, frame.count, frame.flags, place.length - FRAME_SIZE
            )
            buffer[at:body] = header + zlib.crc32(header).to_bytes(4, "little")
            scope.encrypt_into(
                nonce(place.number),
                frame.payload,
                data(disk, place.number, frame.first, frame.count, frame.flags),
                buffer[body:stop],
            )
        try:
            _write(self._fd, buffer, start)
        except BaseException as error:
            self._error = error
            raise
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
        """Write directory and footer, fsync, close. Waits for appends under way; raises what one of them met."""
        with self._lock:
            while self._writing:
                self._idle.wait()
            if self._error is not None:
                raise self._error
            entries, self._entries = self._entries, []
            digests, self._frame_digests = b"".join(self._frame_digests), []
        self.directory_offset = self.size
        told: dict[str, Any] = {"disks": list(self._disks), "frames": len(entries)}
        if self.manifest is not None:
            told["point"] = self.manifest
        head = json.dumps(told, separators=(",", ":")).encode()
        table = np.array(entries, np.uint64).reshape(-1, len(_COLUMNS))
        columns = b"".join(planes(table[:, place], kind) for place, kind in enumerate(_COLUMNS.values()))
        counts = table[:, 2].astype(np.int64)
        self.starts = np.cumsum(counts) - counts
        self.digests = np.frombuffer(digests, np.uint8).reshape(-1, 16)
        plain = struct.pack("<I", len(head)) + head + columns + digests
        sealed = self._cipher.directory.encrypt(nonce(0), compress(plain), self._cipher.directory_data)
        footer = FOOTER.pack(END_MAGIC, VERSION, 0, self.directory_offset, len(sealed), len(entries))
        _write(self._fd, sealed + footer + struct.pack("<I", zlib.crc32(footer)), self.size)
        self.size += len(sealed) + FOOTER_SIZE
        os.fsync(self._fd)
        self.close()

    def let_go(self) -> None:
        """It is in the store: its file and what only a local reader needs go."""
        self.path.unlink()
        self.digests = np.zeros((0, 16), np.uint8)
        self.starts = np.zeros(0, np.int64)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        if not done:
            raise OSError(errno.EIO, "nothing was written")
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
    manifest: dict[str, Any] | None = None

    def check(self, rows: Any, key: str) -> None:
        """Rows of an index name frames that are there, and blocks that these have. Raises Corrupt."""
        frames = np.atleast_1d(rows["frame"])
        if len(frames) and (
            int(frames.max()) >= len(self.count) or (rows["skip"] + rows["count"] > self.count[frames]).any()
        ):
            raise Corrupt(f"{key}: its directory lacks frames that a record names", object=key)


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
    length = info.size - FOOTER_SIZE - info.directory
    if info.directory < HEADER_SIZE or not 0 < length < 1 << 32:
        raise Corrupt(f"{key}: a record names a place for its directory where none can be", object=key)
    sealed = objects.get_range(key, info.directory, length)
    cipher = SegmentCipher(keys, info.segment, info.random)
    most = _MOST_HEAD + (info.directory - HEADER_SIZE) // (FRAME_SIZE + TAG) * _MOST_ENTRY
    try:
        plain = decompress(cipher.directory.decrypt(nonce(0), sealed, cipher.directory_data), most)
    except (InvalidTag, ZstdError, ValueError):
        raise Corrupt(f"{key}: the segment's directory is damaged or was moved here", object=key) from None
    try:
        return _parse_directory(plain)
    except (ValueError, TypeError, KeyError, RecursionError, struct.error):
        raise Corrupt(f"{key}: the segment's directory isn't one that this version knows", object=key) from None


def _parse_directory(plain: bytes) -> Directory:
    """Raises ValueError, TypeError, KeyError, RecursionError, struct.error."""
    (length,) = struct.unpack_from("<I", plain)
    head = json.loads(plain[4 : 4 + length])
    frames, disks, manifest = head["frames"], head["disks"], head.get("point")
    view = memoryview(plain)[4 + length :]
    if type(frames) is not int or not 0 <= frames <= len(view) // _ENTRY:
        raise ValueError("frames")
    if not isinstance(disks, list) or not all(isinstance(disk, str) for disk in disks):
        raise ValueError("disks")
    if not isinstance(manifest, dict | None):
        raise ValueError("point")
    columns = {}
    for name, kind in _COLUMNS.items():
        size = frames * np.dtype(kind).itemsize
        columns[name] = unplanes(view[:size], frames, kind)
        view = view[size:]
    counts = columns["count"].astype(np.int64)
    digests = np.frombuffer(view, np.uint8).reshape(-1, 16)
    if len(digests) != int(counts.sum()) or (
        frames and not (int(columns["disk"].max()) < len(disks) and 0 < counts.min() <= counts.max() <= FRAME_BLOCKS)
    ):
        raise ValueError("columns")
    starts = np.cumsum(counts) - counts
    return Directory(disks, **columns, starts=starts, digests=digests, manifest=manifest)


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
        sealed, told = data[FRAME_SIZE:], cipher.frame_data(disk, number, first, count, flags)
        if flags & COMPRESSED and TAG <= length <= _IN_PLACE:
            packed = _scratch(length - TAG)
            cipher.frames.decrypt_into(nonce(number), sealed, told, packed)
            blocks = decompress(packed, count * BLOCK)
        else:
            plain = cipher.frames.decrypt(nonce(number), sealed, told)
            blocks = decompress(plain, count * BLOCK) if flags & COMPRESSED else plain
    except (InvalidTag, ZstdError):
        raise corrupt("is damaged, or was moved here from elsewhere", count) from None
    if -(-len(blocks) // BLOCK) != count:
        raise corrupt("has the wrong length", count)
    return blocks
