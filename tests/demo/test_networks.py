"""The demo's own WAN: as far and as slow as it says, cut and restored, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from demo.namespaces import FOLDER, Namespace, kill
from demo.networks import AUDITOR, PREFIX, Networks, NetworksUnavailable, sweep
from demo.wan import Lane, WanQuality

pytestmark = pytest.mark.xdist_group("networks")
SITES = {"a": ("server",), "b": ("server", "other")}
MBIT = 1e6


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    try:
        with Networks(SITES) as networks:
            yield networks
    except NetworksUnavailable as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def connected(
    client: Namespace, server: Namespace, timeout: float = 10
) -> Iterator[tuple[socket.socket, socket.socket]]:
    with server.inside():
        listener = socket.create_server((server.address, 0))
    with listener, client.inside():
        ours = socket.create_connection(listener.getsockname()[:2], timeout)
        theirs, _ = listener.accept()
    theirs.settimeout(timeout)
    with ours, theirs:
        yield ours, theirs


def echoed(ours: socket.socket, theirs: socket.socket) -> float:
    """Seconds for a byte there and another back."""
    begin = time.perf_counter()
    ours.sendall(b"?")
    assert theirs.recv(1) == b"?"
    theirs.sendall(b"!")
    assert ours.recv(1) == b"!"
    return time.perf_counter() - begin


def throughput(ours: socket.socket, theirs: socket.socket, size: int) -> float:
    """Bits per second, as the receiver sees it."""

    def send() -> None:
        with contextlib.suppress(OSError):
            ours.sendall(bytes(size))

    sender = threading.Thread(target=send)
    sender.start()
    left, begin = size, time.perf_counter()
    while left:
        left -= len(theirs.recv(min(left, 1 << 20)))
    seconds = time.perf_counter() - begin
    sender.join()
    return size * 8 / seconds


def test_a_round_trip_takes_forty_milliseconds(networks: Networks) -> None:
    with connected(networks["a-server"], networks["b-server"]) as (ours, theirs):
        echoed(ours, theirs)
        seconds = min(echoed(ours, theirs) for _ in range(9))  # a busy machine makes some of them slower
    assert 0.040 <= seconds < 0.060


def test_inside_a_site_nothing_is_far(networks: Networks) -> None:
    with connected(networks["b-server"], networks["b-other"]) as (ours, theirs):
        assert min(echoed(ours, theirs) for _ in range(9)) < 0.010


@pytest.mark.parametrize("way", [("a-server", "b-server"), ("b-server", "a-server")])
def test_a_stream_gets_a_hundred_megabits_per_second(networks: Networks, way: tuple[str, str]) -> None:
    with connected(networks[way[0]], networks[way[1]]) as (ours, theirs):
        throughput(ours, theirs, 4 << 20)  # TCP finds out how fast the link is
        rates = [throughput(ours, theirs, 12 << 20)]
        while max(rates) < 60 * MBIT and len(rates) < 4:  # the processors may be busy with something else
            rates.append(throughput(ours, theirs, 12 << 20))
    assert 60 * MBIT < max(rates) < 110 * MBIT


def test_a_cut_lets_nothing_through_and_what_was_sent_arrives_when_it_is_over(networks: Networks) -> None:
    with connected(networks["a-server"], networks["b-server"]) as (ours, theirs):
        echoed(ours, theirs)
        networks.wan.cut()
        try:
            ours.sendall(b"late")
            theirs.settimeout(1)
            with pytest.raises(TimeoutError):
                theirs.recv(4)
            with networks["b-server"].inside(), pytest.raises(TimeoutError):
                socket.create_connection((networks["a-server"].address, 9), 0.5)
        finally:
            networks.wan.restore()
        theirs.settimeout(10)
        assert theirs.recv(4) == b"late"


def test_lost_packets_are_sent_again_by_tcp(networks: Networks) -> None:
    networks.wan.set_loss(0.05)
    try:
        with connected(networks["a-server"], networks["b-server"]) as (ours, theirs):
            assert throughput(ours, theirs, 1 << 20) > 0
    finally:
        networks.wan.set_loss(0)


def test_the_auditor_reaches_either_site_while_the_wan_is_cut_and_leads_nowhere(networks: Networks) -> None:
    networks.wan.cut()
    try:
        for name in ("a-server", "b-server"):
            with connected(networks[AUDITOR], networks[name], 2) as (ours, theirs):
                assert min(echoed(ours, theirs) for _ in range(9)) < 0.010
        with networks["a-server"].inside():
            subprocess.run(["ip", "route", "replace", "10.77.2.0/24", "via", "10.77.1.9"], check=True)
        try:
            with pytest.raises(OSError), connected(networks["a-server"], networks["b-server"], 0.5):
                pass
        finally:
            with networks["a-server"].inside():
                subprocess.run(["ip", "route", "del", "10.77.2.0/24"], check=True)
    finally:
        networks.wan.restore()


def test_killing_a_site_ends_its_processes_alone(networks: Networks) -> None:
    sleep = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
    started = {}
    for name in ("a-server", "b-server"):
        with networks[name].inside():
            started[name] = subprocess.Popen(sleep, start_new_session=True)
    deadline = time.monotonic() + 10
    while any(len(networks[name].pids()) < 2 for name in started):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(kill(networks.of_site("a"))) == 2
    started["a-server"].wait(5)
    assert len(networks["b-server"].pids()) == 2
    kill(networks.of_site("b"))
    started["b-server"].wait(5)


def left_behind() -> list[str]:
    return [path.name for path in FOLDER.glob(f"{PREFIX}{os.getpid()}-*")]


def test_nothing_is_left_when_it_ends_by_an_error(networks: Networks) -> None:
    others = set(left_behind())
    links = set(os.listdir("/sys/class/net"))
    with pytest.raises(ZeroDivisionError), Networks({"p": ("one",), "q": ("two",)}) as more:
        with more["p-one"].inside():
            process = subprocess.Popen(["sleep", "60"])
        relays = relay_children()
        assert set(left_behind()) > others
        raise ZeroDivisionError
    assert process.wait(5) == -9
    assert set(left_behind()) == others
    assert set(os.listdir("/sys/class/net")) == links
    assert len(relay_children()) < len(relays) or not relays  # none where the kernel has netem
    echo_still_works(networks)


def echo_still_works(networks: Networks) -> None:
    with connected(networks["a-server"], networks["b-server"]) as (ours, theirs):
        echoed(ours, theirs)


def relay_children() -> list[int]:
    """Our children that carry packets."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as command:
                if b"demo.wan" in command.read():
                    with open(f"/proc/{entry}/status", encoding="ascii") as status:
                        if f"PPid:\t{os.getpid()}\n" in status.read():
                            found.append(int(entry))
    return found


