"""First copies that begin from what is at the other site already, a seed or kept points: only what differs crosses, and
the first point is the source."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from tests.e2e.world import VM, Refused, World

pytestmark = pytest.mark.qemu


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.set_up()
        yield world


def test_only_what_differs_from_the_seed_crosses(world: World) -> None:
    data = 1000  # of 1536 blocks of each disk
    world.scribble("a", data, seed=1)
    carried = world.b / "carried"
    carried.mkdir()
    (carried / "disk0.img").write_bytes(world.read("a", "disk0"))
    (carried / "disk1.raw").write_bytes(world.read("a", "disk1"))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", carried / "disk1.raw", carried / "disk1.qcow2"], check=True
    )
    seed = {"disk0": "carried/disk0.img", "disk1": "carried/disk1.qcow2"}
    changed = 25
    world.scribble("a", changed)  # the machine went on while the disk was on its way
    wanted = world.hashes("a")

    with pytest.raises(Refused) as refused:
        world.protect(seed={**seed, "disk0": "carried/disk9.img"})
    assert refused.value.problem["code"] == "seed.not-found"
    world.protect(seed=seed)

    crossed = world.crossed()
    digests = 2 * (world.size // BLOCK) * 16 * 2 + 256 * 1024  # both levels, and what requests and records take
    assert 2 * changed * BLOCK <= crossed <= 1.2 * 2 * changed * BLOCK + digests, crossed
    assert crossed < 2 * data * BLOCK / 10
    (job,) = world.api("GET", "/v1/jobs?kind=protect")["jobs"]
    first = job["result"]["point"]
    assert job["result"]["found_by"] == {"disk0": "digests in two levels", "disk1": "digests in two levels"}
    assert world.point_hashes("b", first) == wanted
    timeline = PointId.parse(first).timeline
    assert [point.id.number for point in world.store("b").points(timeline, hidden=True)] == [1], "the seed is dropped"
    assert world.store("b").verify(deep=True).problems == []

    world.scribble("a", 5)
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")
    world.do("test-failover", point=first)
    assert world.hashes("b", f"{VM}-test") == wanted


def test_a_deleted_item_goes_on_from_the_points_that_were_kept(world: World) -> None:
    world.scribble("a", 1000, seed=1)
    world.protect()
    kept = world.take_point()
    content = world.hashes("a")
    before = world.crossed()
    world.do("disable")
    changed = 25
    world.scribble("a", changed)  # nobody tracks it now
    wanted = world.hashes("a")
    job = world.wait(world.api("POST", f"/v1/items/deleted/{VM}/restore")["job"])
    crossed = world.crossed() - before
    digests = 2 * (world.size // BLOCK) * 16 * 2 + 256 * 1024
    assert 2 * changed * BLOCK <= crossed <= 1.2 * 2 * changed * BLOCK + digests, crossed
    assert world.point_hashes("b", job["result"]["point"]) == wanted
    assert kept in [point["id"] for point in world.points()]
    world.do("test-failover", point=kept)
    assert world.hashes("b", f"{VM}-test") == content
