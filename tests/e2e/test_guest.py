"""Real guests: five kills of Homeport in one round trip, and all of Homeport killed under a machine that just came up.

The guest writes numbered records in one hash chain over both disks; after each step the running machine is asked.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from demo.guest.build import build_guest
from demo.guest.machine import write_machine
from demo.guest.proof import Answer, ask, check, check_disks, wait_for_answer
from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.servers.local_machine import LocalMachine
from homeport.servers.process import end, read_identity
from homeport.sites.interface import StartOptions
from tests.e2e.world import World
from tests.ports import free_port

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(900)]

WEB = "web"
BOOT = 240.0


class GuestWorld(World):
    """The world with a guest instead of a machine of disks only."""

    name = WEB

    def make_machine(self) -> None:
        self.http = free_port()
        images = build_guest(self.folder / "guest")
        self.uuid = write_machine(self.a, WEB, images, forward=f"127.0.0.1:{self.http}:80")
        self.site("a").start(WEB, StartOptions())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/"

    def answer(self) -> Answer:
        answer, _ = wait_for_answer(self.url, BOOT)
        return answer

    def prove(self, **wanted: Any) -> int:
        """Ask the running machine to read its whole chain again."""
        self.answer()
        answer = ask(self.url + "verify", 120)
        verdict = check(answer, **wanted)
        assert verdict.good, verdict.text
        return answer.last

    def survive(self, operation: str, fault: str, **body: Any) -> dict[str, Any]:
        """Run an operation in which Homeport is killed at ``fault``, start it again, and wait for the end."""
        self.stop_up()
        self.up(HOMEPORT_FAULT=fault)
        key = str(uuid4())
        with contextlib.suppress(httpx.TransportError):  # a job may come to the fault before its answer is out
            self.start(operation, key, **body)
        self.died(300)
        self.up()
        return self.wait(self.start(operation, key, **body), 600)


@pytest.fixture
def world() -> Iterator[GuestWorld]:
    with GuestWorld(interval=5) as world:
        world.set_up()
        world.answer()
        yield world


def test_a_guest_survives_five_kills_of_homeport_on_its_round_trip(world: GuestWorld) -> None:
    world.protect()
    last = world.prove()
    world.take_point()
    world.kill_machine("a", WEB)
    world.survive("failover", "failover.v2.start-machine:after", shutdown=False, point="latest-processed")
    world.prove(not_older_than=last)
    world.survive("commit", "commit.v2.drop-points:after", erase_points=True)
    world.survive("reprotect", "reprotect.v1.replicate:recorded")
    last = ask(world.url + "pause", 30).last
    world.survive("failback", "failback.v1.write-disks:after")
    world.prove(exactly=last)
    world.survive("commit", "commit.v2.import-base:before")
    world.do("reprotect")
    world.prove(not_older_than=last)
    assert world.item()["state"] == "Protected"


def test_homeport_dies_under_a_machine_that_just_came_up(world: GuestWorld) -> None:
    """Everything of Homeport is killed one second after the first answer, the point server too, and comes back 20 s
    later: the guest waits, sees no error, and its disks are the point's wherever it has not written."""
    world.protect()
    last = world.prove()
    world.take_point()
    world.kill_machine("a", WEB)
    world.do("failover", shutdown=False, point="latest-processed")
    world.answer()
    time.sleep(1)
    world.kill()
    for path in (world.b / ".homeport" / "points").glob("*/point.pid"):
        identity = read_identity(path)
        assert identity is not None
        end(identity, 0)
    time.sleep(20)
    world.up()
    world.prove(not_older_than=last)
    site = world.site("b")
    world.until(lambda: site.machine(WEB).extra["origin"]["hydrated"], 300, "hydration")
    assert world.prove() >= last
    compare_with_point(world)


def compare_with_point(world: GuestWorld) -> None:
    """Outside of what the guest wrote, every byte of both disks equals the recovery point."""
    point = PointId.parse(world.item()["failover_point"])
    source = LocalMachine(world.site("b"), WEB, world.folder / "scratch").source()
    reader = world.store("b").open(point)
    probe = PointId("f" * 16, 1)
    view = source.begin_point(probe, point)
    try:
        for disk in view.disks:
            written = disk.changed.extents
            assert 0 < written.total < disk.size
            for offset, length in Extents.whole(disk.size).subtract(written.align(BLOCK)).pieces(1 << 20):
                buffer = memoryview(bytearray(length))
                disk.read_into(offset, buffer)
                assert buffer == reader.read(disk.id, offset, length), f"{disk.id} differs at {offset}"
    finally:
        source.abort(probe)
        source.close()


def test_the_proof_notices_disks_of_two_instants(world: GuestWorld) -> None:
    """A negative: disk0 of one point with disk1 of a point a second later is not one instant; each point is."""
    world.protect()
    folder = world.folder / "cut"
    folder.mkdir()
    first = world.take_point()
    time.sleep(1)
    second = world.take_point()
    images = {}
    for name, point in (("first", first), ("second", second)):
        reader = world.store("b").open(PointId.parse(point))
        for disk, size in reader.disks.items():
            images[name, disk] = write_raw(folder / f"{name}-{disk}", reader.read(disk, 0, size))
    for name in ("first", "second"):
        verdict = check_disks(images[name, "disk0"], images[name, "disk1"])
        assert verdict.good, verdict.text
    assert not check_disks(images["first", "disk0"], images["second", "disk1"]).good
    assert not check_disks(images["second", "disk0"], images["first", "disk1"]).good


def test_an_app_consistent_point_is_taken_frozen_and_a_silent_agent_does_not_stop_points(world: GuestWorld) -> None:
    world.protect()
    site = world.site("a")
    world.until(lambda: site.machine(WEB).guest_agent, 120, "the guest agent")
    job = world.do("point", app_consistent=True, tag="before-patch")
    point = next(known for known in world.points() if known["id"] == job["result"]["point"])
    assert point["consistency"] == "app-consistent"
    assert "before-patch" in point["tags"]
    with socket.socket(socket.AF_UNIX) as held:  # somebody keeps the agent's channel: it will not answer us
        held.connect(str(site.agent_socket(WEB)))
        job = world.do("point", app_consistent=True)
        point = next(known for known in world.points() if known["id"] == job["result"]["point"])
        assert point["consistency"] == "crash-consistent"
        assert job["result"]["notes"]
    world.prove()


def write_raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    subprocess.run(["fallocate", "--dig-holes", path], check=True)
    return path


def test_the_demo_needs_nothing_but_what_prepare_installs() -> None:
    script = (Path(__file__).parents[2] / "scripts" / "prepare").read_text()
    for command in ("qemu-system-x86_64", "qemu-img", "qemu-storage-daemon", "extlinux", "mkfs.ext4"):
        assert command in script
        assert shutil.which(command, path="/usr/sbin:/sbin:/usr/bin:/bin")
