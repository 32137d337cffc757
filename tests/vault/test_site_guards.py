"""Sites can't be taken from under items, and a store is tried out before points go there."""

from __future__ import annotations

from fake_sites import World


def test_a_site_that_items_need_is_not_removed_and_one_that_none_needs_is(world: World) -> None:
    world.protected()
    for site in ("east", "west"):
        refused = world.call("DELETE", f"/sites/{site}", status=409)
        assert refused["code"] == "site.in-use"
        assert refused["details"]["items"] == ["web"]
    world.run("disable", {"purge": True})
    assert world.call("DELETE", "/sites/west")["name"] == "west"
    assert [site["name"] for site in world.call("GET", "/sites")["sites"]] == ["east"]
    assert world.call("GET", "/sites/west", status=404)["code"] == "site.not-found"
    assert world.call("GET", "/sites/west/machines", status=404)["code"] == "site.not-found"
    assert world.call("DELETE", "/sites/west", status=404)["code"] == "site.not-found"
    assert world.protect(status=404)["code"] == "site.not-found"
    assert [job["kind"] for job in world.call("GET", "/jobs")["jobs"]] == ["disable", "protect"]


def test_a_removed_sites_name_and_folder_are_free_again(world: World) -> None:
    world.call("DELETE", "/sites/west")
    added = world.call("POST", "/sites", {"name": "west", "path": "/elsewhere"}, status=201)
    assert added["path"] == "/elsewhere"
    assert added["store"] is None
    world.call("POST", "/sites", {"name": "third", "path": "/west"}, status=201)
    assert [site["name"] for site in world.call("GET", "/sites")["sites"]] == ["east", "third", "west"]


def test_a_site_whose_server_goes_on_after_it_was_removed_is_told_so(world: World) -> None:
    world.call("DELETE", "/sites/west")
    assert world.call("GET", "/agent/west/work", status=404)["code"] == "site.not-found"


def test_a_store_is_tried_out_before_it_is_the_sites(world: World) -> None:
    url = "file:///srv/points"
    world.west.fail["probe-store"] = 1
    assert world.call("PATCH", "/sites/west", {"store": url}, status=502)["code"] == "fake.probe-store"
    assert world.call("GET", "/sites/west")["store"] is None
    changed = world.call("PATCH", "/sites/west", {"store": url})
    assert changed["store"] == url
    assert changed["probed"] == {"free": 1 << 40}
    assert [params["store"] for kind, params in world.west.calls if kind == "probe-store"] == [url, url]
    assert world.call("PATCH", "/sites/east", {"store": url}, status=409)["code"] == "site.path-overlaps"
    assert world.call("PATCH", "/sites/east", {"store": "file:///west/x"}, status=409)["code"] == "site.path-overlaps"
    assert world.call("PATCH", "/sites/west", {"store": None})["store"] is None


def test_a_store_with_points_stays_the_sites(world: World) -> None:
    world.protected()
    for _ in range(2):
        refused = world.call("PATCH", "/sites/west", {"store": "file:///srv/points"}, status=409)
        assert refused["code"] == "site.store-in-use"
        assert refused["details"]["items"] == ["web"]
        if world.call("GET", "/items")["items"]:
            world.run("disable")  # its points are kept: still in the way
    world.call("POST", "/items/deleted/web/purge", status=202)
    world.until(lambda: world.call("GET", "/items/deleted")["items"] == [])
    assert world.call("PATCH", "/sites/west", {"store": "file:///srv/points"})["store"] == "file:///srv/points"
    assert "probe-store" not in world.east.kinds()
