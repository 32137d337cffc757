"""SIGKILL of the process that replicates, at every step, while the guest writes: nothing missed, no point changed."""

from __future__ import annotations

import os
import time
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.units import BLOCK, KiB
from homeport.servers import cycle as cycles
from homeport.servers import first_copy as first_copies
from homeport.servers.digest_file import DigestFile
from homeport.sources.qemu import QemuSource
from homeport.sources.qemu_view import QemuDiskView
from homeport.store.builder import PointBuilder
from homeport.store.spool import SpooledPoint
from homeport.store.writer import Writer
from tests.servers.bucket import FolderObjects
from tests.servers.deaths import Steps, dies
from tests.servers.rig import MiB, Rig

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


def arm(steps: Steps, calls: Container[int]) -> None:
    """A step before and after everything by which a cycle leaves traces; of each, those ``calls`` only."""
    for owner, name in (
        (PointBuilder, "write"),
        (PointBuilder, "finish"),
        (QemuSource, "track"),
        (QemuSource, "begin_point"),
        (QemuSource, "handed"),
        (QemuSource, "commit"),
        (Writer, "publish"),
        (Writer, "publish_part"),
        (FolderObjects, "put"),
        (DigestFile, "validate"),
        (DigestFile, "exchange"),
        (SpooledPoint, "remove"),
    ):
        steps.around(owner, name, calls)


def one_round(rig: Rig, steps: Steps) -> None:
    arm(steps, (1, 2))
    cycle = rig.cycle()
    cycle.ship()
    cycle.take_point()
    cycle.ship()
    cycle.close()


def test_a_delta_killed_at_any_step_leaves_nothing_missed(daemon: StorageDaemon, tmp_path: Path) -> None:
    rig = Rig(daemon, tmp_path)
    rig.write(20)
    first = rig.cycle()
    first.first_copy()
    rig.write()
    rig.take(first)
    first.ship()
    first.close()
    rig.check()
    fatal, killed = 1, True
    while killed:
        rig.write(2)
        killed = dies(partial(one_round, rig), fatal, meanwhile=partial(rig.write, 1))
        rig.write(2)
        cycle = rig.cycle()
        cycle.ship()
        rig.write(2)
        taken = rig.take(cycle)
        assert set(taken.found_by.values()) == {"tracking"}, (fatal, taken.found_by)
        cycle.ship()
        cycle.close()
        rig.check(newest=3)
        fatal += 1
    rig.check()
    assert fatal > 20


def first_copy(rig: Rig, steps: Steps) -> None:
    arm(steps, (1, 6))
    cycle = rig.cycle()
    cycle.first_copy()


def test_a_first_copy_killed_at_any_step_is_resumed(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 512 * KiB)
    fatal, killed = 1, True
    while killed:
        rig = Rig(daemon, tmp_path / str(fatal))
        rig.write_at("disk0", 0, os.urandom(600 * KiB))
        rig.write_at("disk1", 600 * KiB, os.urandom(300 * KiB))
        killed = dies(partial(first_copy, rig), fatal, meanwhile=partial(rig.write, 1))
        rig.write(2)
        cycle = rig.cycle()
        assert cycle.head is None
        cycle.first_copy()
        rig.write(2)
        taken = rig.take(cycle)
        assert set(taken.found_by.values()) == {"tracking"}
        cycle.ship()
        cycle.close()
        rig.check()
        fatal += 2
    assert fatal > 20, fatal


