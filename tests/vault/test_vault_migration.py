"""Completing a migration: the machine stays away, and nothing is left of its protection."""

from __future__ import annotations

from fake_sites import World


def test_the_machine_stays_and_the_points_of_both_sites_go(world: World) -> None:
    world.protected()
    world.run("failover")
    done = world.run("complete-migration")
    assert [task["name"] for task in done["tasks"]] == ["hydrate", "forget-away", "forget-home"]
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
