"""The whole way, forth and back, on machines of disks only: after each step whole disks are compared."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.domain.units import BLOCK, MiB
from homeport.sites.interface import StartOptions
from tests.e2e.world import VM, Refused, World

pytestmark = pytest.mark.qemu


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.set_up()
        yield world


def protected(world: World) -> None:
    world.scribble("a", 200)
    world.protect()


def failed_over(world: World, *, planned: bool = True) -> None:
    if planned:
        world.do("failover")
    else:
        world.do("failover", shutdown=False, point="latest-processed")


def test_a_first_copy_holds_what_the_disks_hold(world: World) -> None:
    protected(world)
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")
    item = world.item()
    assert item["state"] == "Protected"
    assert item["active_site"] == "a"
    assert item["rpo_seconds"] is not None


def test_points_hold_each_its_own_instant(world: World) -> None:
    protected(world)
    wanted = {}
    for _ in range(4):
        world.scribble("a", 20)
        point = world.take_point()
        wanted[point] = world.hashes("a")
    for point, hashes in wanted.items():
        assert world.point_hashes("b", point) == hashes


def test_the_round_trip_loses_and_changes_nothing(world: World) -> None:
    protected(world)
    world.scribble("a", 30)
    before = world.hashes("a")
    failed_over(world)
    assert world.item()["state"] == "FailoverCommitPending"
    assert world.hashes("b") == before, "a planned failover loses nothing"
    assert world.image_hashes("a") == before
    world.do("commit", erase_points=True)
    assert world.points() == []
    world.scribble("b", 25)
    job = world.do("reprotect")
    assert world.item()["state"] == "ReverseProtected"
    assert world.item()["direction"] == "reverse"
    assert job
    world.scribble("b", 15)
    last = world.hashes("b")
    world.do("failback")
    assert world.item()["state"] == "FailbackCommitPending"
    assert world.hashes("a") == last, "a planned failback loses nothing"
    assert world.image_hashes("b") == last
    world.do("commit")
    assert not (world.b / VM).exists(), "commit removes the recovery machine"
    world.scribble("a", 10)
    world.do("reprotect")
    assert world.item()["state"] == "Protected"
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")


def test_a_test_failover_leaves_production_alone_and_nothing_behind(world: World) -> None:
    protected(world)
    point = world.take_point()
    before = world.hashes("a")
    world.do("test-failover", point=point)
    name = world.item()["test"]["machine"]
    assert world.hashes("b", name) == before
    world.scribble("b", 10, name)
    assert world.hashes("a") == before
    with pytest.raises(Refused) as refused:
        world.start("failover")
    assert "cleanup" in refused.value.problem["details"]["allowed_operations"]
    world.do("cleanup", notes="fine")
    assert [path.name for path in world.b.iterdir() if not path.name.endswith(".lock")] == [".homeport"]
    assert not list((world.b / ".homeport" / "points").iterdir())
    assert world.item()["state"] == "Protected"
    assert world.store("b").leases() == []


def test_change_point_starts_another_point(world: World) -> None:
    protected(world)
    first = world.take_point()
    wanted = world.hashes("a")
    world.scribble("a", 10)
    world.take_point()
    failed_over(world, planned=False)
    assert world.hashes("b") != wanted
    world.do("change-point", point=first)
    assert world.hashes("b") == wanted


def test_what_the_source_wrote_after_the_chosen_point_is_undone(world: World) -> None:
    """Failed over to a point three back; the source had written other blocks since: only differences cross, twice."""
    protected(world)
    chosen = world.take_point()
    at_chosen = world.hashes("a")
    for _ in range(3):
        world.scribble("a", 40)
        world.take_point()
    world.do("failover", shutdown=False, point=chosen)
    assert world.hashes("b") == at_chosen
    world.do("commit")
    world.scribble("b", 40)
    source = {disk: world.read("a", disk) for disk in ("disk0", "disk1")}
    recovery = {disk: world.read("b", disk) for disk in ("disk0", "disk1")}
    differing = blocks_that_differ(source, recovery)
    before = world.crossed()
    world.do("reprotect")
    shipped = world.crossed() - before
    assert 0 < shipped <= 1.2 * differing * BLOCK + digests_of(world), (shipped, differing)
    world.scribble("b", 20)
    last = world.hashes("b")
    world.do("failback")
    assert world.hashes("a") == last
    world.do("commit")
    world.scribble("a", 30)
    differing = blocks_that_differ(recovery_now(world), {disk: world.read("a", disk) for disk in ("disk0", "disk1")})
    before = world.crossed()
    world.do("reprotect")
    shipped = world.crossed() - before
    assert 0 < shipped <= 1.2 * differing * BLOCK + digests_of(world), (shipped, differing)
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")


def recovery_now(world: World) -> dict[str, bytes]:
    """What the recovery side's store holds as the base of the next replication."""
    store = world.store("b")
    newest = max(store.timelines(), key=lambda timeline: timeline.created)
    point = store.head(newest.id)
    assert point is not None
    reader = store.open(point)
    return {disk: reader.read(disk, 0, size) for disk, size in reader.disks.items()}


