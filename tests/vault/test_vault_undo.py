"""Undo: until the commit a failover is taken back, and what the recovery machine wrote is kept for a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.vault.database import ItemRow


def discarded(vault: LocalVault, world: World) -> list[dict[str, str]]:
    with vault.vault.core.database.read() as session:
        found: list[dict[str, str]] = session.get_one(ItemRow, world.item()["id"]).ties.get("discarded", [])
    return found


def make_due(vault: LocalVault, world: World) -> None:
    """As if a day had passed."""
    with vault.vault.core.database.write() as session:
        item = session.get_one(ItemRow, world.item()["id"])
        past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
        item.ties = {**item.ties, "discarded": [{**each, "until": past} for each in item.ties["discarded"]]}


@pytest.mark.parametrize("shutdown", [True, False])
def test_the_machine_goes_on_at_home_in_a_fork(vault: LocalVault, world: World, shutdown: bool) -> None:
    world.protected()
    world.more_points(2)
    before = world.item()["timeline"]
    done = world.run("failover", {"shutdown": shutdown})
    chosen = done["result"]["point"]
    done = world.run("undo")
    kept = done["result"]["discarded"]
    item = world.expect("Protected", active_site="east", failover_point=None, recovery_machine=None, commit_policy=None)
    assert item["timeline"] not in (before, kept["timeline"])
    assert world.east.machines["web"].running
    assert world.east.machines["web"].fenced is None
    assert "web" not in world.west.machines
    assert world.west.timelines[kept["timeline"]].parent == chosen
    assert kept["point"] == f"{kept['timeline']}/0"
    left = datetime.fromisoformat(kept["until"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    assert any(kept["point"] in note for note in done["result"]["notes"])
    assert kept["timeline"] not in {point["id"].split("/")[0] for point in world.points()}
    assert world.east.replications[item["id"]]["tracker_base"] == (chosen if shutdown else None)
    world.more_points(1)
    make_due(vault, world)
    world.until(lambda: kept["timeline"] not in world.west.timelines)
    world.until(lambda: discarded(vault, world) == [])
    world.run("failover")
    world.expect("FailoverCommitPending")


def test_two_undone_failovers_are_kept_apart_and_both_dropped(vault: LocalVault, world: World) -> None:
    world.protected()
    names = []
    for _ in range(2):
        world.run("failover")
        names.append(world.run("undo")["result"]["discarded"]["timeline"])
    assert [each["timeline"] for each in discarded(vault, world)] == names
    assert set(names) <= set(world.west.timelines)
    world.west.fail["drop-timeline"] = 1  # tried again
    make_due(vault, world)
    world.until(lambda: not set(names) & set(world.west.timelines))
    world.until(lambda: discarded(vault, world) == [])


def test_it_is_refused_while_the_home_site_is_gone(world: World) -> None:
    world.protected()
    world.run("failover")
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    world.until(lambda: world.begin("undo", status=503)["code"] == "site.unreachable", 5)
    world.expect("FailoverCommitPending", job=None, active_site="west")
    assert world.west.machines["web"].running


@pytest.mark.parametrize("kind", ["stop-machine", "import-base"])
def test_what_can_not_be_kept_is_not_given_up(world: World, kind: str) -> None:
    world.protected()
    chosen = world.run("failover")["result"]["point"]
    world.west.fail[kind] = 1
    failed = world.run("undo", ends="failed")
    assert failed["error"]["code"] == f"fake.{kind}"
    world.expect("FailoverCommitPending", active_site="west", failover_point=chosen)
    assert world.west.machines["web"].running
    assert not world.east.machines["web"].running
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    done = world.wait(again["id"])
    assert done["state"] == "succeeded"
    assert done["result"]["discarded"]["timeline"] in world.west.timelines
    world.expect("Protected")


@pytest.mark.parametrize("kind", ["remove-machine", "end-timeline", "prepare-timeline"])
def test_one_that_fails_on_the_way_home_is_finished_by_cancelling_it(world: World, kind: str) -> None:
    world.protected()
    world.run("failover")
    world.west.fail[kind] = 1
    failed = world.run("undo", ends="failed")
    world.expect("FailoverFailed")
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert back["kind"] == "cancel-failover"
    assert world.wait(back["id"])["state"] == "succeeded"
    world.expect("Protected", active_site="east", recovery_machine=None)
    assert "web" not in world.west.machines


def test_a_recovery_machine_that_vanished_leaves_nothing_to_keep(world: World) -> None:
    world.protected()
    world.run("failover")
    del world.west.machines["web"]
    done = world.run("undo")
    assert done["result"]["discarded"] is None
    world.expect("Protected")


def test_an_undo_is_not_cancelled(world: World) -> None:
    world.protected()
    done = world.run("failover")
    world.run("undo")
    last = world.call("GET", "/jobs", limit=1)["jobs"][0]
    assert last["kind"] == "undo"
    assert world.call("POST", f"/jobs/{last['id']}/cancel", status=409)["code"] == "job.not-cancellable"
    assert done["state"] == "succeeded"
