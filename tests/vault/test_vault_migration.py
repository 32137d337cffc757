"""Completing a migration: the machine stays away, and nothing is left of its protection."""

from __future__ import annotations

import threading

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.domain.operations import Operation
from homeport.vault.steps import VERSIONS, WORKFLOWS


def test_the_machine_stays_and_the_points_of_both_sites_go(world: World) -> None:
    world.protected()
    world.run("failover")
    done = world.run("complete-migration")
    assert [task["name"] for task in done["tasks"]] == ["copy-disks", "forget-away", "forget-home"]
    item = world.expect(
        "Migrated", active_site="west", allowed_operations=["disable"], failover_point=None, last_point=None
    )
    assert item["recovery_machine"]["name"] == "web"
    assert world.west.machines["web"].hydrated
    assert world.west.machines["web"].running
    assert world.west.timelines == {}
    assert world.east.timelines == {}
    assert not world.east.machines["web"].running
    assert world.begin("commit", status=409)["code"] == "item.migrated"
    world.run("disable")
    assert world.call("GET", "/items")["items"] == []
    assert world.west.machines["web"].running


def test_points_are_not_forgotten_before_the_machine_holds_its_disks(world: World) -> None:
    world.protected()
    world.run("failover")
    world.west.in_use = True
    world.west.fail["hydrate"] = 1
    failed = world.run("complete-migration", ends="failed")
    assert failed["error"]["code"] == "fake.hydrate"
    world.expect("MigrationFailed", allowed_operations=["complete-migration", "disable"], health="critical")
    assert world.west.timelines != {}
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("Migrated")


def test_one_that_fails_while_forgetting_is_taken_up_again(world: World) -> None:
    world.protected()
    world.run("failover")
    world.west.lose["forget"] = 1
    failed = world.run("complete-migration", ends="failed")
    world.expect("MigrationFailed")
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("Migrated")


def test_a_home_site_that_is_gone_is_told_when_it_returns(world: World) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    world.run("failover", {"point": "latest-processed"})
    done = world.run("complete-migration")
    assert any("site.unreachable" in note for note in done["result"]["notes"])
    world.expect("Migrated")
    world.east.begin()
    world.until(lambda: "forget" in world.east.kinds())
    world.until(lambda: not world.east.machines["web"].running)
    assert world.east.machines["web"].fenced is not None


def held(world: World, site: str, kind: str) -> threading.Event:
    """Work of this kind is not done before the event; returns another one that is set when it has come."""
    at = world.sites[site]
    at.hold[kind], at.entered[kind] = threading.Event(), threading.Event()
    return at.entered[kind]


def test_cancelled_while_the_disks_are_copied_all_is_as_before(world: World) -> None:
    """At once: the copying at the site isn't waited for, goes on, and does no harm."""
    world.protected()
    world.run("failover")
    entered = held(world, "west", "hydrate")
    job = world.begin("complete-migration")["id"]
    assert entered.wait(20)
    assert world.call("GET", f"/jobs/{job}")["allowed"] == ["cancel"]
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    assert world.wait(job)["state"] == "cancelled"
    world.expect("FailoverCommitPending", active_site="west", job=None)
    assert world.west.timelines != {}
    assert "forget" not in world.west.kinds()
    world.west.hold.pop("hydrate").set()
    world.run("undo")
    world.expect("Protected", active_site="east")


def test_it_can_not_be_cancelled_once_the_points_are_being_forgotten(world: World) -> None:
    world.protected()
    world.run("failover")
    entered = held(world, "west", "forget")
    job = world.begin("complete-migration")["id"]
    assert entered.wait(20)
    assert world.call("GET", f"/jobs/{job}")["allowed"] == []
    assert world.call("POST", f"/jobs/{job}/cancel", status=409)["code"] == "job.past-no-return"
    world.west.hold.pop("forget").set()
    assert world.wait(job)["state"] == "succeeded"
    world.expect("Migrated")


def test_one_that_the_release_before_began_is_not_cancelled(
    vault: LocalVault, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.protected()
    world.run("failover")
    entered = held(world, "west", "hydrate")
    with monkeypatch.context() as before:
        before.setitem(WORKFLOWS, Operation.COMPLETE_MIGRATION, VERSIONS["complete-migration.v1"])
        job = world.begin("complete-migration")["id"]
        assert entered.wait(20)
        vault.stop()
    vault.start()
    assert world.call("POST", f"/jobs/{job}/cancel", status=409)["code"] == "job.past-no-return"
    world.west.hold.pop("hydrate").set()
    done = world.wait(job)
    assert [task["name"] for task in done["tasks"]] == ["hydrate", "forget-away", "forget-home"]
    world.expect("Migrated")
