"""Pause and resume: replication stops and goes on, points stay offered, nothing forgets that it is paused."""

from __future__ import annotations

from fake_sites import World
from vault_process import LocalVault


def test_a_paused_item_keeps_its_points_and_goes_on_where_it_was(world: World) -> None:
    world.protected()
    world.more_points(2)
    before, points = world.item(), world.points()
    params = world.east.replications[before["id"]]
    world.run("pause")
    item = world.expect("Paused", direction="forward", timeline=before["timeline"], job=None)
    assert world.east.replications == {}
    assert item["allowed_operations"] == ["test-failover", "failover", "resume", "disable"]
    assert [point["id"] for point in world.points()] == [point["id"] for point in points]
    assert item["rpo_seconds"] > 0
    assert any("paused" in reason for reason in item["health_reasons"])
    assert world.begin("point", status=409)["code"] == "item.paused"
    world.run("resume")
    world.expect("Protected", timeline=before["timeline"])
    again = world.east.replications[before["id"]]
    anew = {"fence", "policy_at"}
    assert {name: again[name] for name in again if name not in anew} == {
        name: params[name] for name in params if name not in anew
    }
    world.more_points(1)


def test_a_pause_survives_the_restart_of_the_vault_and_of_the_site(vault: LocalVault, world: World) -> None:
    world.protected()
    world.run("pause")
    world.east.die()
    world.east.join()
    vault.stop()
    vault.start()
    world.east.begin()
    assert world.east.replications == {}
    world.expect("Paused")
    world.run("resume")
    world.expect("Protected")
    assert len(world.east.replications) == 1


def test_a_test_failover_of_a_paused_item_leads_back_to_the_pause(world: World) -> None:
    world.protected()
    world.run("pause")
    world.west.fail["start-from-point"] = 1
    world.run("test-failover", ends="failed")
    world.expect("Paused")
    world.run("test-failover")
    world.expect("TestFailoverCleanupPending")
    world.run("cleanup")
    world.expect("Paused")
    world.run("resume")
    world.expect("Protected")


def test_a_pause_that_fails_leaves_replication_as_it_was(world: World) -> None:
    world.protected()
    item = world.item()
    world.east.lose["stop-replication"] = 1  # it stopped, and the vault was told that it didn't
    failed = world.run("pause", ends="failed")
    assert failed["error"]["code"] == "fake.stop-replication"
    world.expect("Protected", job=None)
    world.until(lambda: item["id"] in world.east.replications)
    world.more_points(1)
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("Paused")
    assert world.east.replications == {}


def test_a_site_that_is_away_is_not_paused(world: World) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    assert world.run("pause", ends="failed")["error"]["code"] == "site.unreachable"
    world.expect("Protected")
    world.east.begin()
    assert len(world.east.replications) == 1


def test_a_resume_that_fails_stays_paused(world: World) -> None:
    world.protected()
    world.run("pause")
    world.east.fail["replicate"] = 1
    failed = world.run("resume", ends="failed")
    world.expect("Paused")
    world.east.phase, world.east.error = "error", {"code": "store.full", "cause": "The store is full."}
    failed = world.run("resume", ends="failed")
    assert failed["error"]["code"] == "replication.not-resumed"
    world.expect("Paused")
    assert world.east.replications == {}
    world.east.phase, world.east.error = "replicating", None
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("Protected")


def test_a_failover_ends_the_pause(world: World) -> None:
    world.protected()
    world.run("pause")
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", {"shutdown": False}, ends="failed")
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert world.wait(back["id"])["state"] == "succeeded"
    item = world.expect("Protected")
    assert item["id"] in world.east.replications
    world.run("test-failover")
    world.run("cleanup")
    world.expect("Protected")


def test_the_way_home_is_paused_too(world: World) -> None:
    world.protected()
    world.run("failover")
    world.run("commit")
    world.run("reprotect")
    params = world.west.replications[world.item()["id"]]
    world.run("pause")
    item = world.expect("Paused", direction="reverse", active_site="west")
    assert item["allowed_operations"] == ["failback", "resume", "disable"]
    world.run("resume")
    item = world.expect("ReverseProtected")
    again = world.west.replications[item["id"]]
    assert [again[name] for name in ("tracker_base", "same_as", "retention", "store")] == [
        params[name] for name in ("tracker_base", "same_as", "retention", "store")
    ]
    world.run("pause")
    world.run("failback")
    world.expect("FailbackCommitPending", active_site="east")
