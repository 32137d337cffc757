"""Points of a machine made of a qemu-storage-daemon: right content, complete extents, nothing left behind."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from storage_daemon import MiB, StorageDaemon

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.qemu.bitmaps import bitmaps
from homeport.qemu.graph import nodes
from homeport.qemu.qmp import Qmp
from homeport.sources.errors import SourceError, SourceGone, ViewBroken
from homeport.sources.interface import Knowledge, PointView
from homeport.sources.qemu import QemuSource

pytestmark = pytest.mark.qemu

T = "0123456789abcdef"
OTHER = "fedcba9876543210"
BLOCK = 16384


def point(number: int, timeline: str = T) -> PointId:
    return PointId(timeline, number)


def source_of(daemon: StorageDaemon, **options: object) -> QemuSource:
    given: dict[str, object] = {
        "agent_path": None,
        "scratch": daemon.folder / "scratch",
        "scratch_limit": 64 * MiB,
        "nbd_dir": daemon.folder,
        "nbd_server": daemon.nbd,
    }
    return QemuSource(daemon.qmp, **{**given, **options})  # type: ignore[arg-type]


def content(view: PointView) -> dict[str, bytes]:
    whole = {}
    for disk in view.disks:
        data = bytearray(disk.size)
        disk.read_into(0, memoryview(data))
        whole[disk.id] = bytes(data)
    return whole


def differing(one: bytes, other: bytes) -> Extents:
    """Blocks of 16 KiB that differ."""
    a, b = (np.frombuffer(data, np.uint8).reshape(-1, BLOCK) for data in (one, other))
    return Extents.of_blocks(np.flatnonzero((a != b).any(axis=1)), BLOCK)


def missed(view: PointView, before: dict[str, bytes], now: dict[str, bytes]) -> dict[str, Extents]:
    """What differs without being among the changed extents, per disk."""
    result = {}
    for disk in view.disks:
        assert disk.changed.knowledge is Knowledge.EXTENTS
        rest = differing(before[disk.id], now[disk.id]).subtract(disk.changed.extents)
        if rest:
            result[disk.id] = rest
    return result


def left_behind(daemon: StorageDaemon) -> list[str]:
    """Nodes, exports and files of views."""
    with Qmp.connect(daemon.qmp) as qmp:
        found = [name for name in nodes(qmp) if name.endswith(("-cbw", "-view", "-scratch"))]
        found += [e["id"] for e in qmp.execute("query-block-exports") if e["id"].startswith("hp.")]
    return found + [path.name for path in daemon.folder.glob("scratch/*")]


def names(daemon: StorageDaemon) -> dict[str, list[tuple[int, bool]]]:
    """Per disk the numbers of the generations and whether they record."""
    with Qmp.connect(daemon.qmp) as qmp:
        found = bitmaps(qmp)
    return {disk: [(b.point.number, b.recording) for b in of_disk] for disk, of_disk in found.items()}


@contextmanager
def writing(work: Callable[[int], None], threads: int = 1) -> Iterator[None]:
    """Call ``work(thread)`` over and over in threads; an error in one fails the test."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def loop(number: int) -> None:
        try:
            while not stop.is_set():
                work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()
    assert not errors, errors