def blocks_that_differ(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    return sum(
        one[disk][offset : offset + BLOCK] != other[disk][offset : offset + BLOCK]
        for disk in one
        for offset in range(0, len(one[disk]), BLOCK)
    )


def digests_of(world: World) -> int:
    """Sixteen bytes per block, and per region, both levels; plus a quarter of a MiB for requests and records."""
    return 2 * (world.size // BLOCK) * 16 * 2 + 256 * 1024


def test_unplanned_failover_without_the_source_site(world: World) -> None:
    protected(world)
    world.scribble("a", 10)
    world.take_point()
    before = world.hashes("a")
    world.kill_machine("a")
    world.a.rename(world.folder / "a.lost")
    world.do("failover", shutdown=False, point="latest-processed")
    assert world.hashes("b") == before
    world.do("commit")
    assert world.item()["state"] == "FailoverCommitted"


def test_a_killed_source_machine_is_resynced_by_digests_not_by_a_gap(world: World) -> None:
    protected(world)
    world.take_point()
    world.kill_machine("a")
    world.write_image("a", "disk0", 5 * BLOCK, secrets.token_bytes(3 * BLOCK))
    world.site("a").start(VM, StartOptions())
    world.write("a", "disk1", 7 * BLOCK, secrets.token_bytes(BLOCK))
    point = world.until(world.try_point, 60, "a point after the restart")
    assert world.point_hashes("b", point) == world.hashes("a")


def test_killing_homeport_loses_no_change(world: World) -> None:
    protected(world)
    for _ in range(3):
        world.scribble("a", 10)
        job = world.start("point")
        world.kill()
        world.scribble("a", 10)
        world.up()
        world.wait(job)
    point = world.until(world.try_point, 60, "a point")
    assert world.point_hashes("b", point) == world.hashes("a")


def test_a_full_store_stops_points_not_the_machine_and_replication_resumes() -> None:
    with World() as world, mounted(world.b / ".homeport" / "store", 320 * MiB) as store:
        world.set_up()
        protected(world)
        good = world.take_point()
        before = world.hashes("a")
        filler = store / "filler"
        fill(filler)
        world.scribble("a", 40)
        job = world.wait(world.start("point"), state="failed")
        assert job["error"]["code"] == "store.full", job["error"]
        world.scribble("a", 40)
        filler.unlink()
        assert world.point_hashes("b", good) == before
        point = world.until(world.try_point, 60, "points to go on")
        assert world.point_hashes("b", point) == world.hashes("a")


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "homeport-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_machine_that_was_stopped_for_a_failover_is_not_started_beside_the_other(world: World) -> None:
    protected(world)
    failed_over(world)
    with pytest.raises(Refused) as refused:
        world.api("POST", f"/v1/sites/a/machines/{VM}/start")
    assert refused.value.problem["code"] == "site.machine-fenced"
    started = world.api("POST", f"/v1/sites/b/machines/{VM}/start")["machine"]
    assert started["power"] == "running", "starting what runs is no harm"


def test_two_failovers_at_once_the_second_is_refused_by_name(world: World) -> None:
    protected(world)
    job = world.start("failover")
    with pytest.raises(Refused) as refused:
        world.start("failover")
    assert refused.value.status == 409
    assert refused.value.problem["code"] in ("item.operation-running", "item.operation-not-allowed")
    world.wait(job)


def test_a_wrong_state_is_refused_with_what_is_allowed(world: World) -> None:
    protected(world)
    with pytest.raises(Refused) as refused:
        world.start("failback")
    assert refused.value.status == 409
    assert refused.value.problem["code"] == "item.wrong-direction"
    assert "failover" in refused.value.problem["details"]["allowed_operations"]


def test_the_bucket_and_the_passphrase_are_enough(world: World) -> None:
    protected(world)
    point = world.take_point()
    before = world.hashes("a")
    world.kill()
    for path in world.state.iterdir():
        path.unlink() if path.is_file() else None
    assert world.point_hashes("b", point) == before
    assert world.store("b").description() is not None


def test_disable_leaves_the_machine_running_and_untracked(world: World) -> None:
    protected(world)
    before = world.hashes("a")
    world.do("disable")
    assert world.hashes("a") == before
    assert world.api("GET", "/v1/items")["items"] == []
    world.protect()
    assert world.item()["state"] == "Protected"


def test_a_resync_compares_everything_and_finds_what_tracking_missed(world: World) -> None:
    protected(world)
    world.take_point()
    world.do("resync")
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")
