"""A planned failover loses nothing, or is undone."""

from __future__ import annotations

import pytest
from fake_sites import World

PLANNED = {"planned": True}


def test_it_ends_like_any_other_and_starts_from_the_last_changes(world: World) -> None:
    world.protected()
    world.more_points(1)
    done = world.run("failover", PLANNED)
    assert [task["name"] for task in done["tasks"]][:2] == ["look-home", "planned-stop"]
    stopped = next(task["result"]["point"] for task in done["tasks"] if task["name"] == "planned-stop")
    item = world.expect("FailoverCommitPending", failover_point=stopped, commit_policy=None)
    assert item["failover_point"] == world.points()[-1]["id"]
    assert not world.east.machines["web"].running


@pytest.mark.parametrize("changes", [{"shutdown": False}, {"point": "latest-processed"}])
def test_it_excludes_what_would_lose_something(world: World, changes: dict[str, object]) -> None:
    world.protected()
    assert world.begin("failover", {**PLANNED, **changes}, status=422)["code"] == "request.invalid"
    world.expect("Protected", job=None)


@pytest.mark.parametrize("trouble", ["fails", "fails after it", "is incomplete"])
def test_a_stop_that_fails_is_undone(world: World, trouble: str) -> None:
    world.protected()
    before = world.item()["timeline"]
    if trouble == "fails":
        world.east.fail["planned-stop"] = 1
    elif trouble == "fails after it":
        world.east.lose["planned-stop"] = 1
    else:
        world.east.incomplete_stops = 1
    failed = world.run("failover", PLANNED, ends="failed")
    incomplete = trouble == "is incomplete"
    assert failed["error"]["code"] == ("failover.machine-not-stopped" if incomplete else "fake.planned-stop")
    item = world.expect("Protected", active_site="east", failover_point=None)
    assert item["timeline"] != before
    assert world.east.machines["web"].running
    assert item["id"] in world.east.replications
    assert "start-from-point" not in world.west.kinds()
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("FailoverCommitPending")


def test_it_is_refused_while_the_home_site_is_gone(world: World) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    world.until(lambda: world.begin("failover", PLANNED, status=503)["code"] == "site.unreachable", 5)
    world.expect("Protected", job=None)


def test_a_site_that_goes_as_the_job_begins_leaves_the_item_as_it_was(world: World) -> None:
    world.protected()
    world.east.fail["planned-stop"] = 1
    failed = world.run("failover", PLANNED, ends="failed")
    timeline = world.expect("Protected")["timeline"]
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    # A restart is accepted, and sees by itself that nobody is there.
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    failed = world.wait(again["id"])
    assert failed["error"]["code"] == "site.unreachable"
    assert [task["name"] for task in failed["tasks"]] == ["look-home"]
    world.expect("Protected", timeline=timeline)


def test_what_fails_after_the_stop_is_tried_again_or_taken_back(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", PLANNED, ends="failed")
    world.expect("FailoverFailed")
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    assert world.east.kinds().count("planned-stop") == 1
    world.expect("FailoverCommitPending")


def test_one_after_a_failover_that_lost_something_is_not_begun(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 1
    world.run("failover", {"shutdown": False}, ends="failed")
    failed = world.run("failover", PLANNED, ends="failed")
    assert failed["error"]["code"] == "failover.machine-not-stopped"
    world.expect("FailoverFailed")
    world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)
    world.until(lambda: world.item()["state"] == "Protected")
    world.until(lambda: world.item()["job"] is None)
    world.run("failover", PLANNED)


def test_a_paused_machine_ships_its_last_changes_too(world: World) -> None:
    world.protected()
    world.run("pause")
    world.east.fail["planned-stop"] = 1
    world.run("failover", PLANNED, ends="failed")
    item = world.expect("Protected")
    assert item["id"] in world.east.replications
