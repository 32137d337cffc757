"""The process server's cache: as many points as fit wait in it for the store; kills, and a full disk, harm none."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.units import MiB
from homeport.servers.cache_room import CacheFull, CacheRoom
from homeport.servers.cycle import Cycle
from homeport.servers.digest_file import DigestFile
from homeport.sources.qemu import QemuSource
from homeport.store.errors import Fenced
from homeport.store.writer import Writer
from tests.servers.deaths import Steps, dies
from tests.servers.rig import Rig

pytestmark = pytest.mark.qemu
TRACKED = {"disk0": "tracking", "disk1": "tracking"}


def started(rig: Rig) -> Cycle:
    rig.write(20)
    cycle = rig.cycle()
    cycle.first_copy()
    rig.write()
    rig.take(cycle)
    cycle.ship()
    return cycle


def wait_in_the_cache(rig: Rig, cycle: Cycle, count: int) -> None:
    for _ in range(count):
        rig.write(2)
        rig.take(cycle)


def taking(rig: Rig, seen: Path, steps: Steps) -> None:
    """In a process that dies: the store is away, points go on; what they must be is kept in ``seen``."""
    cycle = rig.cycle()
    rig.objects.down = True
    wait_in_the_cache(rig, cycle, 15)
    seen.write_bytes(pickle.dumps(rig.seen))
    steps.around(QemuSource, "begin_point")
    steps.around(QemuSource, "handed")
    rig.write(2)
    cycle.take_point()


def shipping(rig: Rig, steps: Steps) -> None:
    steps.around(Writer, "publish")
    rig.cycle().ship()


@pytest.mark.slow
def test_forty_points_wait_for_a_dead_store_over_kills_and_all_are_right(daemon: StorageDaemon, tmp_path: Path) -> None:
    rig = Rig(daemon, tmp_path)
    cycle = started(rig)
    rig.objects.down = True
    wait_in_the_cache(rig, cycle, 25)
    cycle.close()
    rig.objects.down = False
    assert dies(partial(taking, rig, tmp_path / "seen"), 3)  # handed, and its view still there
    rig.seen = pickle.loads((tmp_path / "seen").read_bytes())
    rig.write(2)
    assert dies(partial(shipping, rig), 40)  # the twentieth point is in the store; whether its source knows is not
    cycle = rig.cycle()
    waiting = cycle.backlog
    assert waiting in (21, 22)
    assert cycle.head is not None
    assert cycle.head.number == 42
    sizes = [spooled.stored_bytes for spooled in cycle._pending]
    rig.objects.again = 0
    assert len(cycle.ship()) == waiting
    assert rig.objects.again <= sizes[0] + 64 * 1024  # its digest map and record beside it
    rig.check()
    rig.write(2)
    taken = rig.take(cycle)
    assert taken.found_by == TRACKED
    cycle.ship()
    rig.check(newest=2)
    cycle.close()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_cache_that_is_full_to_the_last_byte_harms_nothing(
    daemon: StorageDaemon, tmp_path: Path, small_volume: Path
) -> None:
    rig = Rig(daemon, tmp_path)
    rig.cache = small_volume / "cache"
    cycle = started(rig)
    for _ in range(3):
        rig.write_at("disk0", 0, os.urandom(2 * MiB))
        rig.write_at("disk1", 0, os.urandom(2 * MiB))
        with pytest.raises(CacheFull):
            cycle.take_point(last=True)
    cycle.close()
    cycle = rig.cycle()  # also a process that begins with such a cache
    with pytest.raises(CacheFull):
        cycle.take_point()
    subprocess.run(["mount", "-o", "remount,size=64m", small_volume], check=True)
    assert rig.take(cycle).found_by == TRACKED
    cycle.ship()
    cycle.close()
    rig.check()


def test_a_digest_file_that_there_is_no_room_for_is_an_error_not_the_end_of_the_process(small_volume: Path) -> None:
    (small_volume / "other").write_bytes(bytes(2 * MiB))
    with pytest.raises(OSError, match="No space left"):
        DigestFile(small_volume / "digests", 2 << 30)
    (small_volume / "other").unlink()
    file = DigestFile(small_volume / "digests", 2 << 30)
    assert file.valid_for is None
    file.reset(0xFF)
    file.close()


def test_a_quota_counts_what_lies_in_the_cache(tmp_path: Path) -> None:
    room = CacheRoom(tmp_path / "cache", quota=10 * MiB)
    room.require()
    (tmp_path / "cache" / "item").mkdir(parents=True)
    (tmp_path / "cache" / "item" / "segment").write_bytes(os.urandom(9 * MiB))
    room = CacheRoom(tmp_path / "cache", quota=10 * MiB)
    assert abs(room.look().free - 1 * MiB) < 64 * 1024
    with pytest.raises(CacheFull) as told:
        room.require(backlog=7)
    assert "7 points wait" in told.value.cause
    assert told.value.details["total"] == 10 * MiB


def test_a_process_server_that_was_replaced_cannot_publish_and_what_it_kept_is_void_when_it_gets_the_item_again(
    daemon: StorageDaemon, tmp_path: Path
) -> None:
    rig = Rig(daemon, tmp_path)
    old = started(rig)
    rig.write_at("disk0", 0, b"x" * MiB)
    old_point = old.take_point().point
    old_cache, rig.cache = rig.cache, tmp_path / "cache of the new one"
    rig.seen.clear()
    rig.write_at("disk0", 0, b"y" * MiB)
    new = rig.cycle()
    sent = rig.objects.sent
    taken = rig.take(new)
    assert taken.point == old_point
    assert taken.found_by == TRACKED
    new.ship()
    assert rig.objects.sent - sent < 1 * MiB  # no full copy
    with pytest.raises(Fenced):
        old.ship()
    old.close()
    rig.write_at("disk0", 0, b"x" * MiB)  # as the old one's digests say that the store has it
    rig.take(new)
    new.close()
    rig.cache = old_cache
    back = rig.cycle()
    assert back.backlog == 0
    assert rig.take(back).point.number == old_point.number + 1
    back.ship()
    back.close()
    rig.check()