def scribbler(daemon: StorageDaemon, seed: int) -> Callable[[int], None]:
    """Random writes, zeroes and discards of all sizes; one disk per thread."""
    clients = [daemon.disk("disk0"), daemon.disk("disk1")]
    chances = [random.Random(seed), random.Random(seed + 1)]

    def work(number: int) -> None:
        client, chance = clients[number % 2], chances[number % 2]
        length = chance.choice((512, 4096, 16384, 100_000))
        offset = chance.randrange(0, daemon.size - length) // 512 * 512
        kind = chance.random()
        if kind < 0.8:
            client.write(offset, chance.randbytes(length))
        elif kind < 0.9:
            client.zero(offset, length)
        else:
            client.trim(offset, length // 512 * 512)

    return work


def test_a_view_holds_the_disks_as_they_were_while_writes_go_on(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    before = {}
    for disk in ("disk0", "disk1"):
        data = random.Random(disk).randbytes(daemon.size)
        daemon.disk(disk).write(0, data)
        before[disk] = data
    view = source.begin_point(point(1), point(0))
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).write(0, bytes(daemon.size))
    assert content(view) == before
    assert all(disk.changed.extents == Extents.whole(daemon.size) for disk in view.disks)
    source.handed(point(1))
    assert left_behind(daemon) == []


def test_what_differs_between_two_points_lies_within_the_changed_extents(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    previous = {disk: bytes(daemon.size) for disk in ("disk0", "disk1")}
    partly = False
    with writing(scribbler(daemon, 1), 2):
        base = 0
        for number in range(1, 13):
            view = source.begin_point(point(number), point(base))
            now = content(view)
            assert missed(view, previous, now) == {}
            partly = partly or any(disk.changed.extents.total < daemon.size for disk in view.disks)
            if number % 4 == 0:
                source.abort(point(number))
                continue
            source.handed(point(number))
            if number % 3:
                source.commit(point(number))
            previous, base = now, number
    assert partly, "extents that cover everything prove nothing"
    assert left_behind(daemon) == []


def test_extents_are_exactly_the_blocks_written_discarded_and_zeroed(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).write(0, b"\x01" * daemon.size)
    source.track(point(0))
    for disk in ("disk0", "disk1"):
        client = daemon.disk(disk)
        client.write(5 * BLOCK, b"x")
        client.zero(100 * BLOCK, 2 * BLOCK)
        client.trim(200 * BLOCK, 3 * BLOCK)
    view = source.begin_point(point(1), point(0))
    expected = Extents.of([(5 * BLOCK, BLOCK), (100 * BLOCK, 2 * BLOCK), (200 * BLOCK, 3 * BLOCK)])
    assert [disk.changed.extents for disk in view.disks] == [expected, expected]
    source.abort(point(1))


def chain_link(disk_of: dict[str, bytes]) -> list[int]:
    return [int.from_bytes(disk_of[disk][:8]) for disk in ("disk0", "disk1")]


def in_order(last: list[int]) -> bool:
    """Record n is written to disk n % 2 after record n - 1 is complete on the other."""
    newest = max(last)
    return last[newest % 2] == newest and (newest == 0 or last[(newest - 1) % 2] == newest - 1)


def test_a_chain_over_both_disks_is_never_out_of_order_in_a_view(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    clients = [daemon.disk("disk0"), daemon.disk("disk1")]
    count = [0]

    def write_record(_: int) -> None:
        number = count[0] + 1
        clients[number % 2].write(0, number.to_bytes(8) + bytes(504))
        count[0] = number

    links = []
    with writing(write_record):
        for number in range(1, 26):
            view = source.begin_point(point(number), point(number - 1))
            links.append(chain_link(content(view)))
            assert in_order(links[-1]), links[-1]
            source.handed(point(number))
            source.commit(point(number))
    assert links[-1][0] > links[0][0] > 0, "nothing was written meanwhile"
    mixed = [[early[0], late[1]] for early, late in pairwise(links)]
    assert not all(in_order(link) for link in mixed), "the check can't tell disks of two instants"


def test_an_aborted_point_gives_its_changes_back(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    daemon.disk("disk0").write(0, b"a" * 512)
    source.begin_point(point(1), point(0))
    daemon.disk("disk0").write(10 * BLOCK, b"b" * 512)
    source.abort(point(1))
    source.abort(point(1))
    daemon.disk("disk0").write(20 * BLOCK, b"c" * 512)
    view = source.begin_point(point(1), point(0))
    assert view.disks[0].changed.extents == Extents.of([(0, BLOCK), (10 * BLOCK, BLOCK), (20 * BLOCK, BLOCK)])
    assert view.disks[1].changed.extents == Extents()
    source.abort(point(1))
    assert names(daemon) == {disk: [(0, True)] for disk in ("disk0", "disk1")}


def test_generations_stay_until_commit_and_are_sent_again_to_who_lost_them(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    for number in range(1, 4):
        daemon.disk("disk1").write(number * 10 * BLOCK, b"n" * 512)
        source.begin_point(point(number), point(number - 1))
        source.handed(point(number))
        source.handed(point(number))
    source.commit(point(1))
    source.commit(point(1))
    expected = {disk: [(1, False), (2, False), (3, True)] for disk in ("disk0", "disk1")}
    assert names(daemon) == expected
    assert list(source.tracked()) == [point(1), point(2), point(3)]
    daemon.disk("disk1").write(40 * BLOCK, b"n" * 512)
    view = source.begin_point(point(2), point(1))
    assert view.disks[1].changed.extents == Extents.of([(number * 10 * BLOCK, BLOCK) for number in (2, 3, 4)])
    source.handed(point(2))
    assert names(daemon) == {disk: [(1, False), (2, True)] for disk in ("disk0", "disk1")}


def test_more_than_sixteen_generations_are_merged_and_none_is_lost(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    for number in range(1, 21):
        daemon.disk("disk0").write(number * 10 * BLOCK, b"n" * 512)
        source.begin_point(point(number), point(number - 1))
        source.handed(point(number))
    held = names(daemon)["disk0"]
    assert len(held) == 16
    assert (held[0][0], held[-1]) == (0, (20, True))
    view = source.begin_point(point(1), point(0))
    assert view.disks[0].changed.extents == Extents.of([(number * 10 * BLOCK, BLOCK) for number in range(1, 21)])
    source.abort(point(1))


def test_a_timeline_begins_at_a_point_of_another_one(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    start = point(7, OTHER)
    source.track(start)
    daemon.disk("disk0").write(0, b"a")
    source.begin_point(point(1), start)
    source.close()
    source.recover([])
    assert list(source.tracked()) == [start]
    view = source.begin_point(point(1), start)
    assert view.disks[0].changed.extents == Extents.of([(0, BLOCK)])
    source.handed(point(1))
    assert list(source.tracked()) == [start, point(1)]
    source.commit(point(1))
    assert list(source.tracked()) == [point(1)]


@pytest.mark.parametrize("base", [point(3), point(0, OTHER)], ids=["number", "timeline"])
def test_a_base_that_the_tracker_does_not_know_is_unknown(daemon: StorageDaemon, base: PointId) -> None:
    source = source_of(daemon)
    source.track(point(0))
    daemon.disk("disk0").write(0, b"a")
    view = source.begin_point(point(4), base)
    assert [disk.changed.knowledge for disk in view.disks] == [Knowledge.UNKNOWN] * 2
    assert content(view)["disk0"][0] == ord("a")
    source.handed(point(4))
    daemon.disk("disk0").write(50 * BLOCK, b"a")
    view = source.begin_point(point(5), point(4))
    assert view.disks[0].changed.extents == Extents.of([(50 * BLOCK, BLOCK)])
    source.handed(point(5))
    source.commit(point(5))
    assert names(daemon) == {disk: [(5, True)] for disk in ("disk0", "disk1")}


def test_another_incarnation_of_the_base_is_unknown(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    right = source.tracked()[point(0)]
    view = source.begin_point(point(1), point(0), incarnation="00000000" if right != "00000000" else "00000001")
    assert [disk.changed.knowledge for disk in view.disks] == [Knowledge.UNKNOWN] * 2
    source.abort(point(1))
    view = source.begin_point(point(1), point(0), incarnation=right)
    assert [disk.changed.knowledge for disk in view.disks] == [Knowledge.EXTENTS] * 2
    assert source.tracked()[point(1)] == view.incarnation != right
    source.abort(point(1))


def test_tracking_begun_twice_keeps_what_was_tracked(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    daemon.disk("disk1").write(0, b"a")
    source.track(point(0))
    view = source.begin_point(point(1), point(0))
    assert view.disks[1].changed.extents == Extents.of([(0, BLOCK)])
    source.abort(point(1))
    source.track(point(5))
    assert list(source.tracked()) == [point(5)]


def test_after_a_clean_stop_the_qcow2_disk_is_known_and_the_raw_one_unknown(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    client = daemon.disk("disk1")
    client.write(7 * BLOCK, b"a")
    client.close()
    daemon.stop()
    with pytest.raises(SourceGone):
        source.tracked()
    daemon.start()
    source = source_of(daemon)
    assert source.tracked() == {}
    source.recover([])
    view = source.begin_point(point(1), point(0))
    assert [disk.changed.knowledge for disk in view.disks] == [Knowledge.UNKNOWN, Knowledge.EXTENTS]
    assert view.disks[1].changed.extents == Extents.of([(7 * BLOCK, BLOCK)])
    source.handed(point(1))
    source.commit(point(1))
    assert names(daemon) == {disk: [(1, True)] for disk in ("disk0", "disk1")}


@pytest.mark.parametrize("saved", [False, True], ids=["never saved", "saved once"])
def test_after_a_crash_of_qemu_all_disks_are_unknown(daemon: StorageDaemon, saved: bool) -> None:
    source_of(daemon).track(point(0))
    if saved:
        daemon.stop()
        daemon.start()
    daemon.disk("disk1").write(7 * BLOCK, b"a", fua=True)
    daemon.kill()
    daemon.start()
    assert names(daemon)["disk1"] == ([(0, False)] if saved else [])
    source = source_of(daemon)
    source.recover([])
    view = source.begin_point(point(1), point(0))
    assert [disk.changed.knowledge for disk in view.disks] == [Knowledge.UNKNOWN] * 2
    assert content(view)["disk1"][7 * BLOCK] == ord("a")
    source.handed(point(1))
    source.commit(point(1))
    assert names(daemon) == {disk: [(1, True)] for disk in ("disk0", "disk1")}


def test_a_killed_machine_is_gone_for_reads_and_calls(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    view = source.begin_point(point(1), point(0))
    daemon.kill()
    with pytest.raises(SourceGone):
        view.disks[0].read_into(0, memoryview(bytearray(4096)))
    with pytest.raises(SourceGone):
        source.begin_point(point(1), point(0))
    source.handed(point(1))
    source.commit(point(1))
    source.abort(point(1))
    source.close()
    assert list((daemon.folder / "scratch").iterdir()) == []


def test_a_view_can_not_be_read_after_it_was_handed(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    view = source.begin_point(point(1), point(0))
    source.handed(point(1))
    with pytest.raises(ViewBroken):
        view.disks[0].read_into(0, memoryview(bytearray(4096)))


def test_handing_an_earlier_point_again_leaves_the_open_view(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    source.begin_point(point(1), point(0))
    source.handed(point(1))
    view = source.begin_point(point(2), point(1))
    source.handed(point(1))
    source.abort(point(9))
    view.disks[0].read_into(0, memoryview(bytearray(4096)))
    source.handed(point(2))
    assert left_behind(daemon) == []


def test_a_live_copy_reads_the_disks_as_they_are_and_skips_holes(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    with pytest.raises(SourceError, match="not tracked"):
        source.live()
    source.track(point(0))
    daemon.disk("disk0").write(MiB, b"a" * 65536)
    daemon.disk("disk1").write(MiB, b"b" * 65536)
    view = source.live()
    assert (view.point, view.base) == (point(0), None)
    for disk in view.disks:
        assert disk.changed.knowledge is Knowledge.EVERYTHING
        assert disk.allocated().intersect(Extents.of([(MiB, 65536)])).total == 65536
        assert disk.allocated().total <= 2 * MiB
    daemon.disk("disk0").write(MiB, b"c" * 65536)
    assert content(view)["disk0"][MiB : MiB + 65536] == b"c" * 65536
    source.close()
    assert left_behind(daemon) == []


def test_a_view_knows_what_is_allocated_also_where_it_was_discarded_since(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).write(MiB, b"a" * MiB)
    view = source.begin_point(point(1), point(0))
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).trim(MiB, 65536)
        daemon.disk(disk).zero(MiB + 131072, 65536)
    for of_disk in view.disks:
        allocated = of_disk.allocated()
        assert allocated.intersect(Extents.of([(MiB, MiB)])).total == MiB
        assert allocated.total < 3 * MiB
    assert all(whole[MiB : 2 * MiB] == b"a" * MiB for whole in content(view).values())
    source.handed(point(1))
    assert left_behind(daemon) == []


def test_the_same_range_is_read_by_many_threads_at_once(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    daemon.disk("disk0").write(0, b"a" * daemon.size)
    view = source.begin_point(point(1), point(0))
    reads = [0] * 4

    def read(number: int) -> None:
        data = bytearray(MiB)
        view.disks[0].read_into(number * 4096, memoryview(data))
        assert data == b"a" * MiB
        reads[number] += 1

    with writing(read, 4):
        scribble = scribbler(daemon, 3)
        while min(reads) < 5:
            scribble(0)
    source.handed(point(1))


def test_qemus_own_nbd_server_is_started_and_used_again(daemon: StorageDaemon) -> None:
    daemon.stop()
    daemon.start(server=False)
    for _ in range(2):
        source = source_of(daemon, nbd_server=None)
        source.track(point(0))
        view = source.begin_point(point(1), point(0))
        assert content(view)["disk1"] == bytes(daemon.size)
        source.close()
        source.recover([])
    assert left_behind(daemon) == []


def test_a_long_folder_for_the_nbd_socket_is_evaded(daemon: StorageDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.stop()
    daemon.start(server=False)
    monkeypatch.setattr("tempfile.tempdir", str(daemon.folder))
    source = source_of(daemon, nbd_server=None, nbd_dir=daemon.folder / ("d" * 120))
    source.track(point(0))
    assert content(source.begin_point(point(1), point(0)))["disk1"] == bytes(daemon.size)
    source.close()
    private = next(daemon.folder.glob("homeport-*"))
    private.chmod(0o755)
    with pytest.raises(SourceError) as caught:
        source_of(daemon, nbd_server=None, nbd_dir=daemon.folder / ("d" * 120))
    assert caught.value.code == "source.nbd-folder"


def test_an_nbd_server_at_an_unknown_address_is_named(daemon: StorageDaemon) -> None:
    source = source_of(daemon, nbd_server=None)
    source.track(point(0))
    with pytest.raises(SourceError) as caught:
        source.begin_point(point(1), point(0))
    assert caught.value.code == "source.nbd-server"
    assert left_behind(daemon) == []
    assert names(daemon) == {disk: [(0, True)] for disk in ("disk0", "disk1")}


def test_a_machine_without_filter_nodes_is_refused_by_name(daemon: StorageDaemon) -> None:
    daemon.stop()
    daemon.start(filters=False)
    with pytest.raises(SourceError) as caught:
        source_of(daemon).track(point(0))
    assert caught.value.code == "qemu.filter-missing"


def test_a_point_taken_while_the_disk_is_streamed_in_is_right(daemon: StorageDaemon) -> None:
    daemon.disk("disk1").write(0, b"s" * daemon.size)
    daemon.stop()
    base = daemon.images["disk1"].rename(daemon.folder / "base.qcow2")
    overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(daemon.images["disk1"])]
    subprocess.run(overlay, check=True)
    daemon.start()
    source = source_of(daemon)
    source.track(point(0))
    view = source.begin_point(point(1), point(0))
    with Qmp.connect(daemon.qmp) as qmp:
        qmp.execute("block-stream", {"job-id": "hydrate", "device": "disk1-format", "speed": 65536})
        qmp.execute("block-job-pause", {"device": "hydrate"})
    daemon.disk("disk1").write(0, b"t" * MiB)
    assert content(view)["disk1"] == b"s" * daemon.size
    source.handed(point(1))
    view = source.begin_point(point(2), point(1))
    assert view.disks[1].changed.extents == Extents.of([(0, MiB)])
    with Qmp.connect(daemon.qmp) as qmp:
        qmp.execute("block-job-set-speed", {"device": "hydrate", "speed": 0})
        qmp.execute("block-job-resume", {"device": "hydrate"})
        assert qmp.wait_event("BLOCK_JOB_COMPLETED", 30)
    daemon.disk("disk1").write(MiB, b"u" * MiB)
    assert content(view)["disk1"] == b"t" * MiB + b"s" * (daemon.size - MiB)
    source.handed(point(2))
    view = source.begin_point(point(3), point(2))
    assert view.disks[1].changed.extents == Extents.of([(MiB, MiB)])
    assert content(view)["disk1"] == b"t" * MiB + b"u" * MiB + b"s" * (daemon.size - 2 * MiB)
    source.handed(point(3))
    assert left_behind(daemon) == []
