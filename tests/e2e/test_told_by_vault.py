"""Servers apart take from their vault which store their site has, and how fast they may ship."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.apart import Apart

pytestmark = [pytest.mark.slow]

OF_A = ("cs-a", "ps-a", "mt-a")


@pytest.fixture
def world() -> Iterator[Apart]:
    with Apart() as world:
        world.up()
        yield world


def test_a_throttle_and_a_store_reach_every_server_of_a_site(world: Apart) -> None:
    def throttle() -> dict[str, object] | None:
        found: dict[str, object] | None = world.api("GET", "/v1/process-servers/ps-a/throttle")["effective"]
        return found

    world.until(throttle, 30, "the process server to tell of itself")
    wanted = {"limit": "8Mbit", "schedule": ["00:00-24:00=4Mbit"], "time_zone": "Asia/Tokyo"}
    told = world.api("PUT", "/v1/process-servers/ps-a/throttle", wanted)
    assert (told["applied"], told["effective"]["rules"], told["effective"]["now"]) == (True, "vault", 4_000_000)
    world.kill_server("cs-a")  # nobody could tell it again
    world.replace_server("ps-a")
    world.start_server("cs-a")
    world.until(lambda: world.states("a").get("ps-a") == "connected", 60, "ps-a to be back")
    assert (throttle() or {})["now"] == 4_000_000

    points = world.folder / "points"
    points.mkdir()
    world.until(lambda: world.api("GET", "/v1/sites/a")["connected"], 60, "cs-a to be back")
    world.api("PATCH", "/v1/sites/a", {"store": points.as_uri()})
    for name in OF_A:  # each ends, as its unit would start it again
        assert world.servers[name].wait(150) == 1, name
        assert f"recovery store is {points.as_uri()} now" in (world.folder / f"{name}.txt").read_text()
        world.start_server(name)
    world.until(lambda: world.states("a") == {"ps-a": "connected", "mt-a": "connected"}, 60, "all to be back")
    assert world.api("GET", "/v1/sites/a")["facts"]["store"]["path"] == str(points)

    world.kill_server("mt-a")
    world._configure("mt-a", folder=str(world.a), store="file:///elsewhere")
    world.start_server("mt-a")
    assert world.servers["mt-a"].wait(30) == 1
    assert "serve.store-contradicts" in (world.folder / "mt-a.txt").read_text()
