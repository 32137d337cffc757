"""A deleted item is taken up again: with its points, in a fork of its timeline, without a full copy."""

from __future__ import annotations

from typing import Any

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.vault.database import ItemRow, now

Json = dict[str, Any]


def deleted(world: World) -> list[Json]:
    found: list[Json] = world.call("GET", "/items/deleted")["items"]
    return found


def restore(world: World, item: str = "web", *, ends: str = "succeeded") -> Json:
    job = world.wait(world.call("POST", f"/items/deleted/{item}/restore", status=202)["job"]["id"])
    assert job["state"] == ends, job
    return job


@pytest.fixture
def disabled(world: World) -> Json:
    """The item as it was before it was disabled, and its points."""
    world.protected()
    world.more_points(3)
    item = world.item()
    points = [point["id"] for point in world.points()]
    world.run("disable")
    return {**item, "points": points}


def test_it_goes_on_in_a_fork_with_the_points_that_were_kept(world: World, disabled: Json) -> None:
    job = restore(world)
    names = [task["name"] for task in job["tasks"]]
    assert names == ["check", "find-kept", "prepare-timeline", "replicate", "first-point", "finalize"]
    item = world.expect("Protected", id=disabled["id"], job=None)
    assert item["timeline"] != disabled["timeline"]
    assert world.west.timelines[item["timeline"]].parent == disabled["points"][-1], "the next point is compared with it"
    assert [point["id"] for point in world.points()] == [*disabled["points"], job["result"]["point"]]
    assert deleted(world) == []
    test = world.run("test-failover", {"point": disabled["points"][0]})
    assert test["result"]["point"] == disabled["points"][0]
    world.run("cleanup")
    world.run("disable")
    assert deleted(world)[0]["points"] == len(disabled["points"]) + 1
    restore(world)
    world.expect("Protected")


def test_retention_goes_on_for_the_points_from_before(world: World, disabled: Json) -> None:
    restore(world)
    world.call("PATCH", "/policies/gold", {"retention": 0})
    fork = world.item()["timeline"]
    head = disabled["points"][-1]
    world.until(lambda: [each["id"] for each in world.points() if not each["id"].startswith(fork)] == [head], 30)
    numbers = [f"{disabled['timeline']}/{number}" for number in world.west.timelines[disabled["timeline"]].points]
    assert numbers == [head], "the fork needs it"


def test_cancelled_it_is_deleted_as_it_was(world: World, disabled: Json) -> None:
    (before,) = deleted(world)
    world.east.produce = False
    job = world.call("POST", "/items/deleted/web/restore", status=202)["job"]["id"]
    world.until(lambda: world.east.replications != {})
    assert deleted(world) == []
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    assert world.wait(job)["state"] == "cancelled"
    assert deleted(world) == [before]
    assert world.east.replications == {}
    world.east.produce = True
    restore(world)
    assert [point["id"] for point in world.points()][:-1] == disabled["points"]


def test_one_that_failed_is_restarted_or_deleted_again(world: World, disabled: Json) -> None:
    world.west.fail["prepare-timeline"] = 2
    failed = restore(world, ends="failed")
    world.expect("EnableFailed")
    again = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert again["state"] == "failed"
    world.run("disable")
    assert deleted(world)[0]["points"] == len(disabled["points"])
    job = restore(world)  # the fork of the first try was never begun: what it would have forked from counts
    assert job["state"] == "succeeded"
    assert [point["id"] for point in world.points()][:-1] == disabled["points"]


@pytest.mark.usefixtures("disabled")
def test_what_is_being_purged_or_protected_anew_stays_deleted(world: World) -> None:
    (item,) = deleted(world)
    world.protected()
    refused = world.call("POST", f"/items/deleted/{item['id']}/restore", status=409)
    assert refused["code"] == "item.protection-refused"
    world.run("disable")
    world.west.in_use = True
    world.call("POST", f"/items/deleted/{item['id']}/purge", status=202)
    world.until(lambda: any(each["waiting"] for each in deleted(world)))
    refused = world.call("POST", f"/items/deleted/{item['id']}/restore", status=409)
    assert refused["code"] == "item.not-restorable"
    assert world.call("GET", "/items")["items"] == []


@pytest.mark.usefixtures("disabled")
def test_after_its_time_it_is_not_taken_up(world: World, vault: LocalVault) -> None:
    (item,) = deleted(world)
    with vault.vault.core.database.write() as session:
        session.get_one(ItemRow, item["id"]).purge_at = now()
    assert world.call("POST", f"/items/deleted/{item['id']}/restore", status=409)["code"] == "item.not-restorable"


def test_a_machine_that_was_away_is_protected_anew(world: World) -> None:
    world.protected()
    world.run("failover")
    world.run("commit")
    world.run("disable")
    refused = world.call("POST", "/items/deleted/web/restore", status=409)
    assert refused["code"] == "item.not-restorable"
    assert "failed over" in refused["cause"]


def test_what_is_protected_or_unknown_is_refused(world: World) -> None:
    world.protected()
    assert world.call("POST", "/items/deleted/web/restore", status=409)["code"] == "item.not-deleted"
    assert world.call("POST", "/items/deleted/nothing/restore", status=404)["code"] == "item.not-found"
