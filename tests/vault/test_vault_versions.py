"""Several versions of one operation: new jobs run the highest, recorded ones go on in theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.domain.operations import Operation
from homeport.vault import steps
from homeport.vault.database import JobRow
from homeport.vault.steps import VERSIONS, WORKFLOWS


def test_new_jobs_run_the_highest_version() -> None:
    for operation, workflow in WORKFLOWS.items():
        versions = [each for each in VERSIONS.values() if each.operation is operation]
        assert workflow is max(versions, key=lambda each: each.version)
        assert sorted(each.version for each in versions) == list(range(1, len(versions) + 1))


def test_a_version_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"commit\.v1 is registered twice"):
        steps.operation(Operation.COMMIT, 1, {})


@pytest.fixture
def old_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The vault begins version 1 of each operation, as the release before did; undone, it begins the newest."""
    with monkeypatch.context() as patch:
        for operation in WORKFLOWS:
            patch.setitem(WORKFLOWS, operation, VERSIONS[f"{operation}.v1"])
        yield patch


@pytest.mark.parametrize(
    ("operation", "kind", "state"),
    [("failover", "start-from-point", "FailoverCommitPending"), ("commit", "hide-points", "FailoverCommitted")],
)
def test_a_job_that_an_earlier_release_began_is_finished_by_this_one(
    vault: LocalVault, world: World, old_release: pytest.MonkeyPatch, operation: str, kind: str, state: str
) -> None:
    world.protected()
    world.more_points(1)
    if operation == "commit":
        world.run("failover")
    world.west.hold[kind], world.west.entered[kind] = threading.Event(), threading.Event()
    job = world.begin(operation)["id"]
    without_new_params(vault, job)
    assert world.west.entered[kind].wait(20)
    vault.stop()
    old_release.undo()
    world.west.hold.pop(kind).set()
    vault.start()
    done = world.wait(job)
    assert done["state"] == "succeeded"
    known = set(VERSIONS[f"{operation}.v1"].steps)
    assert {task["name"] for task in done["tasks"]} <= known
    world.expect(state, commit_policy=None)
    if operation == "failover":
        world.run("commit")
        assert world.points() != [], "the new version of the commit keeps the points"
    else:
        assert world.points() == [], "the old version of the commit hides the points"


def test_an_earlier_release_s_failover_is_still_cancelled(
    vault: LocalVault, world: World, old_release: pytest.MonkeyPatch
) -> None:
    world.protected()
    world.west.hold["start-from-point"] = threading.Event()
    world.west.entered["start-from-point"] = threading.Event()
    job = world.begin("failover")["id"]
    without_new_params(vault, job)
    assert world.west.entered["start-from-point"].wait(20)
    world.call("POST", f"/jobs/{job}/cancel", status=202)
    vault.stop()
    old_release.undo()
    world.west.hold.pop("start-from-point").set()
    vault.start()
    assert world.wait(job)["state"] == "cancelled"
    world.expect("Protected", active_site="east")
    assert world.east.machines["web"].running


def without_new_params(vault: LocalVault, job: str) -> None:
    """As the job's row was written before there were these."""
    with vault.vault.core.database.write() as session:
        row = session.get_one(JobRow, job)
        row.params = {name: value for name, value in row.params.items() if name in ("point", "shutdown")}
