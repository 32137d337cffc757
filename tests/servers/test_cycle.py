"""What a cycle does where something is missing, lies, or can't be reached: the point is right all the same."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.domain.process_servers import Room
from homeport.domain.units import BLOCK, KiB
from homeport.servers import cycle as cycles
from homeport.servers import first_copy as first_copies
from homeport.servers import replication as replications
from homeport.servers.cache_room import CacheRoom
from homeport.servers.crossing import Crossing
from homeport.servers.cycle import Cycle
from homeport.servers.digest_file import UNKNOWN, DigestFile
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.replication import Replication
from homeport.servers.shipping import Shipping
from homeport.sources.errors import ViewBroken
from homeport.sources.qemu import QemuSource
from homeport.store import MachineStore, block_digests, layout, segment
from homeport.store.errors import Fenced, StoreUnavailable
from homeport.store.spool import SpooledPoint
from homeport.store.writer import Writer
from tests.servers.bucket import KEYS, FolderObjects, read_point
from tests.servers.rig import Content, MiB, Rig, differing

pytestmark = pytest.mark.qemu

DISKS = ("disk0", "disk1")
TRACKED = dict.fromkeys(DISKS, "tracking")


@pytest.fixture
def rig(daemon: StorageDaemon, tmp_path: Path) -> Rig:
    """Disks of random bytes in their first MiB."""
    rig = Rig(daemon, tmp_path)
    rig.fill({disk: os.urandom(MiB) for disk in DISKS})
    return rig


def started(rig: Rig) -> Cycle:
    """A cycle with its first point in the store."""
    cycle = rig.cycle()
    cycle.first_copy()
    rig.take(cycle)
    cycle.ship()
    return cycle


def go_on(rig: Rig, cycle: Cycle) -> dict[str, str]:
    """One point more, which must be right; how it was found."""
    taken = rig.take(cycle)
    cycle.ship()
    rig.check()
    return taken.found_by


# ── the store can't be reached ──────────────────────────────────────────────────────────────────────────────────────


WAITING = 5


def test_points_wait_in_the_cache_for_the_store_and_are_shipped_in_order(rig: Rig) -> None:
    cycle = started(rig)
    rig.objects.down = True
    for count in range(WAITING):
        rig.write(2)
        rig.take(cycle)
        with pytest.raises(StoreUnavailable):
            cycle.ship()
        assert cycle.backlog == count + 1
    cycle.close()
    rig.objects.down = False
    cycle = rig.cycle()  # a restart finds them all
    assert cycle.backlog == WAITING
    published = cycle.ship()
    assert [info.id.number for info in published] == list(range(2, WAITING + 2))
    rig.check()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_points_go_on_while_the_first_one_waits(rig: Rig) -> None:
    rig.write(20)
    cycle = rig.cycle()
    cycle.first_copy()
    rig.take(cycle)
    rig.objects.down = True
    rig.write()
    rig.take(cycle)
    rig.objects.down = False
    cycle.ship()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_a_disk_that_left_keeps_no_point_waiting_for_the_store(rig: Rig) -> None:
    """And one that comes is looked after by the first point that has it."""
    cycle = started(rig)
    cycle._source._exclude = frozenset({"disk1"})  # type: ignore[attr-defined]
    cycle.take_point()
    cycle.ship()
    rig.objects.down = True
    assert not cycle.needs_store
    cycle.take_point()
    rig.objects.down = False
    cycle.ship()
    cycle._source._exclude = frozenset()  # type: ignore[attr-defined]
    checks, check = [], cycle._writer.check
    cycle._writer.check = lambda: checks.append(check())  # type: ignore[method-assign, func-returns-value]
    for wanted in ({**TRACKED, "disk1": "a new disk"}, TRACKED):
        rig.write()
        assert rig.take(cycle).found_by == wanted
        assert len(checks) == 1, "whether another has the machine"
    cycle.ship()
    rig.check(newest=2)
    cycle.close()


class Measured(CacheRoom):
    """``seen``: what a look finds."""

    seen = Room(100, 100)

    def look(self) -> Room:
        return self.seen


class Machine:
    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def describe(self) -> dict[str, Any]:
        return {"name": "vm"}

    def source(self) -> Any:
        return self._rig.source()

    def quiesce(self, timeout: float) -> bool:
        return True

    def power_off(self) -> None:
        """It stays."""


@pytest.fixture
def loop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Replication]]:
    monkeypatch.setattr(replications, "RETRY_AFTER", 0.05)
    gateway = ObjectGateway(rig.objects, "token")
    gateway.start()
    made: list[Replication] = []

    def make(report: Callable[[dict[str, Any]], None] = lambda report: None) -> Replication:
        raw = {
            **{"item": "item", "vm": "vm", "timeline": rig.spec.timeline, "machine": KEYS.machine},
            **{"keys": {"vault": KEYS.vault, "machine_key": KEYS.key.hex()}, "interval": 0.05},
            "store": {"site": "b", "url": gateway.url, "token": "token"},
        }
        spec = cycles.ReplicationSpec.from_json(raw)
        made.append(
            Replication(
                spec,
                Machine(rig),
                rig.own,
                rig.cache,
                "test",
                report,
                Crossing(),  # type: ignore[arg-type]
                shipping=Shipping(rig.room or CacheRoom(rig.cache), threads=1),
            )
        )
        made[-1].start()
        return made[-1]

    yield make
    for replication in made:
        replication.stop(30)
    gateway.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("lost", ["after a point", "while it is seen to"])
def test_replication_goes_on_by_itself_after_the_cache_was_full(
    rig: Rig, loop: Callable[[], Replication], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    rig.room = Measured(rig.cache)
    if lost == "while it is seen to":
        maintain = MachineStore.maintain

        def without_store(*args: Any, **more: Any) -> int:
            monkeypatch.setattr(MachineStore, "maintain", maintain)
            rig.objects.down = True
            return maintain(*args, **more)

        monkeypatch.setattr(MachineStore, "maintain", without_store)
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline) if lost == "after a point" else rig.objects.down)
    rig.objects.down = True
    spool = rig.cache / "spool" / rig.spec.timeline
    until(lambda: len(list(spool.glob("*/complete"))) >= 2)
    rig.room.seen = Room(19, 100)  # type: ignore[union-attr]
    until(lambda: replication._error and replication._error.code == "process-server.cache-full")
    assert "0.00 GiB free (19%)" in replication._error.cause  # type: ignore[union-attr]
    time.sleep(0.1)
    waiting = len(list(spool.glob("*/complete")))
    before = time.monotonic()
    until(lambda: time.monotonic() - before > 0.3)  # several rounds with a full cache
    assert len(list(spool.glob("*/complete"))) == waiting
    rig.objects.down = False
    until(lambda: not list(spool.glob("*/complete")))  # what waits is shipped all the same
    head = rig.store.head(rig.spec.timeline)
    time.sleep(0.2)
    assert rig.store.head(rig.spec.timeline) == head
    rig.room.seen = Room(20, 100)  # type: ignore[union-attr]
    until(lambda: rig.store.head(rig.spec.timeline) != head)  # by itself
    newest = replication.take_point(Consistency.CRASH, ("asked",), 30).point
    assert [info.id for info in rig.store.points(rig.spec.timeline)][-1].number >= newest.number > 3


def test_points_go_on_while_a_store_neither_answers_nor_refuses(rig: Rig, loop: Callable[[], Replication]) -> None:
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    rig.objects.answers.clear()
    spool = rig.cache / "spool" / rig.spec.timeline
    until(lambda: len(list(spool.glob("*/complete"))) >= 8)
    assert replication.head is not None
    published = rig.store.head(rig.spec.timeline)
    assert published is not None
    assert replication.head.number >= published.number + 7
    rig.objects.answers.set()
    taken = replication.take_point(Consistency.CRASH, ("asked",), 30).point
    head = rig.store.head(rig.spec.timeline)
    assert head is not None
    assert head >= taken, "whoever asks for a point is answered when it is in the store"
    told = replication.statistics()
    assert set(told) == {"disks", "shipped", "observed", "pending"}
    assert told["shipped"]["5min"] > 0
    assert set(told["disks"]) == set(DISKS)


def test_bytes_changed_and_shipped_are_counted_by_disk(rig: Rig) -> None:
    cycle = rig.cycle()
    cycle.first_copy()
    seeded = cycle._traffic._shipped
    assert {disk: flow.total >= MiB for disk, flow in seeded.items()} == dict.fromkeys(DISKS, True), "random bytes"
    rig.take(cycle)
    cycle.ship()
    before = cycle._traffic.to_json()["disks"]
    rig.write_at("disk0", 0, os.urandom(8 * BLOCK))
    rig.write_at("disk1", MiB, b"compressible" * (8 * BLOCK // 12 + 1))
    rig.take(cycle)
    waiting = cycle._traffic.to_json()["disks"]
    cycle.close()
    cycle = rig.cycle()  # what waits is counted by who ships it
    cycle.ship()
    shipped = {disk: flow.total for disk, flow in cycle._traffic._shipped.items()}
    cycle.close()

    def grew(disk: str, way: str) -> int:
        return int(waiting[disk][way]["total"] - before[disk][way]["total"])

    assert grew("disk0", "changed") == 8 * BLOCK
    assert grew("disk1", "changed") == 9 * BLOCK
    assert grew("disk0", "shipped") == 0, "it only waits in the cache"
    assert 8 * BLOCK < shipped["disk0"] < 9 * BLOCK
    assert 0 < shipped["disk1"] < BLOCK


def test_what_only_waits_in_the_cache_is_not_told_as_the_head(rig: Rig, loop: Callable[..., Replication]) -> None:
    """A job that waits for the first point, or for a comparison, goes on by what is told."""
    told: list[str] = []
    replication = loop(lambda report: told.append(report["head"]))
    until(lambda: rig.store.points(rig.spec.timeline))
    rig.objects.answers.clear()
    spool = rig.cache / "spool" / rig.spec.timeline
    until(lambda: len(list(spool.glob("*/complete"))) >= 3)
    replication._say("replicating", force=True)
    published = rig.store.head(rig.spec.timeline)
    rig.objects.answers.set()
    assert published is not None
    assert max(PointId.parse(head).number for head in told if head) <= published.number


def test_shipping_goes_on_where_the_gateway_moved_to(rig: Rig, loop: Callable[..., Replication]) -> None:
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    rig.objects.down = True
    until(lambda: replication._trouble)
    moved = FolderObjects(rig.objects.folder)
    gateway = ObjectGateway(moved, "token of another")
    gateway.start()
    try:
        before = rig_head(moved, rig)
        replication.renew({"store": {"site": "b", "url": gateway.url, "token": "token of another"}})
        until(lambda: rig_head(moved, rig) != before)
        replication.take_point(Consistency.CRASH, ("asked",), 30)
        replication.stop(30)
    finally:
        gateway.close()
    rig.objects.down = False
    rig.check()


def rig_head(objects: FolderObjects, rig: Rig) -> PointId | None:
    return MachineStore(objects, KEYS).head(rig.spec.timeline)


def test_a_planned_stop_is_complete_although_the_store_was_away_a_moment_before(
    rig: Rig, loop: Callable[..., Replication], monkeypatch: pytest.MonkeyPatch
) -> None:
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    monkeypatch.setattr(replications, "RETRY_AFTER", 60.0)
    rig.objects.down = True
    until(lambda: replication._shipper and replication._shipper.trouble)
    rig.objects.down = False
    final = replication.finish(1, 30)
    assert final.complete
    assert final.point == rig.store.head(rig.spec.timeline)
    rig.check(newest=1)


def test_a_loop_that_ends_does_not_ship_the_rest_of_a_large_point_first(
    rig: Rig, loop: Callable[..., Replication], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fence, and with it the power of the machine, waits for it."""
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    monkeypatch.setattr(segment, "TARGET", 64 * KiB)
    spool = rig.cache / "spool" / rig.spec.timeline
    begun, go_on, put = threading.Event(), threading.Event(), rig.objects.put

    def slowly(key: str, data: bytes, **more: Any) -> None:
        if "/segment/" in key and not begun.is_set():
            begun.set()
            go_on.wait(30)
        put(key, data, **more)

    replication.renew({"interval": 3600.0})
    replication.take_point(Consistency.CRASH, ("before",), 30)
    before = sum("/segment/" in key for key, _ in rig.objects.list(""))
    monkeypatch.setattr(rig.objects, "put", slowly)
    rig.fill({disk: os.urandom(MiB) for disk in DISKS})
    replication.resync()  # at once
    assert begun.wait(30)
    until(lambda: list(spool.glob("*/complete")))
    number = SpooledPoint(next(spool.glob("*/complete")).parent).point.number
    assert not replication.stop(0)
    monkeypatch.setattr(rig.objects, "put", put)
    go_on.set()
    assert replication.stop(30)
    head = rig.store.head(rig.spec.timeline)
    assert head is not None
    assert head.number < number
    assert sum("/segment/" in key for key, _ in rig.objects.list("")) < before + 10, "of more than thirty"
    loop()
    until(lambda: (rig.store.head(rig.spec.timeline) or head).number >= number)
    rig.check(newest=1)


