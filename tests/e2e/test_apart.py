"""Vault, and at two sites configuration server, process server and master target, each a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.apart import Apart
from tests.e2e.world import VM

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


@pytest.fixture
def world() -> Iterator[Apart]:
    with Apart() as world:
        world.set_up()
        yield world


def test_the_round_trip_between_sites_apart_whichever_process_is_killed_on_the_way(world: Apart) -> None:
    world.scribble("a", 200)
    world.protect()
    first = world.take_point()
    assert world.point_hashes("b", first) == world.hashes("a")

    healthy = world.healthy("ps-a")
    assert {"folder", "configuration server", "certificate", "cache"} == set(healthy)
    assert healthy["configuration server"]
    status, ways = world.check_ways("ps-a")
    assert (status, {peer: way["blocked"] for peer, way in ways.items()}) == (
        0, {"configuration server": None, "process server of b": None},
    )  # fmt: skip
    assert ways["process server of b"]["up_bytes_per_second"] > 0

    for name in ("ps-a", "ps-b", "cs-a", "cs-b", "vault"):
        world.scribble("a", 10)
        world.kill_server(name)
        if name == "ps-b":
            status, ways = world.check_ways("ps-a")
            assert (status, ways["process server of b"]["blocked"]) == (1, "tcp")
        world.start_server(name)
        if name == "vault":
            world.until(world._answers, 60, "the vault to be up")
        point = world.until(world.try_point, 90, f"a point after {name} was killed")
        assert world.point_hashes("b", point) == world.hashes("a"), name

    before = world.hashes("a")
    world.do("failover")
    assert world.hashes("b") == before, "a planned failover loses nothing"
    world.do("commit", erase_points=True)
    world.scribble("b", 25)
    world.replace_server("mt-a")
    world.do("reprotect")
    world.scribble("b", 15)
    last = world.hashes("b")
    job = world.start("failback")
    world.replace_server("mt-a")
    world.wait(job)
    assert world.hashes("a") == last, "a planned failback loses nothing"
    world.do("commit")
    assert not (world.b / VM).exists()
    world.scribble("a", 10)
    world.do("reprotect")
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")

    assert set(world.end_servers().values()) == {0}
