"""Our NBD client against our NBD server."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from disk_peers import short_folder

from homeport.disks.errors import DiskError, DiskOutOfRange
from homeport.disks.nbd import wire
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdClosed, NbdError, NbdRefused
from homeport.disks.nbd.export import FileExport
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.server import NbdServer
from homeport.disks.nbd.status import allocated, status_of
from homeport.domain.extents import Extents
from homeport.domain.units import GiB, KiB, MiB, TiB

ALLOCATION = (wire.BASE_ALLOCATION,)


class MemoryExport:
    """A disk in memory that can be told to fail, or to wait."""

    def __init__(self, data: bytes, *, read_only: bool = False) -> None:
        self.data = bytearray(data)
        self.size, self.read_only = len(data), read_only
        self.failure: Exception | None = None
        self.gate: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.flushes = 0

    def _meet(self) -> None:
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._meet()
        buffer[:] = self.data[offset : offset + len(buffer)]

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        self._meet()
        return [(length, 0)]

    def write(self, offset: int, data: memoryview) -> None:
        self._meet()
        self.data[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self._meet()
        self.data[offset : offset + length] = bytes(length)

    trim = zero

    def flush(self) -> None:
        self._meet()
        self.flushes += 1


class VastExport:
    """An 8 TiB disk with a little data; tells the status of at most three runs at a time."""

    size, read_only = 8 * TiB, True
    data = Extents.of([(0, 512), (5 * GiB - 512, 1024), (3 * TiB, MiB), (8 * TiB - 512, 512)])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        return status_of(self.data, offset, length, 3)


class Bench:
    def __init__(self, folder: Path, exports: dict[str, Any]) -> None:
        self.folder, self.path = folder, str(folder / "nbd")
        self.server = NbdServer(exports)
        self.server.serve_unix(self.path)
        self.server.start()

    def client(self, export: str = "disk", contexts: tuple[str, ...] = (), timeout: float = 20) -> NbdClient:
        return NbdClient(self.path, export, meta_contexts=contexts, timeout=timeout)


@pytest.fixture
def bench(request: pytest.FixtureRequest):
    benches = []

    def make(exports: dict[str, Any]) -> Bench:
        benches.append(Bench(stack.enter_context(short_folder()), exports))
        return benches[-1]

    with ExitStack() as stack:
        yield make
        for made in benches:
            made.server.close()


CONTENT = random.Random(7).randbytes(5 * MiB + 512)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, 5 * MiB + 512), (511, 3 * MiB + 7), (5 * MiB + 511, 1), (9, 0)]
)
def test_a_read_gives_the_bytes_of_the_disk(bench, offset, length):
    with bench({"disk": MemoryExport(CONTENT)}).client() as client:
        assert client.size == len(CONTENT)
        assert client.read(offset, length) == CONTENT[offset : offset + length]


def test_writes_zeroes_trims_and_flushes_reach_the_export(bench):
    export = MemoryExport(CONTENT)
    expected = bytearray(CONTENT)
    with bench({"disk": export}).client() as client:
        data = os.urandom(3 * MiB + 100)
        client.write(77, data)
        expected[77 : 77 + len(data)] = data
        client.zero(MiB, 5000)
        expected[MiB : MiB + 5000] = bytes(5000)
        client.trim(4 * MiB, 4096)
        expected[4 * MiB : 4 * MiB + 4096] = bytes(4096)
        client.flush()
        assert export.flushes == 1
        client.write(0, b"now", fua=True)
        expected[:3] = b"now"
        assert export.flushes == 2
    assert export.data == expected


def test_zeroes_are_read_as_a_hole_into_a_buffer_that_held_something_else(bench):
    with bench({"disk": MemoryExport(bytes(4 * MiB))}).client() as client:
        buffer = bytearray(b"x" * (3 * MiB))
        client.read_into(100, memoryview(buffer))
        assert buffer == bytes(3 * MiB)


def test_a_read_only_export_says_so_and_refuses_writes_and_allows_many_connections(bench):
    with bench({"disk": MemoryExport(CONTENT, read_only=True)}).client() as client:
        assert client.read_only
        assert client.flags & wire.FLAG_CAN_MULTI_CONN
        with pytest.raises(NbdError, match="read-only") as caught:
            client.write(0, b"x")
        assert caught.value.name == "EPERM"
        assert client.read(0, 10) == CONTENT[:10]


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (DiskError("the store is unreachable"), "EIO"),
        (OSError(errno.ENOSPC, "full"), "ENOSPC"),
        (OSError(errno.EBADF, "bad"), "EIO"),
        (ValueError("a bug"), "EIO"),
    ],
)
def test_an_error_of_the_export_is_told_with_its_reason_and_the_connection_goes_on(bench, failure, name):
    export = MemoryExport(CONTENT)
    with bench({"disk": export}).client(contexts=ALLOCATION) as client:
        for request in (
            lambda: client.read(0, 3 * MiB),
            lambda: client.write(0, bytes(3 * MiB)),
            lambda: client.zero(0, 10),
            lambda: client.flush(),
            lambda: client.block_status(wire.BASE_ALLOCATION, 0, 100),
        ):
            export.failure = failure
            with pytest.raises(NbdError) as caught:
                request()
            assert caught.value.name == name
            export.failure = None
            assert client.read(100, 100) == export.data[100:200]
        export.failure = failure
        with pytest.raises(NbdError, match=str(failure.args[-1])):
            client.read(0, 10)


def test_a_request_beyond_the_end_is_refused_before_it_is_sent(bench):
    with bench({"disk": MemoryExport(CONTENT)}).client(contexts=ALLOCATION) as client:
        for request in (
            lambda: client.read(len(CONTENT), 1),
            lambda: client.write(len(CONTENT) - 1, b"ab"),
            lambda: client.zero(0, len(CONTENT) + 1),
            lambda: client.block_status(wire.BASE_ALLOCATION, -1, 1),
        ):
            with pytest.raises(DiskOutOfRange):
                request()


def test_an_unknown_export_is_refused_by_name(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    with pytest.raises(NbdRefused, match="other"):
        place.client("other")


def test_a_context_that_is_not_offered_is_refused_by_name(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    with pytest.raises(NbdRefused, match="qemu:dirty-bitmap:b0"):
        place.client(contexts=("qemu:dirty-bitmap:b0",))


def test_nobody_at_the_address_is_a_closed_connection(tmp_path):
    with pytest.raises(NbdClosed, match="no NBD server answers"):
        NbdClient(str(tmp_path / "nothing"), "disk")


def test_block_status_covers_exactly_what_was_asked_although_answers_come_in_pieces(bench):
    with bench({"disk": VastExport()}).client(contexts=ALLOCATION) as client:
        assert allocated(client) == VastExport.data
        status = client.block_status(wire.BASE_ALLOCATION, 5 * GiB - 1000, GiB + 2000)
        assert status[:, 0].sum() == GiB + 2000
        assert client.block_status(wire.BASE_ALLOCATION, 0, 0).shape == (0, 2)


def test_tcp_and_several_exports_work_too(bench):
    server = NbdServer({"a": MemoryExport(b"a" * 1000), "b": MemoryExport(b"b" * 2000)})
    address = server.serve_tcp()
    with server, NbdClient(address, "a") as first, NbdClient(address, "b") as second:
        assert first.read(0, 1000) == b"a" * 1000
        assert second.read(0, 2000) == b"b" * 2000


def test_unix_sockets_at_paths_longer_than_an_address_work(tmp_path):
    folder = tmp_path / ("f" * 120)
    folder.mkdir()
    with NbdServer({"disk": MemoryExport(CONTENT)}) as server:
        server.serve_unix(folder / "nbd.socket")
        with NbdClient(folder / "nbd.socket", "disk") as client:
            assert client.read(0, 100) == CONTENT[:100]
    assert not (folder / "nbd.socket").exists()


def test_the_socket_of_a_dead_server_is_replaced_and_a_living_one_is_not(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    with pytest.raises(OSError) as caught:
        NbdServer({}).serve_unix(place.path)
    assert caught.value.errno == errno.EADDRINUSE
    dead = place.folder / "dead"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with NbdServer({"disk": MemoryExport(CONTENT)}) as server:
        server.serve_unix(dead)
        with NbdClient(dead, "disk") as client:
            assert client.read(1, 1) == CONTENT[1:2]


def test_a_pool_lets_as_many_threads_read_at_once_as_it_has_connections(bench):
    export = MemoryExport(CONTENT, read_only=True)
    place = bench({"disk": export})
    export.gate = threading.Event()
    with NbdPool(place.path, "disk", connections=3) as pool, ThreadPoolExecutor(6) as threads:
        assert place.server.connections == 1
        reads = [threads.submit(pool.read, index * 1000, 1000) for index in range(6)]
        for _ in range(3):
            assert export.entered.acquire(timeout=20)
        assert place.server.connections == 3
        export.gate.set()
        for index, read in enumerate(reads):
            assert read.result(20) == CONTENT[index * 1000 : index * 1000 + 1000]
        assert place.server.connections == 3


def test_a_pool_connects_again_after_the_server_came_back(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    with NbdPool(place.path, "disk") as pool:
        place.server.close()
        with pytest.raises(NbdClosed):
            pool.read(0, 1)
        with pytest.raises(NbdClosed, match="no NBD server answers"):
            pool.read(0, 1)
        with NbdServer({"disk": MemoryExport(CONTENT)}) as again:
            again.serve_unix(place.path)
            assert pool.read(0, 10) == CONTENT[:10]
    with pytest.raises(NbdClosed):
        pool.read(0, 1)


def test_a_server_that_does_not_answer_costs_the_time_out_only(bench):
    export = MemoryExport(CONTENT)
    place = bench({"disk": export})
    client = place.client(timeout=0.2)
    export.gate = threading.Event()
    try:
        with pytest.raises(NbdClosed, match="does not answer"):
            client.read(0, 10)
        assert client.closed
        with pytest.raises(NbdClosed):
            client.read(0, 10)
    finally:
        export.gate.set()


def test_a_listener_that_says_nothing_costs_the_time_out_only():
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "s"))
        silent.listen()
        with pytest.raises(NbdClosed):
            NbdClient(str(folder / "s"), "disk", timeout=0.2)


def test_closing_the_server_ends_clients_that_wait(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    client = place.client()
    place.server.close()
    assert place.server.connections == 0
    with pytest.raises(NbdClosed):
        client.read(0, 1)


def test_the_server_hangs_up_when_the_client_says_goodbye(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    raw = Raw(place.path)
    raw.go()
    raw.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))
    assert raw.sock.recv(1) == b""


class Raw:
    """A client byte by byte: what well-behaved ones never send."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.take(18)
        self.sock.sendall(struct.pack(">I", 3))

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            assert part, "the server hung up"
            data += part
        return data

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.sock.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while True:
            _, _, kind, length = wire.OPTION_REPLY.unpack(self.take(20))
            replies.append((kind, self.take(length)))
            if kind == wire.REP_ACK or kind & wire.REP_IS_ERROR:
                return replies

    def go(self, name: bytes = b"disk") -> None:
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        assert self.option(wire.OPT_GO, data)[-1][0] == wire.REP_ACK

    def ask(self, command: int, offset: int, length: int, flags: int = 0) -> int:
        """The error of a simple reply."""
        self.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, command, 42, offset, length))
        return self.answer()

    def answer(self) -> int:
        magic, error, cookie = wire.SIMPLE_REPLY.unpack(self.take(16))
        assert (magic, cookie) == (wire.SIMPLE_REPLY_MAGIC, 42)
        return int(error)


