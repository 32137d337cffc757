"""A replication group through all of Homeport: its points, across a kill, and a failover of both machines to one
instant and to their last state."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from homeport.sites.interface import StartOptions
from tests.e2e.world import World

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]

MACHINES = ("disks", "more")


class GroupWorld(World):
    """Two machines of disks only."""

    def make_machine(self) -> None:
        super().make_machine()
        folder = self.a / "more"
        folder.mkdir()
        for disk in ("disk0", "disk1"):
            subprocess.run(["truncate", "-s", str(self.size), folder / f"{disk}.raw"], check=True)
        disks = "".join(
            f'[[disk]]\nid = "{disk}"\npath = "{disk}.raw"\nformat = "raw"\n' for disk in ("disk0", "disk1")
        )
        (folder / "machine.toml").write_text(
            f'uuid = "{uuid.uuid4()}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n{disks}'
        )
        self.site("a").start("more", StartOptions())

    def protect_all(self) -> None:
        for name in MACHINES:
            body = {"machine": name, "from": "a", "to": "b", "policy": "p", "group": "g"}
            self.wait(self.api("POST", "/v1/items", body)["job"])

    def common(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api("GET", "/v1/groups/g")["common_points"]
        return found

    def all(self, operation: str, **body: Any) -> dict[str, dict[str, Any]]:
        begun = self.api("POST", f"/v1/groups/g/operations/{operation}", body)["jobs"]
        return {job["item_name"]: self.wait(job)["result"] for job in begun}


@pytest.fixture
def world() -> Iterator[GroupWorld]:
    with GroupWorld(size=4 << 20, interval=1) as world:
        world.set_up()
        world.protect_all()
        yield world


def test_two_machines_fail_over_to_one_instant_and_come_to_their_last_state(world: GroupWorld) -> None:
    world.until(lambda: len(world.common()) >= 2, 30, "common points")
    world.kill()
    world.up()
    known = {each["round"] for each in world.common()}
    world.until(lambda: {each["round"] for each in world.common()} - known, 30, "a common point after the kill")

    for name in MACHINES:
        world.write("a", "disk0", 0, b"last of " + name.encode(), name)
    one = world.all("failover", shutdown=False)
    assert len({result["time"] for result in one.values()}) == 1, "two instants"
    chosen = next(each for each in world.common() if each["points"]["disks"] == one["disks"]["point"])
    assert {name: result["point"] for name, result in one.items()} == chosen["points"]
    for name in MACHINES:
        assert world.machine("b", name).extra["origin"]["point"] == chosen["points"][name]


@pytest.mark.slow
def test_machines_that_shut_down_are_failed_over_with_their_last_writes(world: GroupWorld) -> None:
    world.until(world.common, 30, "a common point")
    for name in MACHINES:
        world.write("a", "disk0", 0, b"last of " + name.encode(), name)
    world.all("failover")
    for name in MACHINES:
        assert world.read("b", "disk0", name).startswith(b"last of " + name.encode())
