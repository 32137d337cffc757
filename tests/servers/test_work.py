"""A site's work: refused when superseded, harmless when asked for twice, on machines of disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from homeport.disks.nbd.client import NbdClient
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Power
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.work import NotReplicating, SiteWork, StaleWork
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from homeport.store import MachineStore, open_objects
from tests.servers.bucket import KEYS, read_point

T1, T2 = "1" * 16, "2" * 16
SIZE = 2 * MiB


def quiet(*arguments: Any, **named: Any) -> None:
    """Progress that nobody looks at."""


class Place:
    """A site with the machine ``disks``, whose own store is also where its recovery points go."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a"
        self.own = self.path / ".homeport"
        (self.own / "store").mkdir(parents=True)
        machine = self.path / "disks"
        machine.mkdir()
        subprocess.run(["truncate", "-s", str(SIZE), machine / "disk0.raw"], check=True)
        (machine / "machine.toml").write_text(
            f'uuid = "{KEYS.machine}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n'
            '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
        )
        self.site = QemuSite(self.path, name="a")
        url = (self.own / "store").as_uri()
        self.objects = open_objects(url)
        self.work = SiteWork("a", self.site, self.own, self.objects, url)
        self.work.welcome({"vault": KEYS.vault, "vault_key": "07" * 32, "passphrase": "a passphrase of some words"})
        self.reports: list[dict[str, Any]] = []
        self.work.connect(self.reports.append)
        self.fence = 0
        self.store = MachineStore(self.objects, KEYS)

    def do(self, kind: str, *, fence: int | None = None, **params: Any) -> dict[str, Any]:
        if fence is None:
            self.fence += 1
            fence = self.fence
        keys = {"vault": KEYS.vault, "machine_key": KEYS.key.hex()}
        common = {"item": "item", "machine": KEYS.machine, "keys": keys, "fence": fence, "vm": "disks"}
        return self.work.carry_out(kind, {**common, **params}, quiet)

    def twice(self, kind: str, **params: Any) -> dict[str, Any]:
        """The vault was killed, and asks again."""
        first = self.do(kind, **params)
        again = self.do(kind, fence=self.fence, **params)
        assert first == again, kind
        return again

    def write(self, offset: int, data: bytes) -> None:
        with contextlib.closing(NbdClient(str(self.site.disks_socket("disks")), "disk0")) as client:
            client.write(offset, data)
            client.flush()

    def disk(self) -> bytes:
        return (self.path / "disks" / "disk0.raw").read_bytes()

    def replicate(self, timeline: str = T1) -> None:
        store = {"site": "b", **self.work.gateway()}
        self.twice("prepare-timeline", timeline=timeline, description={"name": "disks"})
        self.twice("replicate", timeline=timeline, store=store, interval=3600)

    def close(self) -> None:
        self.work.stop()
        for machine in self.site.machines():
            self.site.delete(machine.name)
        for folder in (self.own / "points").glob("*"):
            self.work._services.end(folder.name)


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    place = Place(folder)
    try:
        yield place
    finally:
        place.close()
        rmtree(folder, ignore_errors=True)


def test_work_that_was_superseded_is_refused(place: Place) -> None:
    place.do("prepare-timeline", fence=5, timeline=T1)
    with pytest.raises(StaleWork):
        place.do("prepare-timeline", fence=4, timeline=T2)
    assert place.store.timeline_ids() == [T1]
    place.do("prepare-timeline", fence=5, timeline=T1)  # the same once more is not older
    place.do("forget", fence=6, timelines=[T1])
    assert place.store.timeline_ids() == []
    with pytest.raises(StaleWork):  # also when the item is gone
        place.do("prepare-timeline", fence=5, timeline=T1)


def test_fences_outlast_a_restart(place: Place) -> None:
    place.do("prepare-timeline", fence=5, timeline=T1)
    place.work.stop()
    place.work = SiteWork("a", place.site, place.own, place.objects, (place.own / "store").as_uri())
    with pytest.raises(StaleWork):
        place.do("points", fence=4, timeline=T1)


def test_an_unknown_kind_of_work_is_refused(place: Place) -> None:
    with pytest.raises(HomeportError) as refused:
        place.do("make-coffee")
    assert refused.value.code == "work.unknown-kind"


def test_work_that_needs_replication_says_that_there_is_none(place: Place) -> None:
    for kind, params in (("take-point", {"consistency": "crash-consistent"}), ("resync", {}), ("planned-stop", {})):
        with pytest.raises(NotReplicating):
            place.do(kind, **params)
    assert place.twice("stop-replication") == {"head": None}


