"""A site's servers take its store from the vault."""

from __future__ import annotations

from fake_sites import World


def test_a_site_is_told_its_store_when_it_asks_and_when_it_greets(world: World) -> None:
    def greeted() -> object:
        return world.call("POST", "/agent/west/hello", {"executor": "x"})["store"]

    assert world.call("GET", "/agent/west/store") == {"store": None}
    assert greeted() is None
    world.call("PATCH", "/sites/west", {"store": "s3://points/west"})
    assert world.call("GET", "/agent/west/store") == {"store": "s3://points/west"}
    assert greeted() == "s3://points/west"
    assert world.call("GET", "/agent/east/store") == {"store": None}