def test_requests_that_can_not_be_are_refused_and_the_connection_goes_on(bench):
    export = MemoryExport(CONTENT)
    raw = Raw(bench({"disk": export}).path)
    raw.go()
    size = len(CONTENT)
    assert raw.ask(wire.CMD_READ, size - 1, 2) == errno.EINVAL
    assert raw.ask(wire.CMD_READ, 2**64 - 1, 2) == errno.EINVAL
    assert raw.ask(wire.CMD_READ, 0, 0) == errno.EINVAL
    assert raw.ask(wire.CMD_TRIM, size, 1) == errno.EINVAL
    assert raw.ask(wire.CMD_WRITE_ZEROES, 0, size + 1) == errno.EINVAL
    assert raw.ask(wire.CMD_BLOCK_STATUS, 0, 512) == errno.EINVAL
    assert raw.ask(99, 0, 0) == errno.EINVAL
    raw.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 42, size - 1, 2) + b"ab")
    assert raw.answer() == errno.EINVAL
    assert raw.ask(wire.CMD_READ, 7, 3) == 0
    assert raw.take(3) == CONTENT[7:10]
    assert export.data == CONTENT


def test_more_than_32_mib_at_once_is_refused_and_the_connection_goes_on(bench, tmp_path):
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(100 * MiB)
    raw = Raw(bench({"disk": FileExport(path, writable=True)}).path)
    raw.go()
    assert raw.ask(wire.CMD_READ, 0, 32 * MiB + 1) == errno.EINVAL
    raw.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 42, 0, 33 * MiB) + b"x" * (33 * MiB))
    assert raw.answer() == errno.EINVAL
    assert raw.ask(wire.CMD_READ, 0, 3) == 0
    assert raw.take(3) == bytes(3)
    assert path.stat().st_blocks == 0


