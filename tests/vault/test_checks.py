"""Checks at work: they refuse before anything has begun, warn in the health, and never wait for a site that is gone."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_sites import FakeTimeline, World
from vault_process import QUICK, LocalVault

from homeport.domain.points import PointId
from homeport.domain.units import GiB, MiB
from homeport.vault import checks
from homeport.vault.database import CheckRow, SiteRow

Json = dict[str, Any]


def roomy(**changes: Any) -> Json:
    """What a site tells that could run the machine."""
    facts = {
        "clock": datetime.now(UTC).isoformat(),
        "host": "a host of its own",
        "free_memory": 8 * GiB,
        "total_memory": 16 * GiB,
        "cpus": 8,
        "free_disk": 100 * GiB,
        "accelerator": {"kind": "tcg", "why": "no kvm"},
        "networks": ["default", "isolated"],
        "quota": {},
        "privileges": {"write-folder": {"held": True, "why": ""}, "run-qemu": {"held": True, "why": ""}},
        "store": {"reachable": True, "why": "", "free": 100 * GiB},
        **{
            name: {
                "path": "/x",
                "free": 9 * GiB,
                "total": 9 * GiB,
                "device": name,
                "filesystem": "xfs",
                "writable": True,
            }
            for name in ("cache", "retention", "folder")
        },
    }
    return {**facts, **changes}


@pytest.fixture
def told(world: World) -> World:
    """Both sites tell facts by which every check passes; web wants 1 GiB."""
    world.east.descriptions["web"] = replace(world.east.descriptions["web"], memory=GiB, cpus=2)
    world.east.facts, world.west.facts = roomy(host="one"), roomy(host="another")
    return world


def codes(answer: Json) -> list[tuple[str, str]]:
    return [(finding["code"], finding["severity"]) for finding in answer["findings"]]


def look(world: World, **query: Any) -> Json:
    return world.call("POST", "/items/web/checks", **query)


def last(world: World) -> Json:
    return world.call("GET", "/items/web/checks")


def test_nothing_is_found_where_all_is_well_but_what_is_new(told: World) -> None:
    told.protected()
    answer = look(told)
    assert codes(answer) == [("check.passphrase-unconfirmed", "info")]
    assert answer["item_name"] == "web"
    assert datetime.fromisoformat(answer["due"]) - datetime.fromisoformat(answer["at"]) >= timedelta(hours=11)
    assert last(told) == answer


def test_a_shortfall_refuses_a_test_with_figures_and_begins_nothing(told: World) -> None:
    told.protected()
    told.west.facts = roomy(free_memory=512 * MiB)
    refused = told.begin("test-failover", status=409)
    assert refused["code"] == "8038"
    assert "512.0 MiB are free at site 'west', of 16.0 GiB in all" in refused["cause"]
    assert "1.0 GiB for web" in refused["cause"]
    assert refused["remedy"]
    assert refused["details"]["findings"][0]["causes"]
    told.expect("Protected", job=None)
    assert "start-from-point" not in told.west.kinds()
    told.west.facts = roomy()
    told.run("test-failover")


def test_a_failover_goes_on_where_a_test_would_wait(told: World) -> None:
    told.protected()
    told.west.facts = roomy(free_memory=512 * MiB, quota={"machines": 0})
    assert told.begin("failover", {"planned": True}, status=409)["code"] in ("8038", "28031")
    told.run("failover")


def test_a_failover_that_can_only_fail_is_refused_before_the_machine_is_stopped(told: World) -> None:
    told.protected()
    told.west.facts = roomy(store={"reachable": False, "why": "not mounted", "free": None})
    refused = told.begin("failover", status=409)
    assert refused["code"] == "check.store-unreachable"
    assert "not mounted" in refused["cause"]
    assert told.east.machines["web"].running
    assert "planned-stop" not in told.east.kinds()


def test_a_failover_does_not_wait_long_for_facts(told: World) -> None:
    told.protected()
    told.west.facts = roomy(free_memory=1, total_memory=1)
    told.west.hold["inventory"] = held = threading.Event()
    begun = time.monotonic()
    job = told.begin("failover")
    assert time.monotonic() - begun < 2 * checks.HURRY
    held.set()
    assert told.wait(job["id"])["state"] == "succeeded"


def test_a_refusal_by_the_state_comes_before_one_by_a_check(told: World) -> None:
    told.protected()
    told.west.facts = roomy(store={"reachable": False})
    assert told.begin("failback", status=409)["code"].startswith("item.")


def test_protection_is_refused_where_the_store_has_no_room(told: World) -> None:
    told.west.facts = roomy(store={"reachable": True, "why": "", "free": MiB})
    assert told.protect(status=409)["code"] == "check.store-full"
    assert told.call("GET", "/items")["items"] == []
    told.west.facts = roomy()
    told.protected()


def test_a_stranger_that_took_the_name_since_refuses_a_failover_too(told: World) -> None:
    told.protected()
    told.west.descriptions["web"] = replace(told.east.descriptions["web"], uuid="another")
    assert told.begin("failover", status=409)["code"] == "78052"
    assert "planned-stop" not in told.east.kinds()


def test_a_reprotect_wants_the_recovery_machine_to_run_and_the_original_to_be_there(told: World) -> None:
    told.protected()
    told.run("failover")
    told.run("commit")
    told.west.machines["web"].running = False
    assert told.begin("reprotect", status=409)["code"] == "78093"
    told.west.machines["web"].running = True
    original = told.east.descriptions.pop("web")
    kept = told.east.machines.pop("web")
    assert told.begin("reprotect", status=409)["code"] == "check.original-missing"
    told.east.descriptions["web"], told.east.machines["web"] = original, kept
    told.run("reprotect")
    told.expect("ReverseProtected")
    told.east.facts = roomy(retention={"free": 0, "total": 0})
    assert told.begin("failback", status=409)["code"] == "check.retention-capacity"
    told.east.facts = roomy()
    told.run("failback")


def test_a_restart_is_checked_with_fresh_facts(told: World) -> None:
    told.protected()
    told.west.fail["start-from-point"] = 1
    failed = told.run("test-failover", ends="failed")
    told.west.facts = roomy(free_disk=MiB)
    assert told.call("POST", f"/jobs/{failed['id']}/restart", status=409)["code"] == "28031"
    told.west.facts = roomy()
    again = told.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert told.wait(again["id"])["state"] == "succeeded"


def test_findings_are_in_the_health_until_they_are_mended(told: World) -> None:
    told.protected()
    assert told.item()["health_reasons"] == []
    told.west.facts = roomy(free_memory=MiB, store={"reachable": False, "why": "not mounted"})
    look(told)
    item = told.item()
    assert item["health"] == "critical"
    assert item["health_reasons"] == [
        "configuration: the store of site 'west' can't be read: not mounted (check.store-unreachable)",
        "configuration: 1.0 MiB are free at site 'west', of 16.0 GiB in all (8038)",
    ]
    told.west.facts = roomy()
    look(told)
    assert told.item()["health"] == "normal"


def test_a_look_before_an_operation_tells_what_would_refuse_it_and_is_not_kept(told: World) -> None:
    told.protected()
    told.west.facts = roomy(free_memory=MiB)
    assert ("8038", "error") in codes(look(told, before="test-failover"))
    assert ("8038", "warning") in codes(look(told, before="failover"))
    assert last(told) == {**last(told), "at": None, "due": None, "findings": []}
    assert told.call("POST", "/items/web/checks", before="nonsense", status=422)["code"] == "request.invalid"
    assert told.call("GET", "/items/nobody/checks", status=404)["code"] == "item.not-found"


def test_a_site_that_is_gone_is_not_waited_for(told: World, vault: LocalVault) -> None:
    told.protected()
    told.west.die()
    told.until(lambda: vault.vault.core.liveness.gone("west", 3))
    begun = time.monotonic()
    found = look(told)["findings"]
    assert time.monotonic() - begun < QUICK.inventory
    assert any(finding["unknown"] and "'west'" in finding["found"] for finding in found)


@pytest.mark.parametrize("strange", ["a word", ["a", "list"], {"a": "table"}, -1, True, None])
def test_facts_of_an_unknown_form_count_as_not_told(told: World, strange: Any) -> None:
    told.protected()
    told.west.facts = dict.fromkeys(roomy(), strange)
    found = look(told)["findings"]
    assert {"8038", "28031", "check.clock-skew", "check.store-unreachable"} <= {
        finding["code"] for finding in found if finding["unknown"]
    }


# ── in between ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_item_is_looked_at_once_in_twelve_hours_and_after_each_job(told: World, vault: LocalVault) -> None:
    core = vault.vault.core
    told.protected()
    assert len(checks.run_due(core)) == 1
    first = last(told)
    assert first["at"]
    assert checks.run_due(core) == []
    told.run("point")
    assert len(checks.run_due(core)) == 1
    second = last(told)
    assert second["at"] > first["at"]
    assert checks.run_due(core) == []
    with core.database.write() as session:
        session.get_one(CheckRow, second["item"]).due = datetime.now(UTC) - timedelta(seconds=1)
    assert len(checks.run_due(core)) == 1
    assert last(told)["due"] > second["due"]


def test_an_item_at_work_is_left_alone(told: World, vault: LocalVault) -> None:
    told.protected()
    told.west.hold["start-from-point"] = held = threading.Event()
    told.west.entered["start-from-point"] = threading.Event()
    job = told.begin("test-failover")
    assert told.west.entered["start-from-point"].wait(20)
    assert checks.run_due(vault.vault.core) == []
    held.set()
    told.wait(job["id"])
    assert len(checks.run_due(vault.vault.core)) == 1


def test_the_vault_looks_by_itself(told: World, vault: LocalVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOOK_AGAIN", 0.1)
    watch = checks.Watch(vault.vault.core)
    watch.start()
    told.protected()
    told.until(lambda: last(told)["at"] is not None)
    watch.join()


def test_what_a_look_took_does_not_come_again_while_it_is_at_work(told: World, vault: LocalVault) -> None:
    """Of two instances of the vault, or two threads, one takes each item."""
    told.protected()
    core = vault.vault.core
    assert checks._claim(core) is not None
    assert checks._claim(core) is None


def test_an_inventory_from_before_the_last_job_says_nothing(told: World, vault: LocalVault) -> None:
    told.protected()
    told.run("test-failover")
    core = vault.vault.core
    with core.database.write() as session:
        session.get_one(SiteRow, "west").inventoried = datetime.now(UTC) - timedelta(hours=1)
    with core.database.read() as session:
        item = checks.items.find(session, "web")
        assert checks.gather(core, session, item).away.machines is None
        assert checks.gather(core, session, item).item.test_began is not None


def test_a_machine_on_this_items_points_is_not_a_stranger(told: World) -> None:
    told.protected()
    told.run("test-failover")
    told.run("cleanup")
    timeline = told.item()["timeline"]
    machine = replace(told.west.seen().get("web-test", told.east.descriptions["web"]), name="web-test")
    told.west.descriptions["web-test"] = replace(machine, extra={"origin": {"point": f"{timeline}/1", "test": True}})
    assert "78052" not in [code for code, _ in codes(look(told))]
    told.west.timelines["f" * 16] = FakeTimeline()
    strange = {"origin": {"point": str(PointId("f" * 16, 1)), "test": True}}
    told.west.descriptions["web-test"] = replace(machine, extra=strange)
    assert ("78052", "error") in codes(look(told))


def test_a_vault_that_is_lost_with_the_machine_is_critical(told: World, vault: LocalVault) -> None:
    vault.vault.core.host = "one"
    told.protected()
    assert ("check.vault-at-source", "error") in codes(look(told))
    assert told.item()["health"] == "critical"
    vault.vault.core.host = "another"
    assert "check.vault-at-source" not in dict(codes(look(told)))


def test_a_store_in_the_folder_of_the_machines_site_is_critical(told: World) -> None:
    told.protected()
    store = {"reachable": True, "why": "", "free": 100 * GiB, "path": "/x/stores/west"}
    told.west.facts = roomy(host="one", store=store)
    assert ("check.store-at-own-site", "error") in codes(look(told))
    told.west.facts = roomy(host="another", store=store)
    assert "check.store-at-own-site" not in dict(codes(look(told)))
