"""What the vault does by itself: commit policies, and dropping what was kept for a while."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.vault.database import ItemRow


def in_the_past(vault: LocalVault, world: World, tie: str) -> None:
    """As if the time of the item's tie had come."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with vault.vault.core.database.write() as session:
        item = session.get_one(ItemRow, world.item()["id"])
        found: Any = item.ties[tie]
        due = {**found, "at": past} if isinstance(found, dict) else [{**each, "until": past} for each in found]
        item.ties = {**item.ties, tie: due}


def jobs_of(world: World, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.call("GET", "/jobs")["jobs"]
    return [job for job in found if job["kind"] == kind]


def failed_over(world: World, policy: str, after: int = 3600) -> None:
    world.protected()
    world.run("failover", {"commit_policy": policy, "commit_after": after})


def test_the_policy_and_its_instant_are_shown(world: World) -> None:
    failed_over(world, "auto-commit")
    policy = world.expect("FailoverCommitPending")["commit_policy"]
    assert policy["action"] == "auto-commit"
    left = datetime.fromisoformat(policy["at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


@pytest.mark.parametrize("after", [59, 7 * 86400 + 1])
def test_a_delay_out_of_range_is_refused(world: World, after: int) -> None:
    world.protected()
    refused = world.begin("failover", {"commit_policy": "auto-commit", "commit_after": after}, status=422)
    assert refused["code"] == "request.invalid"


@pytest.mark.parametrize(
    ("policy", "kind", "state"),
    [("auto-commit", "commit", "FailoverCommitted"), ("auto-rollback", "undo", "Protected")],
)
def test_a_policy_that_is_due_acts_once(vault: LocalVault, world: World, policy: str, kind: str, state: str) -> None:
    failed_over(world, policy)
    in_the_past(vault, world, "commit_policy")
    world.until(lambda: world.item()["state"] == state)
    world.until(lambda: world.item()["commit_policy"] is None)
    threading.Event().wait(0.6)
    assert [job["state"] for job in jobs_of(world, kind)] == ["succeeded"]


@pytest.mark.parametrize("policy", ["auto-commit", "auto-rollback"])
def test_one_that_became_due_while_the_vault_was_away_acts_when_it_is_back(
    vault: LocalVault, world: World, policy: str
) -> None:
    failed_over(world, policy)
    world.west.hold["stop-machine"] = threading.Event()
    in_the_past(vault, world, "commit_policy")
    vault.stop()
    world.west.hold.pop("stop-machine").set()
    vault.start()
    done = "FailoverCommitted" if policy == "auto-commit" else "Protected"
    world.until(lambda: world.item()["state"] == done, 40)
    threading.Event().wait(0.6)
    kind = "commit" if policy == "auto-commit" else "undo"
    assert [job["state"] for job in jobs_of(world, kind)] == ["succeeded"]


@pytest.mark.parametrize("decision", ["commit", "undo", "change-point"])
def test_an_operator_who_decides_takes_its_place(vault: LocalVault, world: World, decision: str) -> None:
    failed_over(world, "auto-rollback")
    world.run(decision, {"point": world.points()[0]["id"]} if decision == "change-point" else {})
    assert world.item()["commit_policy"] is None


def test_what_fails_is_noted_and_tried_again(vault: LocalVault, world: World) -> None:
    core = vault.vault.core
    core.timeouts = replace(core.timeouts, timer_retry=3600)  # it stays noted until it is looked at
    failed_over(world, "auto-rollback")
    world.west.fail["stop-machine"] = 1
    in_the_past(vault, world, "commit_policy")
    world.until(lambda: "error" in (world.item()["commit_policy"] or {}))
    noted = world.item()["commit_policy"]
    assert noted["error"]["code"] == "fake.stop-machine"
    assert datetime.fromisoformat(noted["at"]) > datetime.now(UTC) + timedelta(minutes=50)
    in_the_past(vault, world, "commit_policy")
    world.until(lambda: world.item()["state"] == "Protected")
    assert [job["state"] for job in jobs_of(world, "undo")] == ["succeeded", "failed"]


def test_a_rollback_waits_for_the_home_site(vault: LocalVault, world: World) -> None:
    failed_over(world, "auto-rollback")
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    in_the_past(vault, world, "commit_policy")
    world.until(lambda: "error" in (world.item()["commit_policy"] or {}))
    assert world.item()["commit_policy"]["error"]["code"] == "site.unreachable"
    world.expect("FailoverCommitPending")
    world.east.begin()
    world.until(lambda: world.item()["state"] == "Protected")


def test_points_that_a_commit_left_are_dropped_when_their_retention_ends(vault: LocalVault, world: World) -> None:
    world.protected()
    world.more_points(3)
    tagged = world.run("point", {"tag": "before patch"})["result"]["point"]
    chosen = world.run("failover")["result"]["point"]
    timeline = world.item()["timeline"]
    done = world.run("commit")
    assert [each["timelines"] for each in done["result"]["points_kept"]] == [[timeline]]
    offered = len(world.points())
    assert offered > 3
    world.west.fail["drop-points"] = 1  # tried again
    in_the_past(vault, world, "kept")
    assert world.points() == []
    left = [tagged, chosen]
    world.until(lambda: [f"{timeline}/{number}" for number in world.west.timelines[timeline].points] == left)
    world.run("reprotect")
    world.run("failback")
    world.run("commit", {"erase_points": True})
    assert world.points() == []
    world.run("reprotect")
    world.expect("Protected")


def test_points_are_erased_at_once_where_that_is_asked_for(world: World) -> None:
    world.protected()
    world.more_points(3)
    chosen = world.run("failover", {"point": world.points()[1]["id"]})["result"]["point"]
    timeline = world.item()["timeline"]
    final = max(world.west.timelines[timeline].points)
    done = world.run("commit", {"erase_points": True})
    assert done["result"]["points_kept"] == []
    world.expect("FailoverCommitted", last_point=None)
    assert world.points() == []
    # What the recovery machine lies on stays, and the newest, which the reprotect compares with.
    assert {f"{timeline}/{number}" for number in world.west.timelines[timeline].points} == {
        chosen,
        f"{timeline}/{final}",
    }
    world.run("reprotect")
    world.expect("ReverseProtected")