def test_the_old_way_to_choose_an_export_works(bench):
    raw = Raw(bench({"disk": MemoryExport(CONTENT)}).path)
    raw.sock.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_EXPORT_NAME, 4) + b"disk")
    assert wire.EXPORT_NAME_REPLY.unpack(raw.take(10))[0] == len(CONTENT)
    assert raw.ask(wire.CMD_READ, 0, 2) == 0
    assert raw.take(2) == CONTENT[:2]


def test_exports_and_contexts_are_listed(bench):
    raw = Raw(bench({"disk": MemoryExport(CONTENT), "zwei": MemoryExport(CONTENT)}).path)
    names = [data[4:] for kind, data in raw.option(wire.OPT_LIST) if kind == wire.REP_SERVER]
    assert names == [b"disk", b"zwei"]
    query = struct.pack(">I", 4) + b"disk" + struct.pack(">I", 0)
    assert raw.option(wire.OPT_LIST_META_CONTEXT, query) == [(wire.REP_ERR_INVALID, b"")]
    raw.option(wire.OPT_STRUCTURED_REPLY)
    assert raw.option(wire.OPT_LIST_META_CONTEXT, query)[0] == (wire.REP_META_CONTEXT, bytes(4) + b"base:allocation")
    assert raw.option(77)[0][0] == wire.REP_ERR_UNSUP


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
        wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_GO, 2**31) + b"x" * 1000,
        wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_GO, 8) + struct.pack(">I", 4000) + b"abcd",
        wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_SET_META_CONTEXT, 1) + b"a",
        wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_INFO, 8) + struct.pack(">I", 4) + b"\xff\xff\xff\xff",
    ],
)
def test_a_client_that_sends_garbage_is_dropped_and_others_are_served(bench, garbage):
    place = bench({"disk": MemoryExport(CONTENT)})
    with place.client() as other:
        raw = Raw(place.path)
        raw.sock.sendall(garbage)
        try:
            while raw.sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
        assert other.read(0, 5) == CONTENT[:5]
    with place.client() as another:
        assert another.read(0, 5) == CONTENT[:5]