def test_a_kill_while_a_part_is_published_sends_no_more_than_that_part_again(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    rig = Rig(daemon, tmp_path)
    rig.write_at("disk0", 0, os.urandom(2 * MiB))

    def publishing(steps: Steps) -> None:
        steps.around(Writer, "publish_part")
        rig.cycle().first_copy()

    assert dies(publishing, 15)  # before the eighth part is published
    rig.objects.sent = 0
    cycle = rig.cycle()
    cycle.first_copy()
    assert 0 < rig.objects.sent < 300 * KiB  # its record alone, where its segment came there before the kill
    rig.take(cycle)
    cycle.ship()
    cycle.close()
    rig.check()


def test_parts_that_waited_in_the_cache_at_a_kill_are_shipped_and_not_read_again(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    rig = Rig(daemon, tmp_path)
    rig.write_at("disk0", 0, os.urandom(2 * MiB))
    waiting = rig.cache / "part"

    def cut_off(steps: Steps) -> None:
        put = FolderObjects.put

        def put_or_die(objects: FolderObjects, key: str, data: bytes, **more: Any) -> None:
            if "/part/" in key:  # the first part's record: it isn't there yet
                while len(list(waiting.glob("*/*/complete"))) < first_copies.IN_FLIGHT + 1:
                    time.sleep(0.01)
                steps.tick()
            put(objects, key, data, **more)

        FolderObjects.put = put_or_die  # type: ignore[method-assign]
        rig.cycle().first_copy()

    assert dies(cut_off, 1)
    rig.write_at("disk0", 0, os.urandom(BLOCK))  # tracked
    read: list[int] = []
    read_ranges = QemuDiskView.read_ranges

    def counted(view: QemuDiskView, ranges: list[tuple[int, memoryview]]) -> None:
        read.extend(len(buffer) for _, buffer in ranges if view.id == "disk0")
        read_ranges(view, ranges)

    monkeypatch.setattr(QemuDiskView, "read_ranges", counted)
    cycle = rig.cycle()
    cycle.first_copy()
    assert sum(read) == 2 * MiB - (first_copies.IN_FLIGHT + 1) * 256 * KiB
    taken = rig.take(cycle)
    assert taken.logical_bytes == BLOCK
    cycle.ship()
    cycle.close()
    rig.check()


def test_a_tracker_lost_during_the_first_copy_and_again_a_kill_miss_nothing(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)

    def half(rig: Rig, steps: Steps) -> None:
        steps.around(Writer, "publish_part")
        rig.cycle().first_copy()

    for fatal in range(1, 45, 11):
        rig = Rig(daemon, tmp_path / str(fatal))
        rig.write_at("disk0", 0, os.urandom(1 * MiB))
        rig.write_at("disk1", 0, os.urandom(1 * MiB))
        assert dies(partial(half, rig), 12)
        rig.restart()
        rig.write_at("disk0", 3 * BLOCK, os.urandom(BLOCK))  # copied already, and nobody tracks
        rig.write_at("disk1", 3 * BLOCK, os.urandom(BLOCK))
        dies(partial(first_copy, rig), fatal)  # begins to track, and compares, and dies
        cycle = rig.cycle()
        cycle.first_copy()
        rig.take(cycle)
        cycle.ship()
        cycle.close()
        assert rig.store.points(rig.spec.timeline)
        rig.check()


def test_a_tracker_lost_between_first_copy_and_first_point_is_noticed(daemon: StorageDaemon, tmp_path: Path) -> None:
    rig = Rig(daemon, tmp_path)
    rig.write_at("disk0", 0, os.urandom(1 * MiB))
    cycle = rig.cycle()
    cycle.first_copy()
    cycle.close()
    rig.restart()
    rig.write_at("disk0", 3 * BLOCK, os.urandom(BLOCK))
    rig.source().track(cycles.PointId(rig.spec.timeline, 0))  # somebody tracks anew, under the same name
    taken = rig.take(cycle)
    assert taken.found_by == dict.fromkeys(("disk0", "disk1"), "digests at the process server")
    assert taken.logical_bytes == BLOCK
    cycle.ship()
    cycle.close()
    rig.check()


def test_parts_that_another_process_server_copied_meanwhile_are_not_taken_for_ones_own(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    rig = Rig(daemon, tmp_path)
    rig.write_at("disk0", 0, b"x" * (2 * MiB))

    def half(steps: Steps) -> None:
        steps.around(Writer, "publish_part")
        rig.cycle().first_copy()

    assert dies(half, 7)
    own = rig.cache
    rig.owner, rig.cache = "the other", tmp_path / "cache of the other"
    rig.write_at("disk0", 0, b"y" * BLOCK)
    assert dies(half, 7)
    rig.owner, rig.cache = "test", own
    rig.write_at("disk0", 0, b"x" * BLOCK)  # as the digests of the first one say that the store has it
    cycle = rig.cycle()
    cycle.first_copy()
    rig.take(cycle)
    cycle.ship()
    cycle.close()
    rig.check()


def test_a_first_point_that_waited_at_a_kill_is_taken_anew_beside_parts_of_another_process_server(
    daemon: StorageDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_copies, "PART", 256 * KiB)
    rig = Rig(daemon, tmp_path)
    rig.write_at("disk0", 0, b"x" * (2 * MiB))

    def all_but_shipped(steps: Steps) -> None:
        steps.around(QemuSource, "handed")
        cycle = rig.cycle()
        cycle.first_copy()
        rig.write_at("disk0", BLOCK, b"z" * BLOCK)
        cycle.take_point()

    def half(steps: Steps) -> None:
        steps.around(Writer, "publish_part")
        rig.cycle().first_copy()

    assert dies(all_but_shipped, 1)
    assert len(list(rig.cache.glob("spool/*/*/complete"))) == 1
    own = rig.cache
    rig.owner, rig.cache = "the other", tmp_path / "cache of the other"
    rig.write_at("disk0", 0, b"y" * (2 * BLOCK))
    assert dies(half, 7)
    rig.owner, rig.cache = "test", own
    rig.write_at("disk0", 0, b"x" * BLOCK)
    cycle = rig.cycle()
    assert (cycle.backlog, cycle.head) == (0, None)
    cycle.first_copy()
    rig.take(cycle)
    cycle.ship()
    cycle.close()
    rig.check()
