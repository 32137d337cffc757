"""Jobs: waiting for the operator, waiting for room at their sites, what their JSON tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from dbos._dbos import _get_or_create_dbos_registry
from fake_sites import FakeMachine, Json, World
from vault_process import LocalVault

from homeport.domain.job_types import JOB_TYPES, job_type
from homeport.domain.machines import Disk, Machine, Power
from homeport.domain.operations import Operation
from homeport.domain.task_tree import Group
from homeport.vault import steps
from homeport.vault.database import TaskRow
from homeport.vault.steps import Cancelled, Run, operation
from homeport.vault.tasks import CHECKED

VERSION = 900
"""Of the workflow below: beyond all released ones."""


def _asks(run: Run) -> None:
    """Waits for the operator, twice told of in its result."""
    run.begin()
    try:
        answer = run.wait_for_operator("ask", "Plug the cable in.")
        run.step("after", lambda step: {"told": answer["comment"]})
        run.finish({"told": answer["comment"]}, state=run.before)
    except Cancelled:
        run.attempt("undo", lambda step: {"undone": True}, cancellable=False)
        run.cancelled()


@pytest.fixture
def asking() -> Iterator[None]:
    """Test failovers are the workflow above, registered for this test alone."""
    registries = (steps.WORKFLOWS, steps.VERSIONS, _get_or_create_dbos_registry().workflow_info_map)
    with ExitStack() as stack:
        for registry in registries:
            stack.enter_context(patch.dict(registry))
        names = {"ask": "Ask the operator", "after": "Go on", "undo": "Undo"}
        operation(Operation.TEST_FAILOVER, VERSION, names)(_asks)
        yield


def waiting(world: World) -> Json:
    job = world.begin("test-failover")["id"]
    world.until(lambda: world.call("GET", f"/jobs/{job}")["state"] == "waiting")
    found: Json = world.call("GET", f"/jobs/{job}")
    return found


@pytest.mark.usefixtures("asking")
def test_a_job_that_asks_waits_until_it_is_resumed(world: World) -> None:
    world.protected()
    job = waiting(world)
    assert (job["status"], job["waiting"]["prompt"]) == ("Suspended", "Plug the cable in.")
    assert job["tasks"][-1]["state"] == "waiting"
    assert job["allowed"] == ["cancel", "resume"]
    world.call("POST", f"/jobs/{job['id']}/resume", {"comment": "It is plugged in."}, status=202)
    done = world.wait(job["id"])
    assert (done["state"], done["result"]) == ("succeeded", {"told": "It is plugged in.", "notes": []})
    assert [comment["comment"] for comment in done["comments"]] == ["It is plugged in."]
    assert [task["state"] for task in done["tasks"]] == ["succeeded", "succeeded"]
    refused = world.call("POST", f"/jobs/{job['id']}/resume", {"comment": "again"}, status=409)
    assert refused["code"] == "job.not-waiting"


@pytest.mark.usefixtures("asking")
def test_a_job_that_asks_can_be_cancelled(world: World) -> None:
    world.protected()
    job = waiting(world)["id"]
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    done = world.wait(job)
    assert (done["state"], done["waiting"]) == ("cancelled", None)
    assert [task["name"] for task in done["tasks"]] == ["ask", "undo"]
    world.expect("Protected", job=None)


@pytest.mark.usefixtures("asking")
@pytest.mark.parametrize("answered_while", ["it runs", "it is away"])
def test_a_job_goes_on_waiting_after_a_restart(vault: LocalVault, world: World, answered_while: str) -> None:
    world.protected()
    job = waiting(world)["id"]
    before = world.call("GET", f"/jobs/{job}")["waiting"]
    vault.stop()
    vault.start()
    assert world.call("GET", f"/jobs/{job}")["state"] == "waiting"
    if answered_while == "it is away":
        world.call("POST", f"/jobs/{job}/resume", {"comment": "done"}, status=202)
        vault.stop()
        vault.start()
    else:
        threading.Event().wait(0.5)
        assert world.call("GET", f"/jobs/{job}")["waiting"] == before
        world.call("POST", f"/jobs/{job}/resume", {"comment": "done"}, status=202)
    assert world.wait(job)["result"]["told"] == "done"


# ── limits of sites ─────────────────────────────────────────────────────────────────────────────────────────────────


def more_machines(world: World, count: int) -> list[str]:
    names = [f"m{number}" for number in range(count)]
    for number, each in enumerate(names):
        uuid = f"5b0c2a52-0000-4000-8000-00000000010{number}"
        disks = (Disk("disk0", 1 << 30, "raw"),)
        world.east.descriptions[each] = Machine(uuid, each, disks, power=Power.RUNNING)
        world.east.machines[each] = FakeMachine(each)
    return names


def states(world: World, jobs: list[str]) -> list[str]:
    return [world.call("GET", f"/jobs/{job}")["state"] for job in jobs]


def test_jobs_over_the_limit_begin_in_order_and_failovers_do_not_wait(vault: LocalVault, world: World) -> None:
    names = more_machines(world, 4)
    world.protected()
    assert world.call("GET", "/jobs/limits") == {"data_moving": 4, "failovers": 16}
    world.call("PUT", "/jobs/limits", {"data_moving": 1, "failovers": 1})
    assert world.call("PUT", "/jobs/limits", {"data_moving": 0, "failovers": 1}, status=422)["code"]
    world.west.hold["prepare-timeline"] = hold = threading.Event()
    first, second, third, fourth = [world.protect(machine=name)["job"]["id"] for name in names]
    world.until(lambda: states(world, [first, second, third]) == ["running", "queued", "queued"])
    why = world.call("GET", f"/jobs/{third}")["queued_because"]
    assert (why["site"], why["limit"], why["before"]) == ("east", 1, 1)
    assert "1 jobs that move data at work" in why["text"]
    assert world.call("GET", f"/jobs/{third}")["status"] == "NotStarted"
    # A copy that waits, or is at work, keeps no failover.
    assert world.run("failover")["state"] == "succeeded"
    assert states(world, [first, second]) == ["running", "queued"]
    # One that waits can be cancelled; the others move up, after a restart, too.
    world.call("POST", f"/jobs/{third}/cancel", status=202)
    assert world.wait(third)["state"] == "cancelled"
    vault.stop()
    vault.start()
    assert states(world, [first, second, fourth]) == ["running", "queued", "queued"]
    hold.set()
    ended = [world.wait(job) for job in (first, second, fourth)]
    assert [job["state"] for job in ended] == ["succeeded"] * 3
    assert ended[0]["ended"] <= ended[1]["started"] <= ended[1]["ended"] <= ended[2]["started"]


def test_a_higher_limit_lets_those_begin_that_wait(world: World) -> None:
    names = more_machines(world, 2)
    world.call("PUT", "/jobs/limits", {"data_moving": 1, "failovers": 1})
    world.west.hold["prepare-timeline"] = hold = threading.Event()
    jobs = [world.protect(machine=name)["job"]["id"] for name in names]
    world.until(lambda: states(world, jobs) == ["running", "queued"])
    world.call("PUT", "/jobs/limits", {"data_moving": 2, "failovers": 1})
    world.until(lambda: states(world, jobs) == ["running", "running"])
    hold.set()
    assert [world.wait(job)["state"] for job in jobs] == ["succeeded"] * 2


# ── what a job tells ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_tells_its_type_target_errors_and_what_belongs_together(world: World) -> None:
    world.protected()
    world.west.fail["start-from-point"] = 1
    failed = world.run("test-failover", ends="failed")
    assert (failed["type"], failed["display_name"], failed["status"]) == ("TestFailover", "Test failover", "Failed")
    assert failed["target"] == {"type": "ReplicatedItem", "id": failed["item"], "name": "web"}
    assert [(error["code"], error["task"]) for error in failed["errors"]] == [
        ("fake.start-from-point", "start-machine")
    ]
    answer = world.client.post(f"/v1/jobs/{failed['id']}/restart")
    again = answer.json()["job"]
    assert answer.headers["location"] == f"/v1/jobs/{again['id']}"
    assert again["activity"] == failed["activity"] == failed["id"] != again["id"]
    assert world.wait(again["id"])["state"] == "succeeded"
    assert world.run("cleanup")["activity"] not in (failed["id"], again["id"])


def test_every_operation_has_a_name_of_its_own() -> None:
    assert set(JOB_TYPES) == set(Operation)
    assert len({each.name for each in JOB_TYPES.values()}) == len(Operation)
    assert job_type("beyond").display == "beyond"


# ── nested tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


def titles(nodes: list[Json]) -> list[str]:
    return [node["title"] for node in nodes]


def test_tasks_are_told_nested_too_with_what_the_checks_said(world: World) -> None:
    world.protected()
    (protect,) = world.call("GET", "/jobs", kind="protect")["jobs"]
    assert titles(protect["task_tree"]) == [
        "Prerequisites check",
        "Enable replication",
        "Finalize protection: open and verify the first recovery point",
    ]
    prerequisites, enable, _ = protect["task_tree"]
    assert prerequisites["children"][-1]["name"] == "check", "the workflow's own look"
    checks = [node for node in prerequisites["children"] if node["name"].startswith("checks/")]
    assert len(checks) > 3
    assert all(node["state"] in ("succeeded", "skipped") for node in checks)
    unknown = [node for node in checks if node["state"] == "skipped"]
    assert unknown, "the fake sites tell next to nothing of themselves"
    assert all(node["finding"]["found"].startswith("Not known") for node in unknown)
    assert any(node["state"] == "succeeded" and "finding" not in node for node in checks)
    assert [node["name"] for node in enable["children"]] == ["prepare-timeline", "replicate", "first-point"]
    assert enable["state"] == "succeeded"
    assert "checks" not in [task["name"] for task in protect["tasks"]], "tasks are the workflow's steps, as ever"
    leaves = [node for group in protect["task_tree"] for node in (group["children"] or [group])]
    assert [{**task, "children": []} for task in protect["tasks"]] == [
        node for node in leaves if not node["name"].startswith("checks/")
    ]


def test_a_group_is_at_work_while_a_task_of_it_is(world: World) -> None:
    world.protected()
    world.west.hold["start-from-point"] = threading.Event()
    world.west.entered["start-from-point"] = threading.Event()
    job = world.begin("failover")["id"]
    assert world.west.entered["start-from-point"].wait(20)
    tree = {node["name"]: node for node in world.call("GET", f"/jobs/{job}")["task_tree"]}
    assert {name: tree[name]["state"] for name in ("prerequisites", "stop", "fence", "start")} == {
        "prerequisites": "succeeded",
        "stop": "succeeded",
        "fence": "succeeded",
        "start": "running",
    }
    assert (tree["stop"]["ended"] is not None, tree["start"]["ended"]) == (True, None)
    world.west.hold.pop("start-from-point").set()
    assert {node["state"] for node in world.wait(job)["task_tree"]} == {"succeeded"}


def test_a_job_of_an_earlier_release_is_shown_in_groups_too(world: World, vault: LocalVault) -> None:
    """Its rows are as they were: no checks, and the steps of its own version."""
    world.protected()
    (job,) = world.call("GET", "/jobs", kind="protect")["jobs"]
    with vault.vault.core.database.write() as session:
        session.delete(session.get_one(TaskRow, (job["id"], CHECKED)))
        session.delete(session.get_one(TaskRow, (job["id"], "finalize")))
        session.get_one(TaskRow, (job["id"], "replicate")).name = "of-long-ago"
    tree = world.call("GET", f"/jobs/{job['id']}")["task_tree"]
    assert [node["name"] for node in tree] == ["prerequisites", "enable", "of-long-ago"]
    assert [node["name"] for node in tree[1]["children"]] == ["prepare-timeline", "first-point"]


def test_a_group_of_what_is_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="groups what is no step of it: brew"):
        operation(Operation.POINT, VERSION, {"take": "Take it"}, {"coffee": Group("Coffee", ("brew",))})