def test_what_a_killed_run_left_is_swept_and_what_runs_is_not(networks: Networks) -> None:
    program = """
import subprocess, sys, time
from demo.networks import Networks
with Networks({"x": ("one",), "y": ("two",)}) as networks:
    with networks["x-one"].inside():
        subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print("up", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        run.kill()
        run.wait()
    left = [Namespace(path.name) for path in FOLDER.glob(f"{PREFIX}{run.pid}-*")]
    assert any(namespace.pids() for namespace in left)
    own = set(left_behind())
    sweep()
    sweep()
    assert not any(namespace.path.exists() for namespace in left)
    assert set(left_behind()) == own
    echo_still_works(networks)


class TestLane:
    quality = WanQuality(round_trip=0.040, rate=8e6, queue=0.100)

    def test_a_packet_is_sent_then_travels(self) -> None:
        lane = Lane(self.quality)
        assert lane.admit(bytes(1000), 5.0)
        assert lane.arrived(5.0209) == []
        assert lane.arrived(5.0211) == [bytes(1000)]

    def test_packets_behind_each_other_keep_the_rate_and_their_order(self) -> None:
        lane = Lane(self.quality)
        for number in range(10):
            assert lane.admit(bytes([number]) * 1000, 5.0)
        assert [packet[0] for packet in lane.arrived(5.0251)] == [0, 1, 2, 3, 4]
        assert [packet[0] for packet in lane.arrived(6)] == [5, 6, 7, 8, 9]

    def test_what_would_wait_too_long_is_dropped(self) -> None:
        lane = Lane(self.quality)
        admitted = sum(lane.admit(bytes(1000), 5.0) for _ in range(200))
        assert admitted in (100, 101)  # 100 ms of 1 ms each, and the one that is being sent
        assert lane.dropped == 200 - admitted
        assert lane.admit(bytes(1000), 5.1)