def test_whoever_waits_for_a_point_of_a_loop_that_stops_is_told(rig: Rig, loop: Callable[[], Replication]) -> None:
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    replication.stop(30)
    for ask in (lambda: replication.take_point(Consistency.CRASH, (), 30), lambda: replication.finish(1, 30)):
        with pytest.raises(HomeportError) as told:
            ask()
        assert told.value.code == "replication.stopped"


def test_a_loop_whose_place_another_took_says_so_and_one_whose_timeline_ended_does_not(
    rig: Rig, loop: Callable[..., Replication]
) -> None:
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    rig.store.claim(rig.spec.timeline, "another")
    until(lambda: not replication.alive)
    assert replication.superseded
    rig.store.end(rig.spec.timeline, "failover")
    replication = loop()
    until(lambda: not replication.alive)
    assert not replication.superseded


def test_a_loop_in_trouble_does_not_take_back_what_another_was_given(
    rig: Rig, loop: Callable[[], Replication], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that break each other's views, each of which begins anew then, would do so for ever."""
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))

    def broken(*arguments: Any, **options: Any) -> None:
        raise ViewBroken("disk0: the view is gone", disk="disk0")

    begun = QemuSource.begin_point
    monkeypatch.setattr(QemuSource, "begin_point", broken)
    epochs = layout.epochs(rig.objects, KEYS.machine, rig.spec.timeline)
    until(lambda: len(layout.epochs(rig.objects, KEYS.machine, rig.spec.timeline)) > len(epochs) + 2)
    assert replication.alive, "its own claims are no reason to end"
    newest = rig.store.claim(rig.spec.timeline, "another")
    until(lambda: not replication.alive)
    assert replication.superseded
    assert max(layout.epochs(rig.objects, KEYS.machine, rig.spec.timeline)) == newest
    monkeypatch.setattr(QemuSource, "begin_point", begun)
    head = rig.store.head(rig.spec.timeline)
    loop()  # it is given the machine again
    until(lambda: rig.store.head(rig.spec.timeline) != head)