def test_garbage_in_place_of_a_request_ends_that_connection(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    raw = Raw(place.path)
    raw.go()
    raw.sock.sendall(b"x" * 28)
    assert raw.sock.recv(1) == b""


def test_a_client_that_leaves_in_the_middle_of_a_write_changes_nothing(bench):
    export = MemoryExport(CONTENT)
    place = bench({"disk": export})
    raw = Raw(place.path)
    raw.go()
    raw.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 42, 0, MiB) + b"x" * (MiB // 2))
    raw.sock.close()
    with place.client() as client:
        assert client.read(0, MiB) == CONTENT[:MiB]
    place.server.close()
    assert export.data == CONTENT


def test_a_client_that_leaves_without_taking_its_answer_does_no_harm(bench):
    place = bench({"disk": MemoryExport(CONTENT)})
    raw = Raw(place.path)
    raw.go()
    raw.sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_READ, 42, 0, 5 * MiB))
    raw.take(1000)
    raw.sock.close()
    with place.client() as client:
        assert client.read(0, MiB) == CONTENT[:MiB]


def test_many_requests_in_one_packet_are_all_answered(bench):
    raw = Raw(bench({"disk": MemoryExport(CONTENT)}).path)
    raw.go()
    raw.sock.sendall(
        b"".join(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_READ, 42, index * 100, 100) for index in range(5000))
    )
    for index in range(5000):
        assert raw.answer() == 0
        assert raw.take(100) == CONTENT[index * 100 : index * 100 + 100]


