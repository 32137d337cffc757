"""The kill matrix: the vault dies by SIGKILL before, after and past the record of every step of every operation.

One trip goes through all operations, their failures and their cancels; it is made once per moment, and in each the
vault kills itself at every step the first time it comes there. The sites' servers live on in this process and assert
what must never happen: disks in use written, a machine started before replication ended, a fence going back.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_sites import World
from postgres import Postgres
from vault_process import KillableVault

from homeport.vault import faults
from homeport.vault.app import create_vault
from homeport.vault.steps import recorded_steps

# Disabling does each of its parts as well as it can: only a fault of our own code makes it fail.
NEVER_REACHED = {("disable.v2", "fail")}

MATRIX = [step for step in recorded_steps() if step not in NEVER_REACHED]


class Operator:
    """One who does not give up: what was accepted just before a kill is found, not begun twice."""

    def __init__(self, world: World) -> None:
        self.world = world

    def _newest(self) -> dict[str, Any] | None:
        found = self.world.call("GET", "/jobs", limit=1)["jobs"]
        return found[0] if found else None

    def _post(self, path: str, body: dict[str, Any], kind: str) -> str:
        before = self._newest()
        while True:
            try:
                answer = self.world.client.post(f"/v1{path}", json=body)
                if answer.status_code == 202:
                    job: str = answer.json()["job"]["id"]
                    return job
                refused = answer.text
            except httpx.TransportError as error:
                refused = repr(error)
            newest = self._newest()
            if newest is not None and (before is None or newest["id"] != before["id"]):
                assert newest["kind"] == kind
                found: str = newest["id"]
                return found
            assert "Error" in refused, refused

    def protect(self, **more: Any) -> str:
        body = {"machine": "web", "from": "east", "to": "west", "policy": "gold", **more}
        return self._post("/items", body, "protect")

    def restore_deleted(self) -> str:
        return self._post("/items/deleted/web/restore", {}, "protect")

    def begin(self, operation: str, **body: Any) -> str:
        return self._post(f"/items/web/operations/{operation}", body, operation)

    def run(self, operation: str, ends: str = "succeeded", **body: Any) -> dict[str, Any]:
        return self.wait(self.begin(operation, **body), ends)

    def wait(self, job: str, ends: str = "succeeded") -> dict[str, Any]:
        done = self.world.wait(job)
        assert done["state"] == ends, done
        return done

    def restart(self, job: dict[str, Any], ends: str = "succeeded") -> dict[str, Any]:
        return self.wait(self._post(f"/jobs/{job['id']}/restart", {}, job["kind"]), ends)

    def way_back(self, job: dict[str, Any], kind: str, ends: str = "succeeded") -> dict[str, Any]:
        return self.wait(self._post(f"/jobs/{job['id']}/cancel", {}, kind), ends)

    def cancel_within(self, operation: str, kind: str, site: str) -> None:
        at = self.world.sites[site]
        at.hold[kind], at.entered[kind] = threading.Event(), threading.Event()
        job = self.begin(operation)
        assert at.entered[kind].wait(30)
        self.cancel(job)
        at.hold.pop(kind).set()
        self.wait(job, "cancelled")

    def cancel(self, job: str) -> None:
        """The vault may be killed between taking note of it and its answer: asked again, the job is on its way back, or
        has ended so."""
        try:
            self.world.call("POST", f"/jobs/{job}/cancel", status=202)
        except AssertionError:
            if self.world.call("GET", f"/jobs/{job}")["state"] not in ("cancelling", "cancelled"):
                raise


def the_trip(world: World) -> None:
    """Everything that can happen to an item, in one life."""
    operator = Operator(world)
    east, west = world.east, world.west

    east.produce = False
    job = operator.protect()
    world.until(lambda: east.replications != {})
    operator.cancel(job)
    operator.wait(job, "cancelled")
    assert west.timelines == {}
    east.produce = True

    west.fail["prepare-timeline"] = 1
    failed = operator.wait(operator.protect(), "failed")
    world.expect("EnableFailed")
    operator.restart(failed)
    world.expect("Protected")
    world.more_points(3)

    west.fail["start-from-point"] = 1
    operator.run("test-failover", "failed")
    operator.cancel_within("test-failover", "start-from-point", "west")
    world.expect("Protected", test=None)
    assert west.machines == {}
    operator.run("test-failover")
    world.expect("TestFailoverCleanupPending")
    west.fail["remove-machine"] = 1
    failed = operator.run("cleanup", "failed", notes="drill")
    operator.restart(failed)
    world.expect("Protected", test=None)

    east.fail["take-point"] = 1
    operator.run("point", "failed", tag="mine")
    operator.run("point", tag="mine")
    assert sum("mine" in point["tags"] for point in world.points()) >= 1
    east.fail["resync"] = 1
    operator.run("resync", "failed")
    operator.run("resync")
    world.until(lambda: world.item()["state"] == "Resyncing")
    east.phase = "replicating"
    world.until(lambda: world.item()["state"] == "Protected")

    east.fail["stop-replication"] = 1
    failed = operator.run("pause", "failed")
    world.expect("Protected")
    operator.restart(failed)
    world.expect("Paused")
    assert east.replications == {}
    east.fail["replicate"] = 1
    failed = operator.run("resume", "failed")
    world.expect("Paused")
    operator.restart(failed)
    world.expect("Protected")
    assert len(east.replications) == 1

    east.incomplete_stops = 1
    operator.run("failover", "failed", planned=True)
    world.expect("Protected", active_site="east")
    assert east.machines["web"].running
    operator.cancel_within("failover", "start-from-point", "west")
    world.expect("Protected", active_site="east")
    assert east.machines["web"].running
    west.fail["start-from-point"] = 1
    failed = operator.run("failover", "failed", shutdown=False)
    world.expect("FailoverFailed")
    west.lose["start-from-point"] = 1
    operator.run("failover", "failed", shutdown=False, point=world.points()[1]["id"])
    west.fail["start-from-point"] = 1
    failed = operator.run("failover", "failed", shutdown=False, point=world.points()[0]["id"])
    west.fail["end-timeline"] = 1
    failed = operator.way_back(failed, "cancel-failover", "failed")
    operator.way_back(failed, "cancel-failover")
    world.expect("Protected", active_site="east")

    done = operator.run("failover")
    world.expect("FailoverCommitPending", active_site="west", failover_point=done["result"]["point"])
    assert not east.machines["web"].running
    assert west.machines["web"].running
    oldest = world.points()[0]["id"]
    west.fail["start-from-point"] = 1
    operator.run("change-point", "failed", point=oldest)
    assert west.machines["web"].content == done["result"]["point"]
    operator.run("change-point", point=oldest)
    assert west.machines["web"].content == oldest

    west.fail["stop-machine"] = 1
    failed = operator.run("undo", "failed")
    world.expect("FailoverCommitPending", active_site="west")
    assert west.machines["web"].running
    done = operator.restart(failed)
    world.expect("Protected", active_site="east")
    assert done["result"]["discarded"]["timeline"] in west.timelines
    assert east.machines["web"].running
    assert "web" not in west.machines

    operator.run("failover")
    west.fail["drop-points"] = 1
    failed = operator.run("commit", "failed", erase_points=True)
    operator.restart(failed)
    world.expect("FailoverCommitted")
    assert world.points() == []

    west.produce = False
    job = operator.begin("reprotect")
    world.until(lambda: west.replications != {})
    operator.cancel(job)
    operator.wait(job, "cancelled")
    world.expect("FailoverCommitted")
    west.produce = True
    east.fail["import-base"] = 1
    failed = operator.run("reprotect", "failed")
    operator.restart(failed)
    item = world.expect("ReverseProtected", active_site="west")
    world.more_points(2)

    operator.cancel_within("failback", "start-original", "east")
    world.expect("ReverseProtected", active_site="west")
    assert not east.machines["web"].running
    assert west.machines["web"].running
    west.die()
    world.until(lambda: not world.call("GET", "/sites/west")["connected"])
    east.fail |= {"write-disks": 1, "rollback-disks": 2}
    failed = operator.run("failback", "failed")
    world.expect("FailbackFailed")
    west.begin()
    world.until(lambda: not west.machines["web"].running)
    failed = operator.way_back(failed, "cancel-failback", "failed")
    operator.way_back(failed, "cancel-failback")
    world.expect("ReverseProtected", active_site="west")

    done = operator.run("failback")
    world.expect("FailbackCommitPending", active_site="east")
    assert east.machines["web"].running
    assert east.machines["web"].content == done["result"]["point"]
    assert not west.machines["web"].running
    operator.run("commit")
    assert "web" not in west.machines
    operator.run("reprotect")
    item = world.expect("Protected", direction="forward", active_site="east", job=None)
    assert east.replications[item["id"]]["tracker_base"] == done["result"]["point"]
    operator.run("disable")
    east.produce = False
    job = operator.restore_deleted()
    world.until(lambda: east.replications != {})
    operator.cancel(job)
    operator.wait(job, "cancelled")
    east.produce = True
    operator.wait(operator.restore_deleted())
    world.expect("Protected", active_site="east")
    operator.run("disable", purge=True)
    assert world.call("GET", "/items")["items"] == []
    assert west.timelines == {}
    assert east.timelines == {}

    west.seeds = {"web.img": 1 << 30, "data.qcow2": 1 << 30}
    operator.wait(operator.protect(seed={"disk0": "web.img", "disk1": "data.qcow2"}))
    (timeline,) = west.timelines.values()
    assert 0 not in timeline.points, "the seed is no recovery point"
    operator.run("failover")
    operator.cancel_within("complete-migration", "hydrate", "west")
    world.expect("FailoverCommitPending", active_site="west")
    west.fail["hydrate"] = 1
    failed = operator.run("complete-migration", "failed")
    world.expect("MigrationFailed")
    operator.restart(failed)
    world.expect("Migrated", active_site="west")
    operator.run("disable")
    assert west.machines["web"].running
    assert west.timelines == {}
    assert east.timelines == {}


def make_trip(state: Path, moment: str, steps: list[tuple[str, str]], database: str | None = None) -> set[str]:
    """The names of the faults that struck."""
    names = {f"{workflow}.{step}:{moment}" for workflow, step in steps}
    create_vault(state, database=database).close()
    token = (state / "token").read_text().strip()
    vault = KillableVault(state, ",".join(names), database)
    vault.start()
    world = World(vault.url, token)
    try:
        world.set_up()
        the_trip(world)
    finally:
        world.close()
        vault.stop()
    struck = {name for name in names if (state / f"fault-{name.replace(':', '-')}").exists()}
    assert vault.kills >= len(struck)
    return struck


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", faults.MOMENTS)
def test_killed_at_any_step_every_operation_ends_as_it_should(tmp_path: Path, moment: faults.Moment) -> None:
    assert len(MATRIX) > 80
    missed = {f"{workflow}.{step}:{moment}" for workflow, step in MATRIX} - make_trip(
        tmp_path / "state", moment, MATRIX
    )
    assert not missed, f"the trip never came to {sorted(missed)}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_after_any_step_on_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    struck = make_trip(tmp_path / "state", "after", MATRIX, postgres.prepared())
    assert struck == {f"{workflow}.{step}:after" for workflow, step in MATRIX}