@pytest.mark.qemu
def test_replication_and_a_planned_stop_asked_for_twice_do_no_harm(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(8 * BLOCK))
    place.replicate()
    taken = place.do("take-point", consistency="crash-consistent", tag="mine")
    assert read_point(place.store, PointId.parse(taken["point"]))["disk0"] == place.disk()
    place.write(3 * BLOCK, os.urandom(BLOCK))
    stopped = place.twice("planned-stop", timeout=5)
    assert stopped["complete"] is True
    assert read_point(place.store, PointId.parse(stopped["point"]))["disk0"] == place.disk()
    assert place.site.machine("disks").power is Power.OFF
    with pytest.raises(HomeportError):
        place.site.start("disks", StartOptions())  # fenced
    ended = place.twice("end-timeline", timeline=T1)
    assert ended["head"] == stopped["point"]
    place.twice("hide-points", timeline=T1, upto=1)
    assert all(PointId.parse(point["id"]).number > 1 for point in place.twice("points", timeline=T1)["points"])


@pytest.mark.qemu
def test_a_planned_stop_of_a_dead_machine_says_the_same_when_asked_again(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(8 * BLOCK))
    place.replicate()
    taken = place.do("take-point", consistency="crash-consistent")
    os.kill(int((place.path / "disks" / "run" / "qemu.pid").read_text()), 9)
    stopped = place.twice("planned-stop", timeout=1)
    assert stopped["complete"] is False
    assert stopped["point"] == taken["point"]


@pytest.mark.qemu
def test_the_way_home_asked_for_twice_at_each_step(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(MiB))
    place.twice("power-off-original", reason="it runs elsewhere")
    with pytest.raises(HomeportError):
        place.site.start("disks", StartOptions())
    original = place.disk()
    imported = place.twice("import-base", timeline=T2, description={"name": "disks"})
    base = PointId.parse(imported["point"])
    writer = place.store.writer(T2, "elsewhere")
    builder = writer.builder(1, place.path / ".spool", base)
    builder.write("disk0", 7 * BLOCK, os.urandom(2 * BLOCK))
    writer.publish(builder.finish(instant=datetime.now(UTC), disks={"disk0": SIZE}))
    target = PointId(T2, 1)
    written = place.do("write-disks", base=str(base), point=str(target))
    assert written == {"written": 2 * BLOCK, "retained": 2 * BLOCK}
    place.do("write-disks", fence=place.fence, base=str(base), point=str(target))
    assert read_point(place.store, target)["disk0"] == place.disk()
    assert place.do("rollback-disks") == {"restored": 2 * BLOCK}
    assert place.do("rollback-disks") == {"restored": 0}
    assert place.disk() == original
    place.do("write-disks", base=str(base), point=str(target))
    started = place.twice("start-original", base=str(target))
    assert started["machine"]["power"] == "running"
    place.do("forget", remove_tracking=True)
    place.do("forget", remove_tracking=True, timelines=[T2])
    assert place.store.timeline_ids() == []


@pytest.mark.qemu
def test_a_machine_on_a_point_is_made_and_removed_once(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(MiB))
    place.replicate()
    point = place.do("take-point", consistency="crash-consistent")["point"]
    place.do("stop-replication")
    like = place.site.machine("disks").to_json()
    made = place.do("start-from-point", vm="drill", like=like, point=point, test=True)  # isolated, unless it is said
    again = place.do(
        "start-from-point", fence=place.fence, vm="drill", like=like, point=point, test=True, network="isolated"
    )
    assert made["machine"]["uuid"] == again["machine"]["uuid"]
    with contextlib.closing(NbdClient(str(place.site.disks_socket("drill")), "disk0")) as client:
        assert client.read(0, client.size) == place.disk()
    assert [lease.owner for lease in place.store.leases()] == ["drill"]
    with pytest.raises(HomeportError):
        place.do(
            "start-from-point", vm="disks", like=like, point=point, test=True, network="isolated"
        )  # it has disks of its own
    assert "left" in place.do("remove-machine", vm="disks", test=True)
    assert place.site.machine("disks").power is Power.RUNNING
    assert place.twice("remove-machine", vm="drill", test=True) == {}
    assert [machine.name for machine in place.site.machines()] == ["disks"]
    assert place.store.leases() == []