class Wicked(threading.Thread):
    """A server that answers the first request with given bytes, whatever it was."""

    def __init__(self, listener: socket.socket, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.listener, self.answer = listener, answer

    def run(self) -> None:
        sock, _ = self.listener.accept()
        with sock:

            def take(length: int) -> bytes:
                return sock.recv(length, socket.MSG_WAITALL)

            def acknowledge(option: int) -> bytes:
                return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, wire.REP_ACK, 0)

            sock.sendall(wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, 3))
            take(4)
            while True:
                _, option, length = wire.OPTION.unpack(take(16))
                take(length) if length else b""
                if option == wire.OPT_GO:
                    info = wire.INFO_EXPORT_DATA.pack(0, MiB, 1)
                    head = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, wire.REP_INFO, len(info))
                    sock.sendall(head + info + acknowledge(option))
                    break
                if option == wire.OPT_SET_META_CONTEXT:
                    info = bytes([0, 0, 0, 9]) + b"base:allocation"
                    head = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, wire.REP_META_CONTEXT, len(info))
                    sock.sendall(head + info)
                sock.sendall(acknowledge(option))
            take(28)
            sock.sendall(self.answer)
            sock.shutdown(socket.SHUT_WR)
            try:
                sock.recv(1000)
            except ConnectionResetError:
                pass  # it hung up on us, with our answer half read


def chunk(kind: int, payload: bytes, *, done: bool = True, cookie: int = 1) -> bytes:
    return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, int(done), kind, cookie, len(payload)) + payload


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, 99),
        chunk(wire.CHUNK_NONE, b"", cookie=99),
        chunk(wire.CHUNK_NONE, b""),
        chunk(wire.CHUNK_OFFSET_DATA, struct.pack(">Q", 512) + bytes(100)),
        chunk(wire.CHUNK_OFFSET_DATA, struct.pack(">Q", 0) + bytes(1000)),
        chunk(wire.CHUNK_OFFSET_HOLE, struct.pack(">QI", 0, 513)),
        chunk(wire.CHUNK_OFFSET_HOLE, struct.pack(">QI", 0, 100)),
        chunk(wire.CHUNK_OFFSET_HOLE, struct.pack(">QI", 0, 256), done=False) * 2 + chunk(wire.CHUNK_NONE, b""),
        chunk(77, b"abc"),
        wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, 1, wire.CHUNK_OFFSET_DATA, 1, 2**32 - 1),
        b"",
    ],
)
def test_a_server_that_breaks_the_protocol_never_passes_for_data(answer):
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        server = Wicked(listener, answer)
        server.start()
        client = NbdClient(str(folder / "s"), "disk", timeout=1)
        with pytest.raises(NbdClosed):
            client.read(0, 512)
        assert client.closed
        server.join(20)


@pytest.mark.parametrize(
    "answer",
    [
        chunk(wire.CHUNK_BLOCK_STATUS, struct.pack(">III", 9, 0, 0)),
        chunk(wire.CHUNK_BLOCK_STATUS, struct.pack(">III", 8, MiB, 0)),
        chunk(wire.CHUNK_BLOCK_STATUS, struct.pack(">I", 9)),
        chunk(wire.CHUNK_NONE, b""),
    ],
)
def test_a_block_status_that_says_nothing_is_an_error_and_no_endless_loop(answer):
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        server = Wicked(listener, answer)
        server.start()
        client = NbdClient(str(folder / "s"), "disk", meta_contexts=ALLOCATION, timeout=1)
        with pytest.raises(NbdClosed):
            client.block_status(wire.BASE_ALLOCATION, 0, MiB)
        server.join(20)


def test_a_read_in_pieces_out_of_order_with_holes_is_put_together():
    answer = (
        chunk(wire.CHUNK_OFFSET_DATA, struct.pack(">Q", 300) + b"c" * 212, done=False)
        + chunk(wire.CHUNK_OFFSET_HOLE, struct.pack(">QI", 100, 200), done=False)
        + chunk(wire.CHUNK_OFFSET_DATA, struct.pack(">Q", 0) + b"a" * 100, done=False)
        + chunk(wire.CHUNK_NONE, b"")
    )
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        server = Wicked(listener, answer)
        server.start()
        with NbdClient(str(folder / "s"), "disk", timeout=5) as client:
            assert client.read(0, 512) == b"a" * 100 + bytes(200) + b"c" * 212
        server.join(20)


def test_a_status_that_goes_beyond_the_range_is_cut():
    answer = chunk(wire.CHUNK_BLOCK_STATUS, struct.pack(">IIIII", 9, 100, 3, 5000, 0))
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        server = Wicked(listener, answer)
        server.start()
        with NbdClient(str(folder / "s"), "disk", meta_contexts=ALLOCATION, timeout=5) as client:
            assert client.block_status(wire.BASE_ALLOCATION, 0, 4 * KiB).tolist() == [[100, 3], [3996, 0]]
        server.join(20)
