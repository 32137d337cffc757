"""The side that takes a machine over ends in the middle: all servers of the recovery site at a failover, the master
target of the home site at a failback, of either site in turn. The operation goes on, and nothing is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.domain.units import MiB
from tests.e2e.apart import Apart
from tests.e2e.world import VM

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

OTHER = {"a": "b", "b": "a"}
ENDS = {"a": signal.SIGTERM, "b": signal.SIGKILL}
"""How the master target ends, by the site where the machine is at home."""


class At(Apart):
    """``home``: where the machine runs at first."""

    def __init__(self, home: str) -> None:
        super().__init__(size=64 * MiB)
        self.home = home

    def make_machine(self, site: str = "") -> None:
        super().make_machine(self.home)

    def is_there(self, path: Path) -> None:
        """Wait for a file that an operation makes while it is at work."""
        deadline = time.monotonic() + 90
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} does not come\n{self.log_tail()}"
            time.sleep(0.002)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[At]:
    with At(request.param) as world:
        world.set_up()
        yield world


def under_way(world: At, job: dict[str, object]) -> bool:
    return bool(world.api("GET", f"/v1/jobs/{job['id']}")["state"] == "running")


@pytest.mark.parametrize("world", ["a", "b"], indirect=True)
def test_failover_and_failback_go_on_when_the_receiving_side_ends(world: At) -> None:
    home, away = world.home, OTHER[world.home]
    receiving = [f"{role}-{away}" for role in ("cs", "ps", "mt")]
    world.scribble(home, 200)
    world.protect(**{"from": home, "to": away})
    before = world.hashes(home)

    job = world.start("failover")
    world.is_there(getattr(world, away) / VM)
    for name in receiving:
        world.kill_server(name)
    assert under_way(world, job)
    for name in receiving:
        world.start_server(name)
    world.wait(job)
    assert world.hashes(away) == before, "a planned failover loses nothing"

    world.do("commit")
    world.do("reprotect")
    world.scribble(away, 2500)
    last = world.hashes(away)
    master_target = world.servers[f"mt-{home}"]
    job = world.start("failback")
    world.is_there(getattr(world, home) / ".homeport" / "retention" / world.uuid / "disk0.journal")
    master_target.send_signal(signal.SIGSTOP)
    time.sleep(2)
    assert under_way(world, job), "it was done before it could be stopped"
    master_target.send_signal(signal.SIGCONT)
    master_target.send_signal(ENDS[home])
    master_target.wait(30)
    assert under_way(world, job), "it was done before its master target ended"
    world.start_server(f"mt-{home}")
    world.wait(job)
    assert world.hashes(home) == last, "a planned failback loses nothing"
    world.do("commit")
