"""Exports that send content from where it lies: replies gathered, holes told, the order and the bytes as ever."""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from disk_peers import short_folder

from homeport.disks.errors import DiskError
from homeport.disks.nbd import wire
from homeport.disks.nbd.channel import IOV_MAX, Channel
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdError
from homeport.disks.nbd.export import PieceExport, Pieces
from homeport.disks.nbd.replies import HOLE_FROM
from homeport.disks.nbd.server import NbdServer
from homeport.domain.units import KiB, MiB

SIZE = 6 * MiB + 512
RNG = random.Random(11)


def content() -> bytes:
    """Content and runs of zeroes of many lengths."""
    made = bytearray()
    while len(made) < SIZE:
        length = RNG.choice([1, 100, 512, 4 * KiB, 5000, 16 * KiB, 100_000, MiB])
        made += bytes(length) if RNG.random() < 0.5 else RNG.randbytes(length)
    return bytes(made[:SIZE])


CONTENT = content()
CUTS = sorted({0, SIZE, *(RNG.randrange(SIZE) for _ in range(400))})


class PiecesExport:
    """Gives its content in pieces cut at random; half of it is at hand, the other half takes time."""

    size, read_only = SIZE, True

    def __init__(self) -> None:
        self.prepared: list[tuple[int, int]] = []
        self.failure: Exception | None = None
        self.here = lambda offset: bool(offset // (64 * KiB) % 2)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("not asked for")

    def at_hand(self, offset: int, length: int) -> Pieces | None:
        return self._cut(offset, length) if self.here(offset) else None

    def pieces(self, offset: int, length: int) -> Pieces:
        if self.failure:
            raise self.failure
        return self._cut(offset, length)

    def prepare(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.prepared += ranges

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        return [(length, 0)]

    def _cut(self, offset: int, length: int) -> Pieces:
        edges = [offset, *(cut for cut in CUTS if offset < cut < offset + length), offset + length]
        result: Pieces = []
        for start, stop in pairwise(edges):
            piece = CONTENT[start:stop]
            result.append(memoryview(piece) if any(piece) else len(piece))
        return result


class Raw:
    """A client that sends many requests at once."""

    def __init__(self, path: str, structured: bool) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.take(18)
        self.sock.sendall(struct.pack(">I", 3))
        if structured:
            self.sock.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_STRUCTURED_REPLY, 0))
            self.take(20)
        self.sock.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_EXPORT_NAME, 4) + b"disk")
        self.take(10)

    def take(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            assert part, "the server hung up"
            data += part
        return bytes(data)

    @staticmethod
    def request(cookie: int, offset: int, length: int, command: int = wire.CMD_READ, flags: int = 0) -> bytes:
        return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, cookie, offset, length)

    def chunks(self, cookie: int) -> list[tuple[int, int, bytes]]:
        """Of one structured reply: kind, offset, content (of a hole: zeroes)."""
        result = []
        while True:
            magic, flags, kind, found, length = wire.CHUNK.unpack(self.take(wire.CHUNK.size))
            assert (magic, found) == (wire.STRUCTURED_REPLY_MAGIC, cookie)
            payload = self.take(length)
            if kind == wire.CHUNK_OFFSET_HOLE:
                offset, length = wire.CHUNK_HOLE.unpack(payload)
                result.append((kind, offset, bytes(length)))
            else:
                assert kind == wire.CHUNK_OFFSET_DATA
                result.append((kind, *wire.CHUNK_OFFSET.unpack(payload[:8]), payload[8:]))
            if flags & wire.CHUNK_FLAG_DONE:
                return result


@pytest.fixture
def place() -> Iterator[tuple[PiecesExport, str]]:
    export = PiecesExport()
    assert isinstance(export, PieceExport)
    with short_folder() as folder, NbdServer({"disk": export}) as server:
        server.serve_unix(folder / "nbd")
        yield export, str(folder / "nbd")


def some_reads(count: int) -> list[tuple[int, int]]:
    reads = []
    for _ in range(count):
        offset = RNG.randrange(SIZE)
        reads.append((offset, min(SIZE - offset, RNG.choice([1, 511, 4096, 70_000, 300_000]))))
    return reads


def test_the_client_reads_the_disk(place: tuple[PiecesExport, str]) -> None:
    with NbdClient(place[1], "disk") as client:
        assert client.read(0, SIZE) == CONTENT
        for offset, length in some_reads(200):
            assert client.read(offset, length) == CONTENT[offset : offset + length]


def test_requests_sent_at_once_are_answered_in_full_with_structured_replies(place: tuple[PiecesExport, str]) -> None:
    raw = Raw(place[1], True)
    reads = some_reads(300)
    data = b"".join(raw.request(cookie, *read) for cookie, read in enumerate(reads))
    sender = threading.Thread(target=raw.sock.sendall, args=(data,))
    sender.start()
    for cookie, (offset, length) in enumerate(reads):
        position = offset
        for kind, start, piece in raw.chunks(cookie):
            assert start == position
            assert piece == CONTENT[start : start + len(piece)]
            assert kind == wire.CHUNK_OFFSET_DATA or len(piece) >= min(HOLE_FROM, length)
            position += len(piece)
        assert position == offset + length
    sender.join(20)


