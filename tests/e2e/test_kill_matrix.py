"""The kill matrix on real machines of disks: Homeport is killed with SIGKILL at every recorded step of every operation.

For each of the three moments of a step (before its effect, after it, after its record) one life of an item is lived in
which *every* step is fatal once: Homeport dies, is started again, and the operation must finish by itself. Whole disks
are compared after each operation, so an operation that did half of something, or something twice, shows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import httpx
import pytest

import homeport.vault.workflows  # noqa: F401  (registers all operations)
from homeport.vault.faults import MOMENTS, Moment
from homeport.vault.steps import recorded_steps
from tests.e2e.world import VM, Refused, World
from tests.forked import CONTEXT, recover_quickly

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1500)]

ONLY_IN_TROUBLE = {"fail", "cancelled"}
"""Ends of jobs that fail or are cancelled; and the steps named undo-…: `tests/vault` kills those."""


def homeport_up(state: str, port: int, said: str, faults: str) -> None:
    """The main function of a Homeport: what `homeport up` runs, in a session of its own as a daemon's."""
    from homeport.cli import main

    os.setsid()
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["HOMEPORT_FAULT"] = faults
    recover_quickly()
    sys.exit(main(["up", "--state", state, "--port", str(port)]))


class Forked:
    """As much of :class:`subprocess.Popen` as a world uses, of a process forked with everything imported."""

    def __init__(self, *arguments: Any) -> None:
        self._process = CONTEXT.Process(target=homeport_up, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("homeport up", timeout or 0)
        return code

    def kill(self) -> None:
        self._process.kill()


class Mortal(World):
    """A world whose Homeport dies at each fault point of ``moment``, and is started again whenever it is dead."""

    def __init__(self, moment: Moment) -> None:
        super().__init__()
        self.moment = moment
        self.deaths = 0
        self.faults = ",".join(f"{workflow}.{step}:{moment}" for workflow, step in recorded_steps())

    def up(self, **_: str) -> None:
        """Over as many deaths as it takes: the next fault point may come before the first answer."""
        while True:
            self.process = Forked(str(self.state), self.port, str(self.folder / "up.txt"), self.faults)  # type: ignore[assignment]
            try:
                self.until(self._answers, 60, "Homeport to be up")
            except AssertionError:
                if self.process is None or self.process.poll() != -signal.SIGKILL:
                    raise
                self.deaths += 1
                continue
            self.learn_passphrase()
            return

    def live(self, ask: Any) -> Any:
        """Ask until there is an answer, over as many deaths as it takes."""
        while True:
            try:
                return ask()
            except (httpx.TransportError, AssertionError) as error:
                if isinstance(error, Refused):
                    raise
                assert self.process is not None
                if self.process.poll() is None and isinstance(error, AssertionError):
                    raise
                assert self.process.wait(30) == -signal.SIGKILL, (self.folder / "up.txt").read_text()[-3000:]
                self.deaths += 1
                self.up()

    def perform(self, operation: str, **body: Any) -> dict[str, Any]:
        """Run an operation to its end, however often Homeport dies in it."""
        job = self.live(lambda: self._begin(operation, body))
        version = 0
        while True:
            path = f"/v1/jobs/{job['id']}?wait=2&version={version}"
            job = self.live(partial(self.api, "GET", path))
            version = job["version"]
            if job["state"] in ("succeeded", "failed", "cancelled"):
                assert job["state"] == "succeeded", (job, self.log_tail())
                return job

    def _begin(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request whose answer was lost in a death may have been accepted: then its job is the one that runs."""
        path = "/v1/items" if operation == "protect" else f"/v1/items/{VM}/operations/{operation}"
        running = self._last_job(operation)
        if running is not None:
            return running
        job: dict[str, Any] = self.api("POST", path, body)["job"]
        return job

    def _last_job(self, operation: str) -> dict[str, Any] | None:
        kinds = [job for job in self.api("GET", "/v1/jobs")["jobs"] if job["kind"] == operation]
        seen = self.seen.setdefault(operation, set())
        fresh = [job for job in kinds if job["id"] not in seen]
        return fresh[0] if fresh else None

    seen: dict[str, set[str]]

    def remember(self, operation: str) -> None:
        """All jobs of this kind so far are of the past."""
        jobs = self.live(lambda: self.api("GET", "/v1/jobs")["jobs"])
        self.seen.setdefault(operation, set()).update(job["id"] for job in jobs if job["kind"] == operation)

    def do(self, operation: str, **body: Any) -> dict[str, Any]:
        self.remember(operation)
        return self.perform(operation, **body)

    def last_death(self) -> None:
        """The end of the last operation may be seen a moment before Homeport dies of having recorded it."""
        assert self.process is not None
        marker = self.state / f"fault-disable.v2.finish-{self.moment}"
        if not marker.exists() or self.process.poll() is not None:
            assert self.process.wait(30) == -signal.SIGKILL, (self.folder / "up.txt").read_text()[-3000:]
            self.deaths += 1

    def settled(self, state: str) -> None:
        assert self.live(self.item)["state"] == state


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_step_every_operation_finishes(moment: Moment) -> None:
    with Mortal(moment) as world:
        world.seen = {}
        world.set_up()
        world.scribble("a", 60)
        world.do("protect", machine=VM, **{"from": "a", "to": "b"}, policy="p")
        world.settled("Protected")
        point = world.do("point")["result"]["point"]
        first = world.hashes("a")
        assert world.point_hashes("b", point) == first
        world.do("resync")
        world.do("pause")
        world.do("resume")
        world.do("test-failover")
        assert world.hashes("b", f"{VM}-test") == first
        world.do("cleanup", notes="")
        assert not (world.b / f"{VM}-test").exists()
        world.scribble("a", 20)
        later = world.hashes("a")
        world.do("failover", planned=True)
        assert world.hashes("b") == later
        world.do("change-point", point=point)
        assert world.hashes("b") == first
        world.do("commit", erase_points=True)
        world.scribble("b", 20)
        world.do("reprotect")
        world.settled("ReverseProtected")
        world.scribble("b", 20)
        last = world.hashes("b")
        world.do("failback")
        assert world.hashes("a") == last
        world.do("commit")
        assert not (world.b / VM).exists()
        world.scribble("a", 10)
        world.do("reprotect")
        world.settled("Protected")
        last = world.hashes("a")
        world.do("failover", shutdown=False, point="latest")
        assert world.hashes("b") == last
        world.scribble("b", 20)
        written = world.hashes("b")
        kept = world.do("undo")["result"]["discarded"]
        world.settled("Protected")
        assert world.hashes("a") == last
        assert world.point_hashes("b", kept["point"]) == written
        world.do("disable", purge=True)
        world.do("protect", machine=VM, **{"from": "a", "to": "b"}, policy="p")
        world.do("failover")
        world.do("complete-migration")
        assert world.hashes("b") == last
        world.do("disable")
        world.last_death()
        died_at = {
            marker.name.removeprefix("fault-").removesuffix(f"-{moment}") for marker in world.state.glob("fault-*")
        }
        everywhere = {
            f"{workflow}.{step}"
            for workflow, step in recorded_steps()
            if not step.startswith("undo-") and step not in ONLY_IN_TROUBLE and not workflow.startswith("cancel-")
        }
        missed = everywhere - died_at - NOT_ON_THIS_WAY
        assert not missed, f"never killed at {sorted(missed)}"
        assert world.deaths >= len(died_at) - 1, (world.deaths, sorted(died_at))
        assert os.path.exists(world.a / VM / "disk0.raw")


NOT_ON_THIS_WAY = {
    "failback.v1.stop-replication",
    "failback.v1.fence-recovery-machine",
    "failover.v2.remove-earlier",
    "protect.v3.drop-seed",
    "protect.v3.find-kept",
    "protect.v3.import-seed",
    "undo.v1.restart-machine",
}
"""Steps of a failback whose recovery site is silent, of a failover tried again from another point, of a first copy that
begins from a seed or from kept points, and of an undo that goes no further; `tests/vault` kills those."""
