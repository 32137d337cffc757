"""A site's work: refused when superseded, harmless when asked for twice, on machines of disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from homeport.servers.relay import Relay
from homeport.servers.replication_spec import ReplicationSpec
from homeport.servers.site_facts import device_of
from homeport.servers.work import NotReplicating, SiteWork, StaleWork, process_server_work
from homeport.servers.work.kinds import PARTS, Duty
from homeport.servers.work.process_server_work import ProcessServerWork
from homeport.servers.work.site_context import Params, Progress, Result, SiteContext
from homeport.servers.work.site_work import ServersHere
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
        answer = {"vault": KEYS.vault, "vault_key": "07" * 32, "passphrase": "a passphrase of some words"}
        self.work.greet(lambda greeting: answer)
        self.reports: list[dict[str, Any]] = []
        self.work.connect(self.reports.append)
        self.fence = 0
        self.store = MachineStore(self.objects, KEYS)

    @property
    def here(self) -> ServersHere:
        assert isinstance(self.work.servers, ServersHere)
        return self.work.servers

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
        store = {"site": "b", **self.here.process_server.gateway()}
        self.twice("prepare-timeline", timeline=timeline, description={"name": "disks"})
        self.twice("replicate", timeline=timeline, store=store, interval=3600)

    def close(self) -> None:
        self.work.stop()
        for machine in self.site.machines():
            self.site.delete(machine.name)
        for folder in (self.own / "points").glob("*"):
            self.work.provider.services.end(folder.name)


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


def test_a_restored_vault_makes_the_site_refuse_the_one_before(place: Place) -> None:
    place.do("prepare-timeline", fence=5, timeline=T1)
    assert place.do("raise-fence", fence=1_795_000_000_000) == {}
    with pytest.raises(StaleWork):
        place.do("points", fence=6, timeline=T1)


def test_an_item_is_described_where_it_has_points_and_nowhere_else(place: Place) -> None:
    told = {"machine": {"name": "disks"}, "item": {"name": "disks"}}
    place.twice("describe", description=told)
    assert list(place.store.descriptions()) == []
    place.do("prepare-timeline", timeline=T1, description={"name": "disks"})
    place.twice("describe", description=told)
    assert list(place.store.descriptions()) == [told, {"name": "disks"}]


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
def test_a_changed_policy_reaches_a_replication_that_runs_and_begins_none(place: Place) -> None:
    def told(**changes: Any) -> dict[str, Any]:
        return place.work.carry_out("renew-replication", {"item": "item", "timeline": T1, **changes}, quiet)

    assert told(interval=1, policy_at="2026-01-01") == {"renewed": False}
    with pytest.raises(NotReplicating):
        place.here.process_server.running("item")
    place.site.start("disks", StartOptions())
    place.replicate()
    place.do("take-point", consistency="crash-consistent")
    assert told(interval=1, app_consistent=0, retention=60, policy_at="2026-01-02") == {"renewed": True}
    running = place.here.process_server.running("item")
    assert (running.spec.interval, running.spec.retention) == (1, 60)
    before = running.head
    deadline = time.monotonic() + 30
    while running.head == before:  # within the new interval, though the old one was an hour
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told(interval=3600, app_consistent=0, retention=0, policy_at="2026-01-01")
    assert running.spec.interval == 1, "what was read earlier and came later doesn't count"
    assert told(timeline=T2, interval=5, policy_at="2026-01-03") == {"renewed": False}


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


@pytest.mark.qemu
def test_replication_that_was_paused_ships_what_changed_since_and_no_more(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(MiB))
    place.replicate()
    place.do("take-point", consistency="crash-consistent")
    place.write(5 * BLOCK, os.urandom(BLOCK))
    place.do("stop-replication")
    place.do("stop-replication", fence=place.fence)
    place.write(9 * BLOCK, os.urandom(BLOCK))
    place.replicate()
    taken = place.do("take-point", consistency="crash-consistent")
    assert read_point(place.store, PointId.parse(taken["point"]))["disk0"] == place.disk()
    shipped = [point.logical_bytes for point in place.store.points(T1)][1:]
    assert sum(shipped) == 2 * BLOCK
    assert set(taken["found_by"].values()) <= {"tracking", "tracked", "extents"}


def on_a_point(place: Place) -> str:
    """A recovery machine called "copy", running; its point."""
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(MiB))
    place.replicate()
    place.do("take-point", consistency="crash-consistent")
    place.write(0, os.urandom(BLOCK))
    point: str = place.do("take-point", consistency="crash-consistent")["point"]
    place.do("stop-replication")
    like = place.site.machine("disks").to_json()
    place.do("start-from-point", vm="copy", like=like, point=point, test=False)
    return point


def of_copy(place: Place) -> NbdClient:
    return NbdClient(str(place.site.disks_socket("copy")), "disk0")


@pytest.mark.qemu
def test_what_a_recovery_machine_wrote_is_kept_and_dropped(place: Place) -> None:
    point = on_a_point(place)
    with contextlib.closing(of_copy(place)) as client:
        client.write(7 * BLOCK, b"x" * BLOCK)
        client.flush()
        held = client.read(0, client.size)
    assert place.twice("stop-machine", vm="copy", timeout=5) == {"gone": False, "notes": []}
    assert place.site.machine("copy").power is Power.OFF
    place.do("start-original", vm="copy", base=None)  # when nothing could be kept
    assert place.site.machine("copy").power is Power.RUNNING
    place.do("stop-machine", vm="copy", timeout=5)
    kept = place.twice("import-base", vm="copy", timeline=T2, parent=point)
    assert kept["bytes"] == BLOCK
    place.twice("remove-machine", vm="copy", point=point, test=False)
    assert read_point(place.store, PointId.parse(kept["point"]))["disk0"] == held
    with pytest.raises(HomeportError) as refused:
        place.do("drop-timeline", timeline=T1)
    assert refused.value.code == "store.timeline-in-use"
    place.twice("drop-timeline", timeline=T2)
    assert place.store.timeline_ids() == [T1]
    assert read_point(place.store, PointId.parse(point))["disk0"] == place.disk()
    assert place.twice("stop-machine", vm="copy") == {"gone": True}


@pytest.mark.qemu
def test_a_machine_that_holds_its_disks_needs_no_points(place: Place) -> None:
    on_a_point(place)
    place.site.power_off("copy")
    with pytest.raises(HomeportError) as refused:
        place.do("hydrate", vm="copy")
    assert refused.value.code == "migration.machine-off"
    with pytest.raises(HomeportError) as refused:
        place.do("forget", timelines=[T1])
    assert refused.value.code == "store.in-use"
    place.site.start("copy", StartOptions())
    place.twice("hydrate", vm="copy")
    assert place.store.leases() == []
    assert not (place.own / "points" / "copy").exists()
    place.do("forget", timelines=[T1])
    assert place.store.timeline_ids() == []
    place.site.power_off("copy")
    place.site.start("copy", StartOptions())
    with contextlib.closing(of_copy(place)) as client:
        assert client.read(0, client.size) == place.disk()


@pytest.mark.qemu
def test_dropping_points_leaves_what_is_needed(place: Place) -> None:
    point = on_a_point(place)
    place.replicate()
    for number in range(4):
        place.write(number * BLOCK, os.urandom(BLOCK))
        place.do("take-point", consistency="crash-consistent")
    place.do("end-timeline", timeline=T1)
    points = [str(each.id) for each in place.store.points(T1)]
    number = points.index(point)
    kept = points[number + 2]
    upto = PointId.parse(points[-1]).number
    place.do("drop-points", timelines={T1: upto, T2: 5}, keep=[kept])
    again = place.do("drop-points", timelines={T1: upto}, keep=[kept])
    assert again == {"dropped": 0}
    assert place.store.points(T1) == []
    left = [str(each.id) for each in place.store.points(T1, hidden=True)]
    assert left == [point, kept, points[-1]]
    with contextlib.closing(of_copy(place)) as client:
        assert client.read(0, client.size) == read_point(place.store, PointId.parse(point))["disk0"]
    assert read_point(place.store, PointId.parse(points[-1]))["disk0"] == place.disk()


def test_a_machine_that_goes_on_elsewhere_does_not_run_while_its_process_server_still_ships(place: Place) -> None:
    place.site.start("disks", StartOptions())
    place.replicate()
    stop, power = place.here.process_server.kinds["stop-replication"], []

    def slow(params: Params, progress: Progress) -> Result:
        power.append(place.site.machine("disks").power)
        return stop(params, progress)

    place.here.process_server.kinds["stop-replication"] = slow
    place.twice("fence", reason="it was failed over", power_off=True)
    assert power[0] is Power.OFF
    with pytest.raises(NotReplicating):
        place.here.process_server.running("item")


def test_every_kind_of_work_has_roles_that_do_it(place: Place) -> None:
    """The table that says who does what, which servers apart go by, against what each role can."""
    roles = (place.work.provider, place.work.store, place.here.process_server, place.here.master_target)
    told = {(part.duty, part.kind) for parts in PARTS.values() for part in parts}
    assert told == {(role.duty, kind) for role in roles for kind in role.kinds}


def test_a_process_server_goes_on_by_itself_with_what_it_replicated(place: Place) -> None:
    def restarted() -> ProcessServerWork:
        context = SiteContext("a", place.site, place.own, place.objects, (place.own / "store").as_uri())
        work = ProcessServerWork(context)
        work.resume_own()
        return work

    place.site.start("disks", StartOptions())
    place.replicate()
    place.here.process_server.stop()
    again = restarted()
    assert again.running("item").spec.timeline == T1
    again.stop()
    place.do("stop-replication")
    paused = restarted()
    with pytest.raises(NotReplicating):
        paused.running("item")
    paused.stop()


def test_the_drives_of_a_master_target_are_listed_with_what_keeps_them_from_retention(place: Place) -> None:
    drives = place.here.master_target.facts()["retention_drives"]
    own = device_of(place.own)
    mine = next(each for each in drives if device_of(Path(each["path"])) == own)
    assert mine["reason"].startswith("in use: "), "machines, cache and store lie there"


def test_who_the_vault_no_longer_has_is_forgotten_with_its_answer_to_a_greeting(place: Place, tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    for name in ("ps1", "ps2"):
        relay.hello(name, Duty.PROCESS_SERVER, {"executor": "1"})
    relay._assign({"i": "ps1", "j": "ps2"})
    apart = SiteWork("a", place.site, place.own, place.objects, (place.own / "store").as_uri(), relay)
    told: list[dict[str, Any]] = []

    def hello(greeting: dict[str, Any]) -> dict[str, Any]:
        told.append(greeting)
        relay._assign({**relay._assigned, "new": "ps2"})  # while the vault answers
        return {"vault": KEYS.vault, "vault_key": "07" * 32, "gone": ["ps1"], "items": {"i": None}}

    apart.greet(hello)
    assert {each["name"]: each["items"] for each in told[0]["facts"]["servers"]} == {"ps1": ["i"], "ps2": ["j"]}
    assert {each["name"]: each["items"] for each in relay.servers()} == {"ps2": ["new"]}
    seen = apart.discover()
    assert [machine["name"] for machine in seen["machines"]] == ["disks"]
    assert [each["name"] for each in seen["facts"]["servers"]] == ["ps2"]
    rmtree(place.path)
    with pytest.raises(HomeportError, match="is not there"):
        apart.discover()


class Loop:
    """A replication that takes a while to stop."""

    made: list[Loop]

    def __init__(self, spec: ReplicationSpec, *arguments: Any, **options: Any) -> None:
        self.spec, self.alive, self.stopping = spec, True, False
        self.head = None
        assert not [loop for loop in self.made if loop.alive], "two loops would share the digest files"
        self.made.append(self)

    def start(self) -> None: ...

    def renew(self, raw: Params) -> None: ...

    def stop(self, timeout: float | None = None) -> bool:
        self.stopping = True
        time.sleep(0.2)
        self.alive = False
        return True


@pytest.fixture
def loop_params(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    """Of an item whose replication is a :class:`Loop`."""
    Loop.made = []
    monkeypatch.setattr(process_server_work, "Replication", Loop)
    server = place.here.process_server
    keys = {"vault": KEYS.vault, "machine_key": KEYS.key.hex()}
    yield {
        **{"item": "i", "vm": "disks", "machine": KEYS.machine, "interval": 3600, "keys": keys},
        **{"timeline": "1" * 16, "store": {"site": "b", **server.gateway()}},
    }
    server._replications.clear()


def test_two_that_start_an_items_replication_at_once_start_one(place: Place, loop_params: Params) -> None:
    """Both stop the loop of an earlier timeline first, which takes a while."""
    server = place.here.process_server
    server._start_replication(loop_params)
    later = {**loop_params, "timeline": "2" * 16}
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(server._start_replication, [later, later]))
    assert found[0] is found[1]
    assert [loop for loop in Loop.made if loop.alive] == [found[0]]


def test_a_replication_that_is_wanted_again_while_it_stops_begins_once_it_has(
    place: Place, loop_params: Params
) -> None:
    server = place.here.process_server
    server._start_replication(loop_params)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(server._stop_replication, loop_params, lambda *_: None)
        deadline = time.monotonic() + 5
        while not Loop.made[0].stopping:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        server._start_replication(loop_params)
        stopped.result(5)
    assert [loop.alive for loop in Loop.made] == [False, True]
    assert server.items() == ["i"]
