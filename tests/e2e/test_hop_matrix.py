"""The matrix of hops and troubles is whole and its tests are there; the ledger knows a wrong point from a right one."""

from __future__ import annotations

import ast
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homeport.domain.units import BLOCK
from tests.e2e.hop_matrix import HERE, MATRIX, PAGE, TROUBLES, with_table
from tests.e2e.ledger import SLOT, Ledger, Write, WrongPoint
from tests.e2e.relays import Relay

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def test_each_hop_and_trouble_has_a_test_or_a_reason_why_not() -> None:
    for hop, row in MATRIX.items():
        assert tuple(row) == TROUBLES, hop
        assert all(cell is True or (isinstance(cell, str) and cell) for cell in row.values()), hop


def test_each_test_that_is_named_is_there() -> None:
    named = {HERE} | {str(cell) for row in MATRIX.values() for cell in row.values() if "::" in str(cell)}
    for test in named:
        path, _, name = test.partition("::")
        functions = {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name.partition("[")[0] in functions, test


def test_the_page_has_the_matrix() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run `.venv/bin/python -m tests.e2e.hop_matrix`"


# ── the ledger ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Disks:
    """Two disks and what was written to them."""

    def __init__(self) -> None:
        self.content = {disk: bytearray(secrets.token_bytes(16 * SLOT)) for disk in ("disk0", "disk1")}
        self.ledger = Ledger({disk: len(data) for disk, data in self.content.items()})
        for disk, data in self.content.items():
            self.ledger.begin_with(disk, bytes(data))

    def write(self, disk: str, slot: int) -> Write:
        data = secrets.token_bytes(SLOT)
        write = self.ledger.begin(disk, slot, data)
        self.content[disk][slot * SLOT : (slot + 1) * SLOT] = data
        write.acked = datetime.now(UTC)
        return write

    def now(self) -> dict[str, bytes]:
        return {disk: bytes(data) for disk, data in self.content.items()}


@pytest.fixture
def disks() -> Disks:
    return Disks()


def test_what_disks_held_after_any_write_is_right(disks: Disks) -> None:
    points = [disks.now()]
    for number in range(40):
        disks.write(f"disk{number % 2}", number * 7 % 16)
        points.append(disks.now())
    assert [disks.ledger.check(point, LONG_AGO) for point in points] == list(range(41))


def test_disks_of_two_instants_are_no_point(disks: Disks) -> None:
    disks.write("disk0", 3)
    before = disks.now()
    disks.write("disk0", 4)
    disks.write("disk1", 4)
    with pytest.raises(WrongPoint, match="of slot 4 of disk0 number 0, not 2"):
        disks.ledger.check({**disks.now(), "disk0": before["disk0"]}, LONG_AGO)


def test_an_older_block_among_newer_ones_is_no_point(disks: Disks) -> None:
    before = disks.now()
    disks.write("disk0", 3)
    disks.write("disk0", 3)
    disks.write("disk0", 9)
    torn = bytearray(disks.now()["disk0"])
    torn[3 * SLOT : 4 * SLOT] = before["disk0"][3 * SLOT : 4 * SLOT]
    with pytest.raises(WrongPoint, match="slot 3"):
        disks.ledger.check({**disks.now(), "disk0": bytes(torn)}, LONG_AGO)


def test_a_byte_that_was_never_written_is_no_point(disks: Disks) -> None:
    wrong = disks.now()
    wrong["disk1"] = wrong["disk1"][:-1] + bytes([wrong["disk1"][-1] ^ 1])
    with pytest.raises(WrongPoint, match="slot 15 of disk1"):
        disks.ledger.check(wrong, LONG_AGO)


def test_a_point_that_lacks_what_was_done_before_its_instant_is_wrong(disks: Disks) -> None:
    before = disks.now()
    write = disks.write("disk0", 3)
    assert write.acked is not None
    assert disks.ledger.check(before, write.acked) == 0
    with pytest.raises(WrongPoint, match="when write 1 was done"):
        disks.ledger.check(before, write.acked + timedelta(microseconds=1))


def test_what_was_written_is_counted_in_blocks(disks: Disks) -> None:
    for slot in (0, 1, 3, 4, 4):
        disks.write("disk0", slot)
    disks.write("disk1", 0)
    assert disks.ledger.changed(0, 6) == 3 * BLOCK
    assert disks.ledger.changed(1, 3) == BLOCK
    assert disks.ledger.changed(6, 6) == 0


# ── the relay ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def echo() -> Iterator[int]:
    """A port where what is sent comes back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def relay(echo: int) -> Iterator[Relay]:
    relay = Relay(1, echo)  # nobody listens at port 1
    yield relay
    relay.close()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), 10)


def answers(connection: socket.socket) -> bool:
    connection.sendall(b"12345")
    return connection.recv(5, socket.MSG_WAITALL) == b"12345"


def test_a_relay_carries_and_counts(relay: Relay) -> None:
    with connect(relay) as connection:
        assert answers(connection)
    assert (relay.sent, relay.received) == (5, 5)


def test_a_cut_resets_what_is_open_and_what_is_opened(relay: Relay) -> None:
    with connect(relay) as connection:
        assert answers(connection)
        relay.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionResetError), connect(relay) as connection:
        connection.recv(1)
    relay.mend()
    with connect(relay) as connection:
        assert answers(connection)


def test_silence_takes_everything_and_says_nothing(relay: Relay) -> None:
    with connect(relay) as before:
        assert answers(before)
        relay.silence()
        with connect(relay) as meanwhile:
            for connection in (before, meanwhile):
                connection.sendall(b"hello")
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(10)
            relay.mend()
            for connection in (before, meanwhile):
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
    assert (relay.sent, relay.received) == (15, 5)
    with connect(relay) as connection:
        assert answers(connection)


def test_a_slow_way_is_slow(relay: Relay) -> None:
    relay.slow(100_000)
    began = time.monotonic()
    with connect(relay) as connection:
        connection.sendall(bytes(50_000))
        connection.recv(50_000, socket.MSG_WAITALL)
    assert time.monotonic() - began > 0.45