def test_who_wants_one_chunk_gets_one(place: tuple[PiecesExport, str]) -> None:
    raw = Raw(place[1], True)
    for offset, length in some_reads(60):
        raw.sock.sendall(raw.request(7, offset, length, flags=wire.CMD_FLAG_DF))
        ((_, start, piece),) = raw.chunks(7)
        assert (start, piece) == (offset, CONTENT[offset : offset + length])


def test_simple_replies_carry_all_zeroes(place: tuple[PiecesExport, str]) -> None:
    raw = Raw(place[1], False)
    reads = some_reads(100)
    data = b"".join(raw.request(cookie, *read) for cookie, read in enumerate(reads))
    sender = threading.Thread(target=raw.sock.sendall, args=(data,))
    sender.start()
    for cookie, (offset, length) in enumerate(reads):
        assert raw.take(16) == wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie)
        assert raw.take(length) == CONTENT[offset : offset + length]
    sender.join(20)


def test_what_was_asked_for_meanwhile_is_told_to_the_export(place: tuple[PiecesExport, str]) -> None:
    export, path = place
    export.here = lambda offset: False
    raw = Raw(path, False)
    reads = [(n * 100_000, 512) for n in range(20)]
    raw.sock.sendall(b"".join(raw.request(n, *read) for n, read in enumerate(reads)) + raw.request(99, SIZE, 1))
    for _ in reads:
        raw.take(16 + 512)
    assert struct.unpack(">I", raw.take(16)[4:8])[0] == errno.EINVAL
    assert export.prepared[:19] == reads[1:]
    assert (SIZE, 1) not in export.prepared


def test_what_a_write_carries_is_not_taken_for_requests(place: tuple[PiecesExport, str]) -> None:
    export, path = place
    raw = Raw(path, False)
    inner = raw.request(9, 5, 5)
    raw.sock.sendall(raw.request(1, 0, 10) + raw.request(2, 0, len(inner), wire.CMD_WRITE) + inner)
    raw.take(16 + 10)
    assert struct.unpack(">I", raw.take(16)[4:8])[0] == errno.EPERM
    assert export.prepared == []


def test_what_is_at_hand_does_not_wait_for_what_is_not(place: tuple[PiecesExport, str]) -> None:
    export, path = place
    gate = threading.Event()
    fast = export._cut

    def slow(offset: int, length: int) -> Pieces:
        assert gate.wait(20)
        return fast(offset, length)

    export.pieces = slow  # type: ignore[method-assign]
    raw = Raw(path, False)
    raw.sock.sendall(raw.request(1, 64 * KiB, 10) + raw.request(2, 0, 10))
    assert raw.take(16 + 10)[16:] == CONTENT[64 * KiB :][:10]
    gate.set()
    assert raw.take(16 + 10)[16:] == CONTENT[:10]


class FillingExport(PiecesExport):
    """One that fills buffers, as those do that keep nothing."""

    at_hand = None  # type: ignore[assignment]
    prepare = None  # type: ignore[assignment]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = CONTENT[offset : offset + len(buffer)]


def test_a_buffer_is_sent_before_it_is_filled_again(tmp_path: Path) -> None:
    with short_folder() as folder, NbdServer({"disk": FillingExport()}) as server:
        server.serve_unix(folder / "nbd")
        raw = Raw(str(folder / "nbd"), False)
        reads = [(n * 70_000, 600) for n in range(50)]
        raw.sock.sendall(b"".join(raw.request(n, *read) for n, read in enumerate(reads)))
        for offset, length in reads:
            assert raw.take(16 + length)[16:] == CONTENT[offset : offset + length]


def test_bad_requests_among_good_ones_are_refused_in_their_turn(place: tuple[PiecesExport, str]) -> None:
    raw = Raw(place[1], False)
    requests = [
        (raw.request(0, 65536, 100), 0),
        (raw.request(1, SIZE - 1, 2), errno.EINVAL),
        (raw.request(2, 0, 0), errno.EINVAL),
        (raw.request(3, 0, 10, flags=1 << 9), errno.EINVAL),
        (raw.request(4, 65536, 3, wire.CMD_WRITE) + b"abc", errno.EPERM),
        (raw.request(5, 0, 0, wire.CMD_FLUSH), 0),
        (raw.request(6, 70000, 100), 0),
    ]
    raw.sock.sendall(b"".join(request for request, _ in requests))
    for cookie, (_, error) in enumerate(requests):
        assert raw.take(16) == wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)
        if cookie in (0, 6):
            raw.take(100)


def test_a_failure_is_told_and_the_connection_goes_on(place: tuple[PiecesExport, str]) -> None:
    export, path = place
    with NbdClient(path, "disk") as client:
        export.failure = DiskError("the store is unreachable")
        assert client.read(64 * KiB, 512) == CONTENT[64 * KiB :][:512]
        with pytest.raises(NbdError, match="unreachable") as caught:
            client.read(0, 512)
        assert caught.value.name == "EIO"
        export.failure = None
        assert client.read(0, 512) == CONTENT[:512]


def test_more_buffers_than_one_call_takes_are_sent(tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(20)
        views = [memoryview(RNG.randbytes(n % 50 * 20 or 1)) for n in range(3 * IOV_MAX)]
        expected = b"".join(views)
        sender = threading.Thread(target=Channel(left, timeout=None).send_bytes, args=(views,))
        sender.start()
        found = bytearray()
        while len(found) < len(expected):
            found += right.recv(3000)
        sender.join(20)
        assert found == expected
