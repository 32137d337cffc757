"""What is refused, cancelled, broken or unreachable leaves the item in a documented state, with a way on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fake_sites import World
from vault_process import QUICK, LocalVault

from homeport.vault import faults


def entered(site_hold: World, kind: str, site: str) -> threading.Event:
    """Work of this kind will wait at the site; the event tells when it is there."""
    at = site_hold.sites[site]
    at.hold[kind] = threading.Event()
    at.entered[kind] = threading.Event()
    return at.entered[kind]


def release(world: World, kind: str, site: str) -> None:
    world.sites[site].hold.pop(kind).set()


def cancel_within(world: World, operation: str, kind: str, site: str, body: dict | None = None) -> dict:
    """Cancels an operation while a site does work of ``kind``; the job, ended."""
    there = entered(world, kind, site)
    job = world.begin(operation, body)["id"]
    assert there.wait(20)
    found = world.call("POST", f"/jobs/{job}/cancel", status=202)["job"]
    assert found["state"] == "cancelling"
    release(world, kind, site)
    return world.wait(job)


def until_at(world: World, job: str, step: str) -> None:
    """The job has come to the step."""
    world.until(lambda: step in [task["name"] for task in world.call("GET", f"/jobs/{job}")["tasks"]])


def test_an_operation_in_the_wrong_state_is_refused_with_those_that_are_allowed(world: World) -> None:
    world.protected()
    answer = world.begin("failback", status=409)
    assert answer["code"] == "item.wrong-direction"
    allowed = ["test-failover", "failover", "resync", "point", "pause", "disable"]
    assert answer["details"]["allowed_operations"] == allowed
    assert answer["cause"]
    assert answer["remedy"]
    world.run("test-failover")
    answer = world.begin("failover", status=409)
    assert answer["code"] == "item.test-cleanup-pending"
    assert answer["details"]["allowed_operations"] == ["cleanup"]


def test_of_two_failovers_at_once_the_second_is_refused_and_names_the_first(world: World) -> None:
    world.protected()
    there = entered(world, "start-from-point", "west")
    with ThreadPoolExecutor(2) as pool:
        clients = [httpx.Client(base_url=world.url, headers=world.client.headers, timeout=30) for _ in range(2)]
        body = {"point": "latest-processed", "shutdown": False}
        answers = list(pool.map(lambda client: client.post("/v1/items/web/operations/failover", json=body), clients))
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    accepted = next(answer.json() for answer in answers if answer.status_code == 202)
    assert refused["code"] == "item.operation-running"
    assert refused["details"]["job"] == accepted["job"]["id"]
    assert refused["details"]["operation"] == "failover"
    assert there.wait(20)
    assert world.item()["allowed_operations"] == []
    release(world, "start-from-point", "west")
    assert world.wait(accepted["job"]["id"])["state"] == "succeeded"
    assert world.west.kinds().count("start-from-point") == 1


def test_a_point_that_is_not_there_is_refused_with_those_that_are(world: World) -> None:
    world.protected()
    answer = world.begin("failover", {"point": "0123456789abcdef/9"}, status=409)
    assert answer["code"] == "point.not-available"
    assert answer["details"]["points"] == [point["id"] for point in reversed(world.points())]
    answer = world.begin("test-failover", {"point": "latest-app-consistent"}, status=409)
    assert answer["code"] == "point.not-available"
    world.expect("Protected", job=None)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"machine": "nothing"}, 404, "machine.not-found"),
        ({"machine": "broken"}, 409, "machine.not-protectable"),
        ({"to": "east"}, 409, "item.protection-refused"),
        ({"to": "nowhere"}, 404, "site.not-found"),
        ({"policy": "none"}, 409, "78253"),
    ],
)
def test_protection_that_can_not_be_is_refused_at_once(
    world: World, changes: dict[str, str], status: int, code: str
) -> None:
    assert world.protect(status=status, **changes)["code"] == code
    assert world.call("GET", "/items")["items"] == []


def test_a_machine_is_protected_once(world: World) -> None:
    world.protected()
    assert world.protect(status=409)["code"] == "item.protection-refused"


def test_protect_cancelled_in_the_first_copy_leaves_nothing(world: World) -> None:
    world.east.produce = False
    job = world.protect()["job"]["id"]
    world.until(lambda: world.item()["state"] == "InitialReplicationInProgress")
    world.until(lambda: any(task["progress"] for task in world.call("GET", f"/jobs/{job}")["tasks"]))
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    assert world.wait(job)["state"] == "cancelled"
    assert world.call("GET", "/items")["items"] == []
    assert world.west.timelines == {}
    assert world.east.replications == {}
    world.east.produce = True
    world.protected()


def test_a_protect_that_failed_is_restarted(world: World) -> None:
    world.west.fail["prepare-timeline"] = 1
    failed = world.wait(world.protect()["job"]["id"])
    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "fake.prepare-timeline"
    assert failed["error"]["remedy"] == "Mend it."
    assert failed["error"]["details"] == {"why": "asked to"}
    assert [task["state"] for task in failed["tasks"]] == ["succeeded", "failed"]
    world.expect("EnableFailed", allowed_operations=["disable"], health="critical")
    assert failed["allowed"] == ["restart"]
    again = world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]
    assert again["id"] != failed["id"]
    assert world.wait(again["id"])["state"] == "succeeded"
    world.expect("Protected")


def test_a_test_failover_that_fails_or_is_cancelled_leaves_nothing(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 1
    failed = world.run("test-failover", ends="failed")
    assert failed["error"]["code"] == "fake.start-from-point"
    world.expect("Protected", test=None)
    cancelled = cancel_within(world, "test-failover", "points", "west")
    assert cancelled["state"] == "cancelled"
    world.expect("Protected", test=None)
    assert world.west.machines == {}


def test_a_test_that_can_not_be_removed_waits_for_its_cleanup(world: World) -> None:
    world.protected()
    world.west.fail = {"start-from-point": 1, "remove-machine": 2}
    world.run("test-failover", ends="failed")
    world.expect("TestFailoverCleanupPending", allowed_operations=["cleanup"])
    failed = world.run("cleanup", ends="failed")
    world.expect("TestFailoverCleanupPending")
    done = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert done["state"] == "succeeded"
    world.expect("Protected", test=None)


def test_a_cancelled_failover_lets_the_original_go_on_in_a_fork(world: World) -> None:
    world.protected()
    world.more_points(2)
    before = world.item()["timeline"]
    assert cancel_within(world, "failover", "start-from-point", "west")["state"] == "cancelled"
    item = world.expect("Protected", active_site="east", failover_point=None, recovery_machine=None)
    assert item["timeline"] != before
    assert world.west.timelines[item["timeline"]].parent == next(
        point["id"] for point in reversed(world.points()) if point["id"].startswith(before)
    )
    assert "web" not in world.west.machines
    assert world.east.machines["web"].running
    final = next(params for kind, params in world.east.calls if kind == "start-original")["base"]
    assert world.east.replications[item["id"]]["tracker_base"] == final
    assert len([point for point in world.points() if point["id"].startswith(before)]) == 4
    world.run("failover", {"point": world.points()[0]["id"]})
    world.run("commit", {"erase_points": True})
    assert world.points() == []


def test_a_failover_cancelled_before_it_did_anything_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.protected()
    before = world.item()["timeline"]
    there, go_on = threading.Event(), threading.Event()

    def wait_here(state: Path, workflow: str, step: str, moment: str) -> None:
        if (workflow, step, moment) == ("failover.v2", "planned-stop", "before"):
            there.set()
            go_on.wait(20)

    monkeypatch.setattr(faults, "point", wait_here)
    job = world.begin("failover")["id"]
    assert there.wait(20)
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    assert world.call("POST", f"/jobs/{job}/cancel", status=202)["job"]["state"] == "cancelling"
    go_on.set()
    assert world.wait(job)["state"] == "cancelled"
    world.expect("Protected", timeline=before)
    assert "planned-stop" not in world.east.kinds()
    assert "end-timeline" not in world.west.kinds()


def test_a_failover_cancelled_while_the_machine_stops_starts_it_again(world: World) -> None:
    world.protected()
    assert cancel_within(world, "failover", "planned-stop", "east")["state"] == "cancelled"
    world.expect("Protected")
    assert world.east.machines["web"].running


def test_a_failover_that_failed_is_tried_again_or_taken_back(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 2
    failed = world.run("failover", ends="failed")
    world.expect("FailoverFailed", allowed_operations=["failover", "disable"], health="critical")
    assert failed["allowed"] == ["cancel", "restart"]
    failed = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert failed["state"] == "failed"
    assert world.east.kinds().count("planned-stop") == 1, "the first try had stopped it"
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert back["kind"] == "cancel-failover"
    assert world.wait(back["id"])["state"] == "succeeded"
    world.expect("Protected", active_site="east")
    assert world.east.machines["web"].running
    world.run("failover")
    world.expect("FailoverCommitPending")


def test_failover_goes_on_without_the_source_site_and_says_so(world: World) -> None:
    world.protected()
    world.more_points(1)
    world.east.die()
    begun = time.monotonic()
    done = world.run("failover", {"shutdown": False, "point": "latest-processed"})
    assert time.monotonic() - begun < QUICK.silence, "it waited for who is gone"
    assert "site.unreachable" in done["result"]["notes"][0]
    assert [task["state"] for task in done["tasks"]] == ["skipped", *["succeeded"] * 4]
    world.expect("FailoverCommitPending", active_site="west")
    world.run("commit")
    failed = world.wait(world.begin("reprotect")["id"], seconds=40)
    assert failed["error"]["code"] == "site.unreachable"
    world.expect("ReprotectFailed", allowed_operations=["reprotect", "disable"])
    world.east.begin()
    done = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert done["state"] == "succeeded"
    world.expect("ReverseProtected")


def test_work_of_a_server_that_died_is_handed_to_the_next_one(world: World) -> None:
    world.protected()
    there = entered(world, "start-from-point", "west")
    job = world.begin("failover", {"shutdown": False, "point": "latest-processed"})["id"]
    assert there.wait(20)
    world.west.die()
    world.west.join()
    world.west.hold.pop("start-from-point")
    world.west.begin()
    assert world.wait(job)["state"] == "succeeded"
    assert world.west.kinds().count("start-from-point") == 2


def test_a_point_that_would_not_start_gives_way_to_the_earlier_one(world: World) -> None:
    world.protected()
    world.more_points(2)
    world.run("failover")
    newest, oldest = world.points()[-1]["id"], world.points()[0]["id"]
    world.west.fail["start-from-point"] = 1
    failed = world.run("change-point", {"point": oldest}, ends="failed")
    assert failed["error"]["code"] == "fake.start-from-point"
    item = world.expect("FailoverCommitPending", failover_point=newest)
    assert world.west.machines["web"].content == newest
    assert item["recovery_machine"]["name"] == "web"
    world.west.fail["start-from-point"] = 2
    failed = world.run("change-point", {"point": oldest}, ends="failed")
    world.expect("FailoverFailed")
    world.run("failover")
    world.expect("FailoverCommitPending")


def test_a_reprotect_is_cancelled_and_taken_up_again(world: World) -> None:
    world.protected()
    world.run("failover")
    world.run("commit")
    world.west.produce = False
    job = world.begin("reprotect")["id"]
    world.until(lambda: world.west.replications != {})
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    assert world.wait(job)["state"] == "cancelled"
    world.expect("FailoverCommitted")
    assert world.west.replications == {}
    world.west.produce = True
    world.run("reprotect")
    world.expect("ReverseProtected")
    timelines = {params["timeline"] for kind, params in world.east.calls if kind == "import-base"}
    assert len(timelines) == 1, "the second try names the timeline of the first"


def to_reverse(world: World) -> None:
    world.protected()
    world.run("failover")
    world.run("commit")
    world.run("reprotect")
    world.more_points(2)


def test_a_cancelled_failback_gives_the_disks_back_and_the_recovery_machine_goes_on(world: World) -> None:
    to_reverse(world)
    content = world.east.machines["web"].content
    before = world.item()["timeline"]
    assert cancel_within(world, "failback", "start-original", "east")["state"] == "cancelled"
    item = world.expect("ReverseProtected", active_site="west")
    assert world.east.machines["web"].content == content
    assert not world.east.machines["web"].running
    assert world.east.machines["web"].fenced
    assert world.west.machines["web"].running
    assert world.east.timelines[item["timeline"]].parent.startswith(before)
    world.run("failback")
    world.run("commit")
    world.run("reprotect")
    world.expect("Protected")


def test_a_failback_that_fails_undoes_itself(world: World) -> None:
    to_reverse(world)
    world.east.fail["write-disks"] = 1
    failed = world.run("failback", ends="failed")
    assert failed["error"]["code"] == "fake.write-disks"
    assert "rollback-disks" in world.east.kinds()
    world.expect("ReverseProtected", active_site="west")
    assert world.west.machines["web"].running
    assert "restart" in failed["allowed"]
    done = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert done["state"] == "succeeded"
    world.expect("FailbackCommitPending")


def test_a_failback_that_can_not_undo_itself_is_undone_later(world: World) -> None:
    to_reverse(world)
    world.east.fail = {"write-disks": 1, "rollback-disks": 1}
    failed = world.run("failback", ends="failed")
    world.expect("FailbackFailed", allowed_operations=["failback"])
    assert world.begin("disable", status=409)["code"] == "item.last-operation-failed"
    assert failed["allowed"] == ["cancel", "restart"]
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert back["kind"] == "cancel-failback"
    assert world.wait(back["id"])["state"] == "succeeded"
    world.expect("ReverseProtected")
    assert world.west.machines["web"].running
    world.run("failback")
    world.expect("FailbackCommitPending")


def test_a_machine_that_can_not_be_stopped_is_not_brought_home_beside_itself(world: World) -> None:
    to_reverse(world)
    world.west.fail["planned-stop"] = 1
    failed = world.run("failback", ends="failed")
    assert failed["error"]["code"] == "fake.planned-stop"
    world.expect("ReverseProtected", active_site="west")
    world.west.incomplete_stops = 1
    failed = world.run("failback", ends="failed")
    assert failed["error"]["code"] == "failback.machine-not-stopped"
    assert "the store did not answer" in failed["error"]["cause"]
    world.expect("ReverseProtected", active_site="west")
    assert world.west.machines["web"].running
    assert "write-disks" not in world.east.kinds()
    assert "start-original" not in world.east.kinds()
    assert "fence" not in world.west.kinds()
    world.run("failback")


def test_a_recovery_machine_that_goes_silent_while_it_is_stopped_keeps_the_original_off(world: World) -> None:
    to_reverse(world)
    there = entered(world, "planned-stop", "west")
    job = world.begin("failback")["id"]
    assert there.wait(20)
    world.west.die()
    failed = world.wait(job)
    assert failed["error"]["code"] == "site.unreachable"
    world.expect("FailbackFailed")
    assert not world.east.machines["web"].running
    world.west.hold.pop("planned-stop").set()


def test_a_failback_whose_recovery_site_is_gone_fences_what_it_could_not_stop(world: World) -> None:
    to_reverse(world)
    world.west.die()
    world.until(lambda: not world.call("GET", "/sites/west")["connected"])
    done = world.run("failback")
    assert "is gone" in done["result"]["notes"][0]
    world.expect("FailbackCommitPending", active_site="east", allowed_operations=["commit"])
    assert world.west.machines["web"].running
    world.west.begin()
    world.until(lambda: not world.west.machines["web"].running)
    assert "failed back" in world.west.machines["web"].fenced
    assert world.east.machines["web"].running
    world.run("commit")
    assert "web" not in world.west.machines


@pytest.mark.parametrize("shutdown", [True, False])
def test_a_source_that_was_away_is_fenced_when_it_returns(world: World, shutdown: bool) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    begun = time.monotonic()
    world.run("failover", {"shutdown": shutdown, "point": "latest-processed"})
    assert time.monotonic() - begun < QUICK.silence, "it waited for who is gone"
    world.run("commit")
    assert "fence" not in world.east.kinds()
    world.east.begin()
    world.until(lambda: world.east.machines["web"].fenced is not None)
    assert "failed over" in world.east.machines["web"].fenced
    assert world.east.machines["web"].running is not shutdown


def test_a_source_whose_planned_stop_was_incomplete_is_fenced_and_one_that_was_complete_is_not(world: World) -> None:
    world.protected()
    world.east.incomplete_stops = 1
    world.run("failover")
    world.until(lambda: "fence" in world.east.kinds())
    world.run("commit")
    world.run("reprotect")
    world.run("failback")
    world.run("commit")
    world.run("reprotect")
    world.run("failover")
    assert world.east.kinds().count("fence") == 1


def test_a_fence_that_comes_late_does_not_hit_a_machine_that_is_at_home_again(world: World) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", {"point": "latest-processed"}, ends="failed")
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    until_at(world, back["id"], "undo-start-original")
    world.east.begin()
    assert world.wait(back["id"])["state"] == "succeeded"
    world.expect("Protected", active_site="east")
    world.run("point")
    assert "fence" not in world.east.kinds()
    assert world.east.machines["web"].running
    assert world.east.machines["web"].fenced is None


def test_a_fence_in_the_hand_of_a_site_is_done_before_the_machine_is_started_again(world: World) -> None:
    world.protected()
    there = entered(world, "fence", "east")
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", {"shutdown": False}, ends="failed")
    assert there.wait(20)
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    until_at(world, back["id"], "undo-start-original")
    assert "start-original" not in world.east.kinds()
    release(world, "fence", "east")
    assert world.wait(back["id"])["state"] == "succeeded"
    assert world.east.machines["web"].fenced is None


def test_disabling_takes_a_fence_back_that_was_not_given(world: World) -> None:
    world.protected()
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    world.run("failover", {"point": "latest-processed"})
    world.run("commit")
    done = world.run("disable")
    assert done["result"]["points_kept_until"]
    assert world.west.timelines != {}
    world.east.begin()
    world.call("GET", "/sites/east/machines", refresh=True)
    assert "fence" not in world.east.kinds()


def test_points_that_a_machine_needs_stay_and_the_note_says_so(world: World) -> None:
    world.protected()
    world.west.in_use = True
    done = world.run("disable", {"purge": True})
    assert "Recovery points stay" in done["result"]["notes"][0]
    assert "store.in-use" in done["result"]["notes"][0]
    assert world.call("GET", "/items")["items"] == []


def test_a_machine_that_is_protected_again_keeps_its_key(world: World) -> None:
    world.protected()
    keys = world.east.replications[world.item()["id"]]["keys"]
    world.west.fail["forget"] = 1
    world.run("disable")
    world.protected()
    assert world.east.replications[world.item()["id"]]["keys"] == keys


@pytest.mark.parametrize("name", ["web", "web-test"])
def test_a_name_that_is_taken_at_the_other_site_is_refused(world: World, name: str) -> None:
    world.west.descriptions[name] = replace(world.east.descriptions["web"], uuid="another", name=name)
    failed = world.wait(world.protect()["job"]["id"])
    assert failed["error"]["code"] == "protect.name-taken"
    assert name in failed["error"]["cause"]
    assert "prepare-timeline" not in world.west.kinds()
    world.west.descriptions.clear()
    done = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert done["state"] == "succeeded"


def test_a_failover_undone_before_a_machine_was_made_removes_none(world: World) -> None:
    world.protected()
    assert cancel_within(world, "failover", "end-timeline", "west")["state"] == "cancelled"
    world.expect("Protected")
    assert "remove-machine" not in world.west.kinds()
    assert cancel_within(world, "failover", "start-from-point", "west")["state"] == "cancelled"
    removed = [params for kind, params in world.west.calls if kind == "remove-machine"]
    asked = [params for kind, params in world.west.calls if kind == "start-from-point"]
    assert [(each["point"], each["test"]) for each in removed] == [(asked[0]["point"], False)]


def test_a_failover_tried_again_from_another_point_removes_the_earlier_machine_first(world: World) -> None:
    world.protected()
    world.more_points(2)
    oldest, newest = world.points()[0]["id"], world.points()[-1]["id"]
    world.west.lose["start-from-point"] = 1
    world.run("failover", {"shutdown": False, "point": oldest}, ends="failed")
    assert world.west.machines["web"].content == oldest
    world.run("failover", {"shutdown": False, "point": newest})
    assert world.west.machines["web"].content == newest
    removed = [params["point"] for kind, params in world.west.calls if kind == "remove-machine"]
    assert removed == [oldest]


def test_latest_is_the_final_point_whatever_the_clocks_say(world: World) -> None:
    world.protected()
    world.more_points(2)
    world.clock -= timedelta(hours=1)
    done = world.run("failover")
    stopped = next(task["result"]["point"] for task in done["tasks"] if task["name"] == "planned-stop")
    assert done["result"]["point"] == stopped == world.points()[-1]["id"]
    assert world.points()[-1]["time"] < world.points()[0]["time"]
    world.run("commit")
    world.clock += timedelta(hours=2)
    world.run("reprotect")
    world.clock -= timedelta(hours=2)
    world.more_points(1)
    item = world.item()
    assert item["last_point"]["id"] == world.points()[-1]["id"] != f"{item['timeline']}/0"
    assert world.points()[-1]["offered_as"] == ["latest", "latest-processed"]
    done = world.run("failback")
    stopped = next(task["result"]["point"] for task in done["tasks"] if task["name"] == "planned-stop")
    assert done["result"]["point"] == stopped


def test_a_way_back_that_broke_off_in_its_fork_goes_on_in_another_one(world: World) -> None:
    world.protected()
    first = world.item()["timeline"]
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", ends="failed")
    world.east.fail["replicate"] = 1
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    failed = world.wait(back["id"])
    assert failed["state"] == "failed"
    fork = world.expect("FailoverFailed")["timeline"]
    assert fork != first
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert world.wait(back["id"])["state"] == "succeeded"
    item = world.expect("Protected")
    assert item["timeline"] not in (first, fork)
    assert world.west.timelines[fork].ended
    assert not world.west.timelines[item["timeline"]].ended
    world.run("point")


def test_a_way_back_ends_only_when_replication_runs(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 1
    failed = world.run("failover", ends="failed")
    world.east.phase, world.east.error = "stopped", {"code": "store.fenced", "cause": "The timeline has ended."}
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    failed = world.wait(back["id"])
    assert failed["error"]["code"] == "replication.not-resumed"
    assert "The timeline has ended. (store.fenced)" in failed["error"]["cause"]
    world.expect("FailoverFailed")
    world.east.phase, world.east.error = "replicating", None
    back = world.call("POST", f"/jobs/{failed['id']}/cancel", status=202)["job"]
    assert world.wait(back["id"])["state"] == "succeeded"
    world.expect("Protected", health="normal")


def test_a_commit_that_fails_is_repeated_without_asking_for_what_is_gone(world: World) -> None:
    to_reverse(world)
    world.run("failback")
    world.east.fail["drop-points"] = 1
    failed = world.run("commit", {"erase_points": True}, ends="failed")
    world.expect("FailbackCommitPending", allowed_operations=["commit"])
    assert "web" not in world.west.machines
    done = world.wait(world.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert done["state"] == "succeeded"
    assert world.west.kinds().count("import-base") == 1
    world.run("reprotect")
    world.expect("Protected")


def test_a_commit_is_not_cancelled(world: World) -> None:
    world.protected()
    world.run("failover")
    there = entered(world, "drop-points", "west")
    job = world.begin("commit", {"erase_points": True})["id"]
    assert there.wait(20)
    assert world.call("POST", f"/jobs/{job}/cancel", status=409)["code"] == "job.not-cancellable"
    release(world, "drop-points", "west")
    assert world.wait(job)["state"] == "succeeded"
    assert world.call("POST", f"/jobs/{job}/restart", status=409)["code"] == "job.not-restartable"


def test_disable_works_with_both_sites_gone(world: World) -> None:
    world.protected()
    world.east.die()
    world.west.die()
    world.until(lambda: not any(site["connected"] for site in world.call("GET", "/sites")["sites"]))
    done = world.run("disable")
    assert len(done["result"]["notes"]) == 4
    assert world.call("GET", "/items")["items"] == []
    assert world.call("GET", f"/items/{done['item']}")["state"] == "Unprotected"


def test_the_vault_stopped_in_the_middle_goes_on_when_it_is_started(vault: LocalVault, world: World) -> None:
    world.protected()
    there = entered(world, "start-from-point", "west")
    job = world.begin("failover", {"shutdown": False, "point": "latest-processed"})["id"]
    assert there.wait(20)
    vault.stop()
    release(world, "start-from-point", "west")
    vault.start()
    assert world.wait(job)["state"] == "succeeded"
    assert world.west.kinds().count("start-from-point") == 1
    world.expect("FailoverCommitPending")
