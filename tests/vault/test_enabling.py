"""Protecting with properties, finalizing, and ending the protection: what is kept, purged, and told to whom."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.domain.machines import Nic
from homeport.vault import deleted
from homeport.vault.database import ItemRow, SiteRow, now
from homeport.vault.steps import VERSIONS

Json = dict[str, Any]
GiB = 1 << 30


def asked(world: World, site: str, kind: str) -> list[Json]:
    return [params for found, params in world.sites[site].calls if found == kind]


def refused(world: World, code: str, *, status: int, **changes: Any) -> Json:
    found = world.protect(status=status, **changes)
    assert found["code"] == code, found
    assert world.call("GET", "/items")["items"] == []
    return found


# ── finalize protection ─────────────────────────────────────────────────────────────────────────────────────────────


def test_protection_is_final_when_the_other_site_has_opened_the_first_point(world: World) -> None:
    job = world.wait(world.protect(exclude_disks=["disk1"])["job"]["id"])
    assert [task["name"] for task in job["tasks"]][-1] == "finalize"
    assert job["result"]["verified"]["disks"] == {"disk0": 1}
    (verified,) = asked(world, "west", "verify-point")
    assert verified["point"] == job["result"]["point"]
    assert verified["disks"] == ["disk0"]
    assert world.item()["state"] == "Protected"


def test_no_failover_is_offered_before_and_a_point_that_fails_the_check_fails_the_job(world: World) -> None:
    world.west.fail["verify-point"] = 1
    failed = world.wait(world.protect()["job"]["id"])
    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "fake.verify-point"
    item = world.expect("EnableFailed")
    assert "failover" not in item["allowed_operations"]
    assert "test-failover" not in item["allowed_operations"]
    again = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert again["state"] == "succeeded"


def note_gateway(vault: LocalVault, gateway: Json | None) -> None:
    with vault.vault.core.database.write() as session:
        session.get_one(SiteRow, "west").gateway = gateway


def test_servers_that_were_started_just_now_are_given_time_to_tell_where_the_store_takes_changes(
    vault: LocalVault, world: World
) -> None:
    note_gateway(vault, None)
    job = world.protect()["job"]["id"]

    def waits() -> bool:
        found = world.call("GET", f"/jobs/{job}")
        assert found["state"] in ("queued", "running"), found
        return any(task["name"] == "replicate" and task["state"] == "running" for task in found["tasks"])

    world.until(waits)
    note_gateway(vault, {"url": "tcp://west", "token": "t"})
    done = world.wait(job)
    assert done["state"] == "succeeded", done


def test_a_store_that_takes_no_changes_fails_the_job_with_the_reason(vault: LocalVault, world: World) -> None:
    core = vault.vault.core
    core.timeouts = replace(core.timeouts, silence=1)
    note_gateway(vault, None)
    failed = world.wait(world.protect()["job"]["id"])
    assert failed["error"]["code"] == "site.unreachable"
    assert "'west' never told" in failed["error"]["cause"]
    note_gateway(vault, {"url": "tcp://west", "token": "t"})
    again = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert again["state"] == "succeeded"


def test_a_cancel_that_leaves_something_at_a_site_that_is_away_says_so(vault: LocalVault, world: World) -> None:
    begins = world.east.hold["replicate"] = threading.Event()
    job = world.protect()["job"]["id"]
    world.until(lambda: any(task["name"] == "replicate" for task in world.call("GET", f"/jobs/{job}")["tasks"]))
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    world.west.die()
    begins.set()
    done = world.wait(job)
    assert done["state"] == "cancelled"
    assert any("'west'" in note for note in done["result"]["notes"]), done["result"]


# ── properties of the target ────────────────────────────────────────────────────────────────────────────────────────


def test_the_machine_is_made_with_the_properties_that_were_chosen(world: World) -> None:
    world.east.descriptions["web"] = replace(world.east.descriptions["web"], nics=(Nic("52:54:00:00:00:01"),))
    world.west.networks = ["default", "isolated", "blue"]
    world.call("GET", "/sites/west/machines", refresh=True)
    done = world.wait(
        world.protect(
            name="web-dr", cpus=3, memory=2 * GiB, network="blue", ip="10.0.2.40", exclude_disks=["disk1"], tags=["dr"]
        )["job"]["id"]
    )
    assert done["state"] == "succeeded", done
    shown = world.item()
    assert shown["name"] == "web"
    assert shown["target"]["tags"] == ["dr"]
    assert shown["target_machine"]["name"] == "web-dr"
    assert [disk["id"] for disk in shown["target_machine"]["disks"]] == ["disk0"]
    assert world.east.replications[shown["id"]]["exclude"] == ["disk1"]
    test = world.run("test-failover")
    assert world.item()["test"]["machine"] == "web-dr-test"
    assert any("disk1" in note for note in test["result"]["notes"])
    world.run("cleanup")
    made = world.run("failover")
    assert any("without disk1" in note for note in made["result"]["notes"])
    params = asked(world, "west", "start-from-point")[-1]
    assert params["vm"] == "web-dr"
    like = params["like"]
    assert (like["cpus"], like["memory"]) == (3, 2 * GiB)
    assert [disk["id"] for disk in like["disks"]] == ["disk0"]
    assert (like["nics"][0]["network"], like["nics"][0]["ip"]) == ("blue", "10.0.2.40")
    assert world.item()["recovery_machine"]["name"] == "web-dr"


def test_a_machine_of_another_name_goes_the_whole_way_and_comes_home(world: World) -> None:
    world.wait(world.protect(name="web-dr", exclude_disks=["disk1"])["job"]["id"])
    for operation in ("failover", "commit", "reprotect"):
        world.run(operation)
    assert asked(world, "west", "replicate")[-1]["vm"] == "web-dr"
    assert asked(world, "east", "import-base")[-1]["vm"] == "web"
    assert asked(world, "east", "import-base")[-1]["exclude"] == ["disk1"]
    for operation in ("failback", "commit", "reprotect"):
        world.run(operation)
    assert asked(world, "west", "planned-stop")[-1]["vm"] == "web-dr"
    assert asked(world, "west", "remove-machine")[-1]["vm"] == "web-dr"
    assert asked(world, "east", "write-disks")[-1]["exclude"] == ["disk1"]
    assert asked(world, "east", "start-original")[-1]["vm"] == "web"
    world.expect("Protected")
    assert sorted(world.west.machines) == []
    assert world.east.machines["web"].running


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [
        ({"exclude_disks": ["disk0"]}, "protect.boot-disk-excluded", 422),
        ({"exclude_disks": ["disk7"]}, "protect.disk-unknown", 422),
        ({"cpus": 0}, "item.target-invalid", 422),
        ({"cpus": 256}, "item.target-invalid", 422),
        ({"memory": 1}, "item.target-invalid", 422),
        ({"name": "a name/"}, "item.target-invalid", 422),
        ({"ip": "224.0.0.1"}, "item.target-invalid", 422),
        ({"ip": "10.0.2"}, "item.target-invalid", 422),
        ({"tags": [""]}, "item.target-invalid", 422),
        ({"network": "red"}, "70038", 409),
        ({"name": "taken"}, "protect.name-taken", 409),
        ({"policy": "none"}, "78253", 409),
        ({"policy": "gold-failback"}, "78253", 409),
    ],
)
def test_what_the_machine_can_not_be_is_refused_at_once(world: World, changes: Json, code: str, status: int) -> None:
    world.west.networks = ["default", "isolated"]
    world.west.descriptions["taken"] = replace(world.east.descriptions["web"], uuid="another", name="taken")
    world.call("GET", "/sites/west/machines", refresh=True)
    refused(world, code, status=status, **changes)


def test_properties_are_changed_and_checked(world: World) -> None:
    world.protected()
    world.west.networks = ["default", "isolated", "blue"]
    world.call("GET", "/sites/west/machines", refresh=True)
    changed = world.call("PATCH", "/items/web", {"cpus": 2, "memory": GiB, "network": "blue", "name": "web-dr"})
    assert changed["target_machine"]["name"] == "web-dr"
    assert changed["target"]["network"] == "blue"
    assert world.call("PATCH", "/items/web", {"cpus": None})["target"] == {**changed["target"], "cpus": None}
    for body, code, status in (
        ({"cpus": -1}, "item.target-invalid", 422),
        ({"network": "red"}, "70038", 409),
        ({"colour": "red"}, "request.invalid", 422),
        ({"policy": "none"}, "78253", 409),
    ):
        assert world.call("PATCH", "/items/web", body, status=status)["code"] == code
    assert world.item()["target"] == {**changed["target"], "cpus": None}
    assert world.call("PATCH", "/items/nothing", {"cpus": 1}, status=404)["code"] == "item.not-found"


def test_a_network_that_is_gone_is_told_and_keeps_no_machine_down(world: World) -> None:
    world.west.networks = ["default", "isolated", "blue"]
    world.call("GET", "/sites/west/machines", refresh=True)
    world.wait(world.protect(network="blue")["job"]["id"])
    world.west.networks = ["default", "isolated"]
    world.call("GET", "/sites/west/machines", refresh=True)
    done = world.run("failover")
    assert any("'blue'" in note and "70038" in note for note in done["result"]["notes"])


def test_the_name_stays_while_the_machine_has_it(world: World) -> None:
    world.protected()
    world.run("failover")
    found = world.call("PATCH", "/items/web", {"name": "web-dr"}, status=409)
    assert found["code"] == "item.name-fixed"
    assert world.call("PATCH", "/items/web", {"memory": GiB})["target"]["memory"] == GiB


def test_two_items_are_not_recovered_under_one_name(world: World) -> None:
    world.protected()
    other = replace(world.east.descriptions["web"], uuid="5b0c2a52-0000-4000-8000-000000000009", name="other")
    world.east.descriptions["other"] = other
    found = world.protect(machine="other", name="web", status=409)
    assert found["code"] == "protect.name-taken"
    assert found["details"]["item"] == world.item()["id"]


def test_another_policy_counts_at_once(world: World) -> None:
    world.call("POST", "/policies", {"name": "silver", "rpo_threshold": 3600, "interval": 60}, status=201)
    world.protected()
    assert world.call("PATCH", "/items/web", {"policy": "silver"})["policy"] == "silver"
    found = world.call("GET", "/agent/east/replications")["replications"]
    assert found[0]["interval"] == 60


# ── the end of a protection ─────────────────────────────────────────────────────────────────────────────────────────


def kept(world: World) -> list[Json]:
    found: list[Json] = world.call("GET", "/items/deleted")["items"]
    return found


def test_points_of_a_disabled_item_are_kept_and_listed_until_they_are_purged(world: World) -> None:
    world.protected()
    world.more_points()
    item = world.item()
    done = world.run("disable")
    assert done["result"]["points_kept_until"]
    assert world.call("GET", "/items")["items"] == []
    assert world.west.timelines[item["timeline"]].ended
    assert asked(world, "east", "forget")[-1]["timelines"] == []
    (listed,) = kept(world)
    assert (listed["id"], listed["name"]) == (item["id"], "web")
    assert listed["points"] == len(world.west.timelines[item["timeline"]].points)
    assert world.call("POST", "/items/deleted/web/purge", status=202)["item"]["id"] == item["id"]
    world.until(lambda: kept(world) == [])
    assert world.west.timelines == {}
    assert world.west.shredded == [item["machine"]]


def test_points_are_dropped_when_their_time_has_come(world: World, vault: LocalVault) -> None:
    world.protected()
    item = world.item()["id"]
    world.run("disable")
    core = vault.vault.core
    deleted.drop_due(core)
    assert "purge" not in world.west.kinds()
    assert world.west.timelines != {}
    with core.database.write() as session:
        row = session.get_one(ItemRow, item)
        assert row.purge_at is not None
        assert timedelta(days=13) < row.purge_at - now() <= deleted.KEPT
        row.purge_at = now()
    world.until(lambda: kept(world) == [])
    assert world.west.timelines == {}


def test_a_purge_that_a_site_does_not_do_waits_for_it(world: World, vault: LocalVault) -> None:
    world.protected()
    world.west.in_use = True
    done = world.run("disable", {"purge": True})
    assert done["result"]["points_kept_until"] is None
    world.until(lambda: bool(kept(world)) and kept(world)[0]["waiting"] is not None)
    assert "store.in-use" in kept(world)[0]["waiting"][0]
    assert world.west.timelines != {}
    world.west.in_use = False
    world.call("POST", "/items/deleted/web/purge", status=202)
    world.until(lambda: kept(world) == [])
    assert world.west.timelines == {}


def test_a_purge_shreds_the_key_and_the_next_protection_has_another(world: World) -> None:
    world.protected()
    keys = world.east.replications[world.item()["id"]]["keys"]
    world.run("disable", {"purge": True})
    assert kept(world) == []
    assert world.west.timelines == {}
    assert world.west.shredded == [keys and asked(world, "west", "purge")[-1]["machine"]]
    world.protected()
    assert world.east.replications[world.item()["id"]]["keys"] != keys


def test_kept_points_outlive_a_purge_of_the_machines_next_protection(world: World) -> None:
    world.protected()
    first = world.item()["timeline"]
    world.run("disable")
    world.protected()
    second = world.item()["timeline"]
    world.run("disable", {"purge": True})
    assert set(world.west.timelines) == {first}
    assert second not in world.west.timelines
    assert world.west.shredded == []
    (listed,) = kept(world)
    world.call("POST", f"/items/deleted/{listed['id']}/purge", status=202)
    world.until(lambda: kept(world) == [])
    assert len(world.west.shredded) == 1


def test_a_source_that_is_gone_is_told_when_it_returns(world: World) -> None:
    world.protected()
    timeline = world.item()["timeline"]
    world.east.die()
    done = world.run("disable", {"source_gone": True})
    assert any("east" in note and "returns" in note for note in done["result"]["notes"])
    assert [task["name"] for task in done["tasks"]] == ["stop-replication", "end-timeline", "forget"]
    assert world.west.timelines[timeline].ended
    assert "forget" not in world.east.kinds()
    world.east.begin()
    world.until(lambda: "forget" in world.east.kinds())
    assert world.east.replications == {}


def test_what_is_protected_can_not_be_purged_and_what_is_not_kept_is_not_found(world: World) -> None:
    world.protected()
    assert world.call("POST", "/items/deleted/web/purge", status=409)["code"] == "item.not-deleted"
    assert world.call("POST", "/items/deleted/none/purge", status=404)["code"] == "item.not-found"


def test_released_versions_keep_their_steps() -> None:
    protect = ["begin", "check", "prepare-timeline", "replicate", "first-point", "undo-stop", "undo-forget"]
    assert list(VERSIONS["protect.v1"].steps) == [*protect, "finish", "fail", "cancelled"]
    second = [*protect[:5], "finalize", *protect[5:]]
    assert list(VERSIONS["protect.v2"].steps) == [*second, "finish", "fail", "cancelled"]
    assert list(VERSIONS["disable.v1"].steps) == ["begin", "stop-replication", "forget", "finish", "fail"]