def test_a_timeline_that_ended_fences_the_cycle(rig: Rig) -> None:
    cycle = started(rig)
    rig.store.end(rig.spec.timeline, "failover")
    rig.write()
    cycle.take_point()
    with pytest.raises(Fenced):
        cycle.ship()
    cycle.close()


# ── the digest files ────────────────────────────────────────────────────────────────────────────────────────────────


def lose(path: Path, old: bytes) -> None:
    path.unlink()


def set_back(path: Path, old: bytes) -> None:
    path.write_bytes(old)


def void(path: Path, old: bytes) -> None:
    file = DigestFile(path, 2 * MiB)
    file.invalidate()
    file.digests[:] = 7
    file.close()


def rename(path: Path, old: bytes) -> None:
    file = DigestFile(path, 2 * MiB)
    file.digests[:] = 7
    file.validate("0123456789abcdef/12")
    file.close()


def cut(path: Path, old: bytes) -> None:
    os.truncate(path, 5000)


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("harm", [lose, set_back, void, rename, cut])
def test_a_digest_file_that_is_of_no_use_is_done_without(
    rig: Rig, harm: Callable[[Path, bytes], None], resync: bool
) -> None:
    cycle = started(rig)
    folder = rig.cache / "digests" / rig.spec.timeline
    old = {disk: (folder / disk).read_bytes() for disk in DISKS}
    rig.write()
    rig.take(cycle)
    cycle.ship()
    cycle.close()
    for disk in DISKS:
        harm(folder / disk, old[disk])
    rig.write()
    cycle = rig.cycle()
    if resync:
        cycle.resync()
    assert go_on(rig, cycle) == (dict.fromkeys(DISKS, "digests in two levels") if resync else TRACKED)
    rig.write()
    assert go_on(rig, cycle) == TRACKED
    cycle.resync()
    rig.write()
    assert set(go_on(rig, cycle).values()) <= {"digests in two levels", "digests at the process server"}
    cycle.close()


