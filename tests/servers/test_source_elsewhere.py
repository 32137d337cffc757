"""Changes of a machine whose process server is another machine: over TLS, byte for byte, whoever vanishes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon, storage_daemon

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.servers import Role
from homeport.domain.units import BLOCK
from homeport.mobility.frames import Frame, FrameWrong, Kind, pack
from homeport.mobility.sender import Assignment
from homeport.mobility.uplink import Uplink
from homeport.mobility.wire import ANSWER, FRAMES, POLL, ServiceAway
from homeport.qemu import graph
from homeport.qemu.bitmaps import bitmaps
from homeport.qemu.qmp import Qmp
from homeport.servers import first_copy as first_copies
from homeport.servers import frame_stream
from homeport.servers.cycle import Cycle
from homeport.servers.difference import RANGES
from homeport.servers.group_barrier import GroupBarrier
from homeport.servers.object_gateway import PROBE
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.errors import SourceError, ViewBroken
from homeport.sources.hold import NothingRuns
from homeport.trust.identity import Identity
from tests.servers.elsewhere import RemoteRig, until
from tests.servers.rig import MiB
from tests.servers.wire import Wire

pytestmark = pytest.mark.qemu


@pytest.fixture
def rig(daemon: StorageDaemon, tmp_path: Path) -> RemoteRig:
    return RemoteRig(daemon, tmp_path)


@pytest.fixture
def served(rig: RemoteRig) -> Iterator[RemoteRig]:
    with rig.served(), rig.sending():
        yield rig


def open_views(daemon: StorageDaemon) -> int:
    with Qmp.connect(daemon.qmp) as qmp:
        return sum("cbw" in name for name in graph.nodes(qmp))


def generations(daemon: StorageDaemon) -> set[PointId]:
    with Qmp.connect(daemon.qmp) as qmp:
        return {bitmap.point for found in bitmaps(qmp).values() for bitmap in found}


def first_point(rig: RemoteRig) -> Cycle:
    rig.write(20)
    cycle = rig.cycle()
    cycle.first_copy()
    rig.write()
    rig.take(cycle)
    cycle.ship()
    return cycle


# ── it arrives ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_equal_the_disks_and_are_found_by_tracking(served: RemoteRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_copies, "PART", 512 << 10)
    served.write_at("disk0", 0, os.urandom(MiB))
    cycle = first_point(served)
    for _ in range(3):
        served.write(6)
        taken = served.take(cycle)
        assert set(taken.found_by.values()) == {"tracking"}
        cycle.ship()
    served.check()
    cycle.resync()
    assert set(served.take(cycle).found_by.values()) <= {"digests at the process server", "digests in two levels"}
    cycle.close()
    served.check()
    until(lambda: open_views(served.daemon) == 0)


def test_what_the_guest_writes_while_it_is_read_is_not_in_the_point(served: RemoteRig) -> None:
    cycle = first_point(served)
    served.write_at("disk0", 0, b"a" * MiB)
    held, go_on = threading.Event(), threading.Event()
    bring = Uplink._bring

    def later(self: Uplink, stream: str, frames: list[bytes]) -> None:
        held.set()
        assert go_on.wait(20)
        bring(self, stream, frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Uplink, "_bring", later)
        before = served.disks()
        taking = threading.Thread(target=cycle.take_point)
        taking.start()
        assert held.wait(20)
        served.write_at("disk0", 0, b"b" * (MiB // 2))
        go_on.set()
        taking.join(30)
    cycle.ship()
    assert cycle.head is not None
    served.seen[cycle.head] = before
    served.check()
    served.take(cycle)
    cycle.ship()
    cycle.close()
    served.check()


def test_a_lost_tracker_is_noticed_and_all_is_compared(served: RemoteRig) -> None:
    cycle = first_point(served)
    cycle.close()
    served.restart()
    served.write(5)
    cycle = served.cycle()
    taken = served.take(cycle)
    assert "tracking" not in taken.found_by.values()
    cycle.ship()
    cycle.close()
    served.check()


# ── frames that are not right ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("harm", ["cut", "flipped", "another place", "missing"])
def test_frames_that_are_not_right_break_the_view_and_the_changes_go_back(served: RemoteRig, harm: str) -> None:
    cycle = first_point(served)
    served.write_at("disk0", 0, os.urandom(MiB))
    bring = Uplink._bring

    def wrong(self: Uplink, stream: str, frames: list[bytes]) -> None:
        if harm == "flipped":
            frames = [frames[0][:-1] + bytes([frames[0][-1] ^ 1]), *frames[1:]]
        elif harm == "another place":
            frames = [pack(0, 0, BLOCK * 7, memoryview(b"x" * BLOCK)), *frames[1:]]
        elif harm == "missing":
            frames = frames[1:]
        if harm != "cut":
            bring(self, stream, frames)
            return
        connection = self._take()
        connection.putrequest("POST", FRAMES + stream)
        connection.putheader("Content-Length", str(sum(map(len, frames))))
        connection.endheaders()
        connection.send(b"".join(frames)[:-10])
        connection.close()
        raise ViewBroken("the network broke")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Uplink, "_bring", wrong)
        patch.setattr(frame_stream, "STALLED", 0.6)
        with pytest.raises((ViewBroken, FrameWrong)):
            cycle.take_point()
    until(lambda: open_views(served.daemon) == 0)
    taken = served.take(cycle)
    assert taken.point.number == 2
    assert set(taken.found_by.values()) == {"tracking"}
    cycle.ship()
    cycle.close()
    served.check()


def test_frames_for_a_view_that_is_gone_are_refused(served: RemoteRig) -> None:
    first_point(served).close()
    assert served.uplink is not None
    with pytest.raises(ViewBroken, match="nobody reads these frames"):
        served.uplink._bring("0" * 16, [pack(0, 0, 0, memoryview(b"x" * BLOCK))])


# ── who vanishes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_views_of_a_process_server_that_is_gone_are_dropped_and_its_generations_kept(rig: RemoteRig) -> None:
    rig.lease = 0.5
    with rig.sending() as sender:
        with rig.served():
            cycle = first_point(rig)
            rig.write()
            source = rig.source()
            source.begin_point(PointId(rig.spec.timeline, 2), PointId(rig.spec.timeline, 1))
            assert open_views(rig.daemon) == 2
        until(lambda: [sender.tend(), open_views(rig.daemon) == 0][-1])  # nobody told it: the lease is over
        assert generations(rig.daemon) == {PointId(rig.spec.timeline, number) for number in (1, 2)}
        rig.write()
        with rig.served():
            cycle = rig.cycle()
            taken = rig.take(cycle)
            assert set(taken.found_by.values()) == {"tracking"}
            cycle.ship()
            cycle.close()
    rig.check()


def test_a_lease_lasts_while_the_process_server_has_the_view_open(rig: RemoteRig) -> None:
    now = [1000.0]
    rig.clock = lambda: now[0]
    with rig.served(), rig.sending() as sender:
        first_point(rig).close()
        source = rig.source()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("homeport.mobility.uplink.POLL_SECONDS", 0.2)
            view = source.begin_point(PointId(rig.spec.timeline, 2), PointId(rig.spec.timeline, 1))
            for _ in range(3):
                now[0] += rig.lease - 1
                until(lambda: sender._sessions["vm"].heard == now[0])
                sender.tend()
            view.disks[0].read_into(0, memoryview(bytearray(BLOCK)))
            source.abort(view.point)


def test_while_the_mobility_service_is_away_points_are_shipped_and_none_begun(rig: RemoteRig) -> None:
    rig.patience = 0.3
    with rig.served():
        with rig.sending():
            until(lambda: rig.exchange and rig.exchange.services())
            cycle = first_point(rig)
            rig.write()
            rig.take(cycle)
        with pytest.raises(ServiceAway):
            cycle.take_point()
        cycle.close()
        cycle = rig.cycle()  # another session: what waits is shipped all the same
        assert [info.id.number for info in cycle.ship()] == [2]
        with pytest.raises(ServiceAway):
            cycle.take_point()
        assert generations(rig.daemon) == {PointId(rig.spec.timeline, number) for number in (1, 2)}
        cycle.close()
        rig.write()
        with rig.sending():
            cycle = rig.cycle()
            until(lambda: rig.exchange and rig.exchange.services()[0]["there"])
            taken = rig.take(cycle)
            assert set(taken.found_by.values()) == {"tracking"}, "the commit that it was not told was told first"
            cycle.ship()
            cycle.close()
    rig.check()


@pytest.mark.parametrize("after", [0, 300_000])
def test_a_network_that_is_cut_without_a_word_is_noticed_and_what_it_took_is_taken_again(
    rig: RemoteRig, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr("homeport.mobility.uplink.POLL_SECONDS", 0.3)
    monkeypatch.setattr("homeport.mobility.uplink.POLL_TIMEOUT", 1.0)
    monkeypatch.setattr("homeport.servers.source_exchange.GONE_AFTER", 1.0)
    rig.patience = 1.0
    with rig.served():
        wire = Wire(rig.port)
        rig.url = wire.url
        try:
            with rig.sending():
                cycle = first_point(rig)
                rig.write_at("disk0", 0, os.urandom(MiB))
                wire.cut_at = after  # before anything, or in the middle of the frames
                with pytest.raises(SourceError):
                    cycle.take_point()
                assert wire.is_cut
                rig.write()
                wire.mend()
                until(lambda: rig.exchange and rig.exchange.services()[0]["there"])
                taken = rig.take(cycle)
                assert set(taken.found_by.values()) == {"tracking"}
                cycle.ship()
                cycle.close()
        finally:
            wire.close()
    rig.check()


def test_a_mobility_service_that_died_with_a_view_open_tidies_up_when_it_is_back(rig: RemoteRig) -> None:
    with rig.served(), rig.sending():
        first_point(rig).close()
    rig.local_source().begin_point(PointId(rig.spec.timeline, 2), PointId(rig.spec.timeline, 1))  # by one that died
    assert open_views(rig.daemon) == 2
    with rig.sending():
        assert open_views(rig.daemon) == 0


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_process_server_that_was_replaced_is_refused(served: RemoteRig) -> None:
    cycle = first_point(served)
    assert served.sender is not None
    served.sender.name({"vm": Assignment("ps-2", served.url, served.fence + 1)})
    with pytest.raises(SourceError) as refused:
        cycle.take_point()
    assert refused.value.code in ("source.superseded", "source.service-away")
    served.sender.name({"vm": Assignment("ps-1", served.url, served.fence)})  # a word that comes late
    assert served.sender.named["vm"].process_server == "ps-2"


def test_a_call_under_an_older_number_is_refused(served: RemoteRig) -> None:
    source = served.source()
    assert source.tracked() == {}
    assert served.sender is not None
    served.sender.name(
        {"vm": Assignment("ps-1", served.url, served.fence + 5)}
    )  # before the process server hears of it
    with pytest.raises(SourceError) as refused:
        source.tracked()
    assert refused.value.code == "source.superseded"
    assert served.uplink is not None
    served.uplink.refresh()
    until(lambda: _works(source.tracked))


def _works(ask: object) -> bool:
    try:
        ask()  # type: ignore[operator]
    except SourceError:
        return False
    return True


def asked(rig: RemoteRig, who: Identity, path: str, body: bytes = b"{}") -> int:
    connection = who.http_connection("127.0.0.1", rig.port, Role.PROCESS_SERVER, "a", 10)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_only_mobility_services_of_the_site_come_in_and_to_nothing_else(served: RemoteRig) -> None:
    poll = json.dumps({"session": "s", "machines": {"vm": 99}, "have": [], "wait": 0}).encode()
    for role, site in (
        (Role.PROCESS_SERVER, "a"),
        (Role.MASTER_TARGET, "a"),
        (Role.CONFIGURATION_SERVER, "a"),
        (Role.MOBILITY_SERVICE, "b"),
    ):
        stranger = served.authority.identity(role, site, f"x-{role}-{site}")
        for path in (POLL, ANSWER, FRAMES + "0" * 16):
            assert asked(served, stranger, path, poll) == 403, (role, site, path)
    assert asked(served, served.mobility_service, PROBE) == 401, "the store is not for it"
    revoked = served.authority.identity(Role.MOBILITY_SERVICE, "a", "ms-2")
    assert asked(served, revoked, POLL, poll) == 200
    served.authority.revoke(revoked, told=served.process_server)
    assert asked(served, revoked, POLL, poll) == 403
    with socket.create_connection(("127.0.0.1", served.port)) as plain:
        plain.sendall(b"POST /source/poll HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        plain.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)


def test_a_mobility_service_does_nothing_for_another_process_server_at_the_address(rig: RemoteRig) -> None:
    other = rig.authority.identity(Role.PROCESS_SERVER, "a", "ps-2")
    rig.patience = 1.0
    with rig.served(other), rig.sending():
        with pytest.raises(ServiceAway):
            rig.source().tracked()
        until(lambda: rig.uplink and "ps-2" in rig.uplink.trouble)


# ── an instant that is shared ───────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_elsewhere_takes_part_in_an_instant_of_its_group(
    served: RemoteRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Held(NothingRuns):
        def hold(self) -> None:
            seen.append("hold")

        def release(self) -> None:
            seen.append("release")

    local = served.local_source
    monkeypatch.setattr(served, "local_source", lambda: _holding(local(), Held))
    barrier = GroupBarrier("g", ready=20, frozen=20, held=20)
    cycle = first_point(served)
    other = barrier.attend("other")

    def attend() -> None:
        with other:
            other.assemble()
            other.take(NothingRuns(), lambda: seen.append("other"))

    barrier.free("item", 0.0)
    barrier.free("other", 0.0)
    thread = threading.Thread(target=attend)
    thread.start()
    taken = served.take(cycle, attendance=barrier.attend("item"))
    thread.join(10)
    assert taken.group == other.mark
    assert taken.notes == []
    assert {"hold", "release"} <= set(seen)
    assert seen.index("hold") < seen.index("other")
    cycle.ship()
    cycle.close()
    served.check()


def _holding(source: object, hold: type[NothingRuns]) -> object:
    source._hold = lambda qmp: hold()  # type: ignore[attr-defined]
    return source


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_waits_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    window = 48
    monkeypatch.setattr(frame_stream, "WINDOW", window * BLOCK)
    stream = frame_stream.FrameStream("disk0", 0, Extents.whole(1000 * BLOCK), BLOCK, lambda: None)
    put = []

    def bring() -> None:
        for number in range(window + 1):
            stream.put(Frame(Kind.ZERO, 0, number, number * BLOCK, BLOCK, b""))
            put.append(number)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    until(lambda: len(put) == window)
    thread.join(0.2)
    assert thread.is_alive(), "the one beyond waits"
    assert stream.take_into(0, memoryview(bytearray(b"x" * BLOCK)))
    thread.join(10)
    assert len(put) == window + 1
    assert not stream.take_into(0, memoryview(bytearray(BLOCK))), "each piece is read once"
    stream.close()
    with pytest.raises(ViewBroken):
        stream.put(Frame(Kind.ZERO, 0, window + 1, (window + 1) * BLOCK, BLOCK, b""))


def test_two_readers_of_many_small_pieces_each_get_a_batch_of_theirs() -> None:
    """One is a whole batch behind: what the other reads has been let in all the same."""
    small = Extents.of([(2 * number * BLOCK, BLOCK) for number in range(2 * RANGES)])
    stream = frame_stream.FrameStream("disk0", 0, small, MiB, lambda: None)
    pieces = list(small.pieces(MiB))
    for number, (offset, length) in enumerate(pieces):
        stream.put(Frame(Kind.ZERO, 0, number, offset, length, b""))
    for offset, length in [*pieces[RANGES:], *pieces[:RANGES]]:
        assert stream.take_into(offset, memoryview(bytearray(length)))
    stream.close()


def test_many_small_changes_cross_in_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    reading = SourceExchange.reading

    def counted(*arguments: Any, **named: Any) -> Any:
        reads.append(arguments)
        return reading(*arguments, **named)

    with storage_daemon(8 * MiB) as daemon:
        rig = RemoteRig(daemon, tmp_path)
        with rig.served(), rig.sending():
            cycle = first_point(rig)
            client = daemon.disk("disk0")
            for offset in range(0, daemon.size, 2 * BLOCK):  # each a piece of its own
                client.write(offset, os.urandom(BLOCK))
            client.close()
            monkeypatch.setattr(SourceExchange, "reading", counted)
            rig.take(cycle)
            assert len(reads) <= 4, "a sample and the changes, of each disk"
            cycle.ship()
            cycle.close()
        rig.check()
