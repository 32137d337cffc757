"""What a process server asked of a machine elsewhere and gave up is not done hours later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeport.domain.servers import Role
from homeport.mobility import uplink as uplinks
from homeport.mobility.sender import Assignment, Sender
from homeport.mobility.uplink import Uplink, boot_time
from homeport.mobility.wire import ANSWER, CALL_MOST, FRAMES, POLL, ServiceAway
from homeport.servers import source_exchange
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.errors import ViewBroken
from homeport.store.memory import MemoryObjects
from tests.servers.elsewhere import until
from tests.servers.identities import Authority
from tests.servers.wire import Wire

HOURS = 5 * 3600.0


class Machine:
    """One that is powered off, or not."""

    def __init__(self) -> None:
        self.off = 0

    def power_off(self) -> None:
        self.off += 1

    def source(self) -> Any:
        return self

    def drop_views(self) -> None:
        return


class Place:
    """A process server and the mobility service of one machine. ``now``: what the latter's clock shows."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.mobility_service = authority.identity(Role.MOBILITY_SERVICE, "a", "ms-1")
        self.exchange = SourceExchange(patience=5.0)
        self.gateway = ObjectGateway(
            MemoryObjects(),
            "token",
            identity=authority.identity(Role.PROCESS_SERVER, "a", "ps-1"),
            exchange=self.exchange,
        )
        self.gateway.start()
        self.wire = Wire(self.gateway.port)
        self.now = 1000.0
        self.machine = Machine()
        self.sender = Sender(lambda vm, exclude: self.machine)  # type: ignore[arg-type, return-value]
        self.sender.name({"vm": Assignment("ps-1", self.wire.url, 1)})
        self.uplink = Uplink("ps-1", self.wire.url, self.mobility_service, self.sender, clock=lambda: self.now)
        self.uplink.start()

    def close(self) -> None:
        self.uplink.stop()
        self.exchange.close()
        self.wire.close()
        self.gateway.close()

    def asking(self) -> tuple[threading.Thread, list[Exception | None]]:
        """Somebody asks that the machine be powered off; it is in the mobility service's hand, and waits its turn."""
        ended: list[Exception | None] = []

        def ask() -> None:
            try:
                self.exchange.ask("vm", "power-off", {})
                ended.append(None)
            except Exception as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: self.uplink._have)
        return thread, ended


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(uplinks, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(uplinks, "POLL_TIMEOUT", 0.5)
    monkeypatch.setattr(uplinks, "AGAIN_AFTER", 0.05)
    monkeypatch.setattr(source_exchange, "GONE_AFTER", 0.3)
    made = Place(tmp_path)
    yield made
    made.close()


def test_what_was_given_up_while_the_host_slept_is_not_done_when_it_wakes(place: Place) -> None:
    with place.sender._turn("vm"):
        thread, ended = place.asking()
        place.wire.cut()
        thread.join(20)
        assert isinstance(ended[0], ServiceAway), "who asked was told that nobody is there"
        place.now += HOURS
    time.sleep(0.1)  # its turn comes before the network is back, which would tell that nobody waits
    place.wire.mend()
    until(lambda: not place.uplink._have)
    assert place.machine.off == 0


def test_an_answer_that_is_read_hours_later_brings_nothing_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host slept between the process server's answer and its being read."""
    asked = uplinks._ask

    def late(connection: Any, path: str, body: Any) -> Any:
        answer = asked(connection, path, body)
        if path == POLL and answer["calls"] and place.now < HOURS:
            place.now += HOURS
        return answer

    monkeypatch.setattr(uplinks, "_ask", late)
    monkeypatch.setattr(uplinks, "POLL_SECONDS", 5.0)  # the next poll would tell that it is still waited for
    monkeypatch.setattr(uplinks, "POLL_TIMEOUT", 15.0)
    with pytest.raises(ViewBroken, match="comes too late"):
        place.exchange.ask("vm", "power-off", {})
    assert place.machine.off == 0
    monkeypatch.setattr(uplinks, "_ask", asked)
    place.exchange.ask("vm", "power-off", {})
    assert place.machine.off == 1, "asked again it is done"


def test_what_a_process_server_has_given_up_is_not_begun(place: Place) -> None:
    """Both are there all the time, and no clock moves: the process server began anew, say."""
    with place.sender._turn("vm"):
        thread, ended = place.asking()
        with place.exchange._changed:
            for asked in place.exchange._asked.values():
                place.exchange._lose(asked)
        thread.join(20)
        assert isinstance(ended[0], ServiceAway)
        until(lambda: list(place.uplink._have.values()) == [float("-inf")])
    until(lambda: not place.uplink._have)
    assert place.machine.off == 0


def test_a_call_that_is_waited_for_may_wait_long_for_its_turn(place: Place) -> None:
    with place.sender._turn("vm"):
        thread, ended = place.asking()
        for _ in range(4):
            place.now += CALL_MOST - 1
            until(lambda: list(place.uplink._have.values()) == [place.now])
    thread.join(20)
    assert ended == [None]
    assert place.machine.off == 1


def test_the_time_that_a_machine_slept_counts() -> None:
    assert boot_time() >= time.monotonic() - 0.001


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("Content-Length: -1", 400),
        ("Content-Length: ten", 400),
        (f"Content-Length: {1 << 40}", 413),
        ("Transfer-Encoding: chunked", 411),
    ],
)
@pytest.mark.parametrize("path", [POLL, ANSWER, FRAMES + "0" * 16])
def test_a_body_is_as_long_as_may_be_said(place: Place, path: str, told: str, status: int) -> None:
    """A mobility service's that is out of its mind: no body is sent, and the connection stays open from here."""
    context = place.mobility_service.client_context(Role.PROCESS_SERVER, "a")
    with (
        socket.create_connection(("127.0.0.1", place.gateway.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{told}\r\n\r\n".encode())
        said = b""
        while more := connection.recv(65536):
            said += more
    assert int(said.split()[1]) == status