def test_a_digest_file_of_a_lost_attempt_at_the_same_point_is_not_believed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool is lost after a point was remembered; its number is taken again, and the process dies right after."""
    cycle = started(rig)
    rig.write_at("disk0", 0, b"1" * BLOCK)
    cycle.take_point()
    cycle.close()
    shutil.rmtree(rig.cache / "spool")
    for resync in (True, False):
        rig.write_at("disk0", 0, b"2" * BLOCK)
        cycle = rig.cycle()
        if resync:
            cycle.resync()
        with monkeypatch.context() as dying:
            dying.setattr(Cycle, "_remember", lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                cycle.take_point()
        cycle.close()
        cycle = rig.cycle()
        cycle.ship()
        rig.write_at("disk0", 0, b"1" * BLOCK)
        go_on(rig, cycle)
        cycle.close()


# ── a disk grows ────────────────────────────────────────────────────────────────────────────────────────────────────

GROWN = "tracking, and what was added"


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("harm", [None, lose, void])
def test_a_disk_that_grew_is_whole_in_the_next_point(
    rig: Rig, harm: Callable[[Path, bytes], None] | None, waiting: bool
) -> None:
    """By less than a block, then by more; what was added isn't zeroes, and nobody wrote it as far as QEMU knows: so it
    is with a volume that was extended over what lay there before."""
    cycle = started(rig)
    for size in (2 * MiB + 512, 2 * MiB + 1024, 6 * MiB):
        if waiting:
            rig.objects.down = True
            rig.write_at("disk0", BLOCK, os.urandom(BLOCK))
            rig.take(cycle)
        for disk in DISKS:
            rig.daemon.resize(disk, size)
        with rig.daemon.images["disk0"].open("r+b") as image:
            image.seek(size - 512)
            image.write(os.urandom(512))
        rig.write_at("disk1", size - 512, os.urandom(512))
        if harm:
            cycle.close()
            for path in sorted((rig.cache / "digests" / rig.spec.timeline).iterdir()):
                harm(path, b"")
            rig.objects.down = False
            cycle = rig.cycle()
            rig.objects.down = waiting
        taken = rig.take(cycle)
        rig.objects.down = False
        cycle.ship()
        rig.check()
        if harm is None:
            assert taken.found_by == dict.fromkeys(DISKS, GROWN)
        rig.write_at("disk0", size - 4096, os.urandom(512))
        assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_a_disk_that_grows_by_much_costs_what_lies_there(rig: Rig) -> None:
    cycle = started(rig)
    rig.daemon.resize("disk0", 1 << 40)
    with rig.daemon.images["disk0"].open("r+b") as image:
        image.seek(1 << 39)
        image.write(os.urandom(BLOCK))
    taken = cycle.take_point()
    assert taken.found_by == {"disk0": GROWN, "disk1": "tracking"}
    assert taken.changed == {"disk0": BLOCK, "disk1": 0}
    cycle.ship()
    assert rig.store.open(taken.point).disks["disk0"] == 1 << 40
    cycle.close()


def test_a_first_copy_goes_on_over_a_disk_that_grew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = 0
    publish_part = Writer.publish_part

    def twice(*arguments: Any) -> None:
        nonlocal copied
        if copied == 2:
            raise StoreUnavailable("cut off in the middle")
        copied += 1
        publish_part(*arguments)

    monkeypatch.setattr(first_copies, "PART", 512 * KiB)
    with monkeypatch.context() as cut_off:
        cut_off.setattr(Writer, "publish_part", twice)
        cycle = rig.cycle()
        with pytest.raises(StoreUnavailable):
            cycle.first_copy()
        cycle.close()
    rig.daemon.resize("disk0", 3 * MiB)
    with rig.daemon.images["disk0"].open("r+b") as image:
        image.seek(3 * MiB - 512)
        image.write(os.urandom(512))
    cycle = rig.cycle()
    cycle.first_copy()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_a_disk_that_shrank_is_compared(rig: Rig) -> None:
    cycle = started(rig)
    rig.daemon.resize("disk0", MiB + 512)
    assert go_on(rig, cycle) == {"disk0": "digests in two levels", "disk1": "tracking"}
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


# ── the tracker ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("remembered", [True, False])
def test_a_tracker_that_lies_is_found_out_and_everything_is_compared(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    cycle = started(rig)
    if not remembered:  # most digests aren't known then, but the sampled one is
        cycle.close()
        file = DigestFile(rig.cache / "digests" / rig.spec.timeline / "disk0", 2 * MiB)
        valid, kept = file.valid_for, file.digests[5].copy()
        file.reset(UNKNOWN)
        file.digests[5] = kept
        file.validate(str(valid))
        file.close()
        cycle = rig.cycle()
    rig.write_at("disk0", 40 * BLOCK, os.urandom(BLOCK))
    with rig.daemon.images["disk0"].open("r+b") as image:  # behind the tracker's back: raw bytes are where they are
        for number in (5, 9):
            image.seek(number * BLOCK)
            image.write(os.urandom(BLOCK))
    monkeypatch.setattr(
        cycles, "sample_clean_blocks", lambda size, changed, count, seed: [5] if not changed.clip(0, 1) else []
    )
    taken = rig.take(cycle)
    how = "digests at the process server" if remembered else "digests in two levels"
    assert taken.found_by == {"disk0": how, "disk1": "tracking"}
    assert taken.logical_bytes == 3 * BLOCK
    cycle.ship()
    rig.check()
    cycle.close()


def test_a_machine_that_lost_power_is_compared_and_costs_what_differs(rig: Rig) -> None:
    cycle = started(rig)
    cycle.close()
    rig.restart()
    rig.write_at("disk1", 70 * BLOCK, os.urandom(2 * BLOCK))
    cycle = rig.cycle()
    taken = rig.take(cycle)
    assert set(taken.found_by.values()) == {"digests at the process server"}
    assert taken.logical_bytes == 2 * BLOCK
    cycle.ship()
    rig.write()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_an_aborted_point_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle = started(rig)
    rig.write()
    with monkeypatch.context() as failing:
        failing.setattr(Cycle, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cycle.take_point()
    rig.write()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


# ── the way back ────────────────────────────────────────────────────────────────────────────────────────────────────

T1, T2 = "1" * 16, "2" * 16


def add(
    store: MachineStore, point: PointId, parent: PointId | None, before: Content, content: Content, **more: Any
) -> None:
    """Publish a point of ``content`` that stands on ``before``."""
    store.create_timeline(point.timeline)
    writer = store.writer(point.timeline, "test")
    builder = writer.builder(point.number, Path(more.pop("spool")), parent)
    for disk, data in content.items():
        for offset in range(0, len(data), BLOCK):
            if data[offset : offset + BLOCK] != before[disk][offset : offset + BLOCK]:
                builder.write(disk, offset, data[offset : offset + BLOCK])
    sizes = {disk: len(data) for disk, data in content.items()}
    spooled = builder.finish(instant=datetime.now(UTC), disks=sizes, **more)
    writer.publish(spooled)
    spooled.remove()


def altered(content: Content, *blocks: int) -> Content:
    result = {}
    for disk, data in content.items():
        new = bytearray(data)
        for number in blocks:
            new[number * BLOCK : (number + 1) * BLOCK] = os.urandom(BLOCK)
        result[disk] = bytes(new)
    return result


@pytest.mark.parametrize("known", ["same", "lie", "nothing", "dropped"])
def test_the_way_back_ships_the_blocks_that_differ_however_they_are_found(
    daemon: StorageDaemon, tmp_path: Path, known: str
) -> None:
    rig = Rig(daemon, tmp_path, "f" * 16)
    blank = {disk: bytes(2 * MiB) for disk in DISKS}
    chosen = {disk: os.urandom(MiB) + bytes(MiB) for disk in DISKS}  # the machine was started on this one
    last = altered(chosen, 3, 4, 70)  # and its original had come to this
    own = MachineStore(rig.own, KEYS)
    add(own, PointId(T1, 1), None, blank, chosen, spool=tmp_path / "s1")
    add(own, PointId(T1, 2), PointId(T1, 1), chosen, last, spool=tmp_path / "s1")
    original = altered(last, 90) if known == "lie" else last  # somebody wrote to it after all
    maps = {
        disk: block_digests(KEYS, data) for disk, data in original.items()
    }  # as an import keeps them beside the point
    add(rig.store, PointId(T2, 0), None, blank, original, spool=tmp_path / "s2", digest_maps=maps)
    rig.begin(T2, tracker_base=PointId(T1, 1), same_as=None if known == "nothing" else PointId(T1, 2))
    if known == "dropped":
        rig.spec = cycles.ReplicationSpec(**{**rig.spec.__dict__, "same_as": PointId(T1, 7)})
    rig.fill(chosen)
    rig.source().track(PointId(T1, 1))
    rig.write_at("disk0", 4 * BLOCK, last["disk0"][4 * BLOCK : 5 * BLOCK])  # what the original had already
    rig.write(6)
    cycle = rig.cycle()
    assert cycle.head == PointId(T2, 0)
    taken = rig.take(cycle)
    assert taken.point == PointId(T2, 1)
    assert set(taken.found_by.values()) == {"tracking" if known == "same" else "digests in two levels"}
    assert taken.logical_bytes == differing(rig.seen[taken.point], original)
    cycle.ship()
    rig.check()
    rig.write()
    assert go_on(rig, cycle) == TRACKED
    cycle.close()


def test_the_way_back_begun_and_undone_is_begun_again(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(daemon, tmp_path, "f" * 16)
    blank = {disk: bytes(2 * MiB) for disk in DISKS}
    chosen = {disk: os.urandom(MiB) + bytes(MiB) for disk in DISKS}
    own = MachineStore(rig.own, KEYS)
    add(own, PointId(T1, 1), None, blank, chosen, spool=tmp_path / "s1")
    add(rig.store, PointId(T2, 0), None, blank, chosen, spool=tmp_path / "s2")
    rig.begin(T2, tracker_base=PointId(T1, 1), same_as=PointId(T1, 1))
    rig.fill(chosen)
    rig.source().track(PointId(T1, 1))
    rig.write()
    cycle = rig.cycle()
    with monkeypatch.context() as failing:
        failing.setattr(Cycle, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cycle.take_point()
    cycle.close()
    rig.write()
    cycle = rig.cycle()
    taken = rig.take(cycle)
    assert taken.found_by == TRACKED
    assert taken.logical_bytes == differing(rig.seen[taken.point], chosen)
    cycle.ship()
    cycle.close()
    rig.check()


def test_zeroes_and_rewrites_of_the_same_cost_nothing(rig: Rig) -> None:
    cycle = started(rig)
    rig.write_at("disk0", 10 * BLOCK, rig.disks()["disk0"][10 * BLOCK : 20 * BLOCK])
    rig.write_at("disk1", 100 * BLOCK, bytes(10 * BLOCK))
    taken = rig.take(cycle)
    assert (taken.logical_bytes, taken.stored_bytes) == (0, 0)
    rig.write_at("disk1", 0, bytes(10 * BLOCK))
    taken = rig.take(cycle)
    assert taken.logical_bytes == 10 * BLOCK
    assert taken.stored_bytes == 0
    cycle.ship()
    cycle.close()
    rig.check()


def test_parts_cover_holes_without_reading_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    cycle = rig.cycle()
    cycle.first_copy()
    parts = {part.disk: part.ranges for part in rig.store.writer(rig.spec.timeline, "other").parts()}
    assert parts == dict.fromkeys(DISKS, Extents.of([(0, MiB)]))
    cycle.close()


def in_the_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_parts_are_read_while_others_are_shipped_and_no_more_than_a_few(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 128 * KiB)
    cycle = rig.cycle()
    rig.objects.answers.clear()
    copying = in_the_background(cycle.first_copy)
    waiting = rig.cache / "part"
    until(lambda: len(list(waiting.glob("*/*/complete"))) == first_copies.IN_FLIGHT + 1)
    time.sleep(0.2)
    assert len(list(waiting.glob("*/*/complete"))) == first_copies.IN_FLIGHT + 1
    assert not [key for key, _ in rig.objects.list("") if "/part/" in key]
    rig.objects.answers.set()
    copying.join(30)
    parts = dict(rig.store.writer(rig.spec.timeline, "other").part_records())
    starts = [part.index_disks()[0] for _, part in sorted(parts.items())]
    assert starts == ["disk0"] * 8 + ["disk1"] * 8, "in the order in which they were read"
    assert not list(waiting.glob("*/*"))
    cycle.close()


def test_a_first_copy_waits_for_room_where_its_own_parts_take_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tight(CacheRoom):
        def look(self) -> Room:
            return Room(19 if list(rig.cache.glob("part/*/*/complete")) else 20, 100)

    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    rig.room = Tight(rig.cache)
    started(rig).close()
    rig.check()


def test_segments_are_in_the_store_before_their_point_is_published_and_not_sent_again(rig: Rig) -> None:
    cycle = started(rig)
    rig.write_at("disk0", 0, os.urandom(MiB))
    sent = rig.objects.sent
    rig.take(cycle)
    until(lambda: rig.objects.sent - sent > MiB)
    assert rig.store.head(rig.spec.timeline) == PointId(rig.spec.timeline, 1), "nothing of it counts yet"
    cycle.ship()
    assert rig.objects.sent - sent < MiB + 64 * KiB
    assert rig.objects.again == 0
    rig.check()
    cycle.close()


def test_what_another_folder_took_early_is_sent_again_when_its_point_is_published(rig: Rig) -> None:
    """An empty folder lay where the store's volume is mounted: it took segments, and was covered again."""
    cycle = started(rig)
    before = set(rig.objects.folder.iterdir())
    rig.write_at("disk0", 0, os.urandom(MiB))
    sent = rig.objects.sent
    rig.take(cycle)
    until(lambda: rig.objects.sent - sent > MiB)
    until(lambda: not list(rig.objects.folder.glob(".*")))
    took = set(rig.objects.folder.iterdir()) - before
    assert took
    for path in took:
        path.unlink()
    cycle.ship()
    rig.check()
    cycle.close()


def test_nothing_is_sent_early_of_a_point_after_one_that_was_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent of it stays in the store, so that each attempt would leave as much."""
    cycle = started(rig)
    before = set(rig.objects.folder.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(Cycle, "_finish", lambda *arguments: 1 / 0)
        for _ in range(3):
            rig.write_at("disk0", 0, os.urandom(MiB))
            with pytest.raises(ZeroDivisionError):
                cycle.take_point()
    assert len(set(rig.objects.folder.iterdir()) - before) <= 1
    go_on(rig, cycle)
    cycle.close()


def test_a_claim_whose_answer_was_lost_is_no_fence(
    rig: Rig, loop: Callable[[], Replication], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, claimed = MachineStore.writer, []

    def lost(self: MachineStore, *arguments: Any) -> Writer:
        made = writer(self, *arguments)
        claimed.append(made.epoch)
        if len(claimed) == 2:
            raise StoreUnavailable("no answer")
        return made

    def broken(*arguments: Any, **options: Any) -> None:
        raise ViewBroken("disk0: the view is gone", disk="disk0")

    monkeypatch.setattr(MachineStore, "writer", lost)
    replication = loop()
    until(lambda: rig.store.points(rig.spec.timeline))
    with monkeypatch.context() as trouble:
        trouble.setattr(QemuSource, "begin_point", broken)
        until(lambda: len(claimed) > 3 or not replication.alive)
    assert replication.alive, "it fenced itself"
    head = rig.store.head(rig.spec.timeline)
    until(lambda: rig.store.head(rig.spec.timeline) != head)


def test_a_point_that_the_one_before_brought_at_last_does_not_end_the_loop(
    rig: Rig, loop: Callable[[], Replication], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on its way when the timeline was claimed, and takes the number of this one's first point."""
    other = started(rig)
    rig.write_at("disk0", 0, os.urandom(BLOCK))
    rig.take(other)
    create, late = Writer._create, []

    def after_it(self: Writer, key: str, data: bytes, what: str) -> None:
        if not late:
            late.append(True)
            waiting = other.waiting[0]
            other._writer._upload(waiting, None)
            create(other._writer, key, waiting.record(), what)
        create(self, key, data, what)

    monkeypatch.setattr(Writer, "_create", after_it)
    rig.cache = rig.folder / "cache of the other"
    replication = loop()
    until(lambda: late and (rig.store.head(rig.spec.timeline) or PointId(rig.spec.timeline, 0)).number > 3)
    assert replication.alive
    replication.stop(30)
    rig.check()
    other.close()


def test_a_loop_whose_first_point_leaves_out_parts_of_another_goes_on_by_itself(
    rig: Rig, loop: Callable[[], Replication]
) -> None:
    own, owner = rig.cache, rig.owner
    cycle = rig.cycle()
    cycle.first_copy()
    cycle.take_point()
    cycle.close()
    rig.cache, rig.owner = rig.folder / "cache of the other", "the other"
    rig.write_at("disk0", 0, os.urandom(BLOCK))
    other = rig.cycle()
    other.first_copy()
    other.close()
    rig.cache, rig.owner = own, owner
    rig.write_at("disk1", 0, os.urandom(BLOCK))
    replication = loop()
    until(lambda: len(rig.store.points(rig.spec.timeline)) > 1)
    assert replication.alive
    replication.stop(30)
    now = rig.disks()
    for info in rig.store.points(rig.spec.timeline):
        assert read_point(rig.store, info.id) == now
    rig.check()
