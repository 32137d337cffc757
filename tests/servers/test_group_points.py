"""Points of a group's machines are of one instant: a chain of records that goes back and forth between two machines is
never out of order in any round.

Record n is written to A, flushed, then to B, flushed: at any instant B <= A <= B + 1.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import MiB, StorageDaemon, storage_daemon

from homeport.domain.groups import common, round_of
from homeport.domain.points import Consistency, PointInfo
from homeport.qemu import graph
from homeport.qemu.qmp import Qmp
from homeport.servers import replication as replications
from homeport.servers.crossing import Crossing
from homeport.servers.group_barrier import GroupBarrier
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.replication import Replication
from homeport.servers.replication_spec import ReplicationSpec, StoreAddress
from homeport.sources.hold import NothingRuns
from homeport.sources.qemu import QemuSource
from tests.servers.bucket import read_point
from tests.servers.rig import Rig

pytestmark = pytest.mark.qemu

NAMES = ("A", "B")
INTERVAL = 0.4
ROUNDS = 5


class Writer:
    """The load of both machines. A machine's lock is its processor: who holds it makes the machine stand still."""

    def __init__(self, daemons: list[StorageDaemon]) -> None:
        self.locks = [threading.Lock(), threading.Lock()]
        self.written = 0
        self._clients = [daemon.disk("disk0") for daemon in daemons]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            for lock, client in zip(self.locks, self._clients, strict=True):
                with lock:
                    client.write(0, number.to_bytes(8) + bytes(504))
                    client.flush()
            self.written = number
            time.sleep(0.001)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        for client in self._clients:
            client.close()


class Held:
    """As :class:`QemuHold`, of a machine whose processor is a lock of the writer's."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def hold(self) -> None:
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


class Machine:
    """``hold``: how it is made to stand still."""

    def __init__(self, rig: Rig, hold: Callable[[Qmp], Any]) -> None:
        self._rig = rig
        self._hold = hold

    def describe(self) -> dict[str, Any]:
        return {"name": "vm"}

    def source(self) -> QemuSource:
        daemon = self._rig.daemon
        return QemuSource(
            daemon.qmp,
            agent_path=None,
            scratch=daemon.folder / "scratch",
            scratch_limit=64 * MiB,
            nbd_dir=daemon.folder,
            nbd_server=daemon.nbd,
            hold=self._hold,
        )

    def quiesce(self, timeout: float) -> bool:
        return True

    def power_off(self) -> None:
        """It stays."""


class Pair:
    """Two machines of one group, and the loops that replicate them."""

    def __init__(self, daemons: list[StorageDaemon], folder: Path) -> None:
        self.daemons = daemons
        self.rigs = [Rig(daemon, folder / name) for daemon, name in zip(daemons, NAMES, strict=True)]
        self.barrier = GroupBarrier("g")
        self.gateways = [ObjectGateway(rig.objects, "token") for rig in self.rigs]
        for gateway in self.gateways:
            gateway.start()
        self.loops: list[Replication] = []

    def spec(self, number: int) -> ReplicationSpec:
        fields = {**self.rigs[number].spec.__dict__, "item": NAMES[number], "interval": INTERVAL, "retention": 3600.0}
        store = StoreAddress("b", self.gateways[number].url, "token")
        return ReplicationSpec(**{**fields, "store": store, "group": "g"})

    def begin(self, number: int, hold: Callable[[Qmp], Any]) -> Replication:
        rig = self.rigs[number]
        loop = Replication(
            self.spec(number), Machine(rig, hold), rig.own, rig.cache, "test", lambda report: None, Crossing(),
            barrier=self.barrier,
        )  # fmt: skip
        self.loops.append(loop)
        loop.start()
        return loop

    def points(self, number: int) -> list[PointInfo]:
        rig = self.rigs[number]
        return rig.store.points(rig.spec.timeline)

    def rounds(self) -> list[tuple[int, int]]:
        """Of each round that both have, the oldest first: the newest record on A, and on B."""
        members = dict(zip(NAMES, (self.points(0), self.points(1)), strict=True))
        found = []
        for each in reversed(common("g", members)):
            found.append(tuple(self.record(number, each.points[name]) for number, name in enumerate(NAMES)))
        return found  # type: ignore[return-value]

    def record(self, number: int, point: Any) -> int:
        return int.from_bytes(read_point(self.rigs[number].store, point)["disk0"][:8])

    def close(self) -> None:
        for loop in self.loops:
            loop.stop(30)
        for gateway in self.gateways:
            gateway.close()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(replications, "RETRY_AFTER", 0.05)
    with storage_daemon(2 * MiB) as one, storage_daemon(2 * MiB) as other:
        made = Pair([one, other], tmp_path)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def uneven_switches(monkeypatch: pytest.MonkeyPatch, daemons: list[StorageDaemon]) -> Iterator[None]:
    """B's view is always taken a while after A's, as on a busy host."""
    switch, chance = graph.switch, random.Random(3)

    def slow(qmp: Qmp, known: graph.Nodes, children: Any) -> None:
        if qmp.path == daemons[1].qmp and all(child.endswith("-cbw") for child in children.values()):
            time.sleep(0.02 + chance.random() / 50)
        switch(qmp, known, children)

    with monkeypatch.context() as patched:
        patched.setattr(graph, "switch", slow)
        yield


def until(condition: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_order(records: tuple[int, int]) -> bool:
    a, b = records
    return b <= a <= b + 1


def test_a_chain_over_two_machines_is_in_order_in_every_round(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(pair.daemons) as writer, uneven_switches(monkeypatch, pair.daemons):
        for number in (0, 1):
            pair.begin(number, lambda qmp, lock=writer.locks[number]: Held(lock))  # type: ignore[misc]
        until(lambda: len(pair.rounds()) >= ROUNDS)
    found = pair.rounds()
    assert all(in_order(each) for each in found), found
    assert found[-1][0] > found[0][0] + 10, "next to nothing was written meanwhile"
    mixed = [(early[0], late[1]) for early, late in pairwise(found)]
    assert not any(in_order(each) for each in mixed), "the check can't tell disks of two instants"
    for points in (pair.points(0), pair.points(1)):
        marked = [point for point in points if round_of(point, "g")]
        assert len(marked) >= ROUNDS
        assert len({point.group for point in marked}) == len(marked), "a mark was used twice"


def test_without_standing_still_the_same_chain_is_out_of_order(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the barrier alone can't do: the views are taken at about the same time, and that is not enough."""
    with Writer(pair.daemons), uneven_switches(monkeypatch, pair.daemons):
        for number in (0, 1):
            pair.begin(number, lambda qmp: NothingRuns())
        until(lambda: len(pair.rounds()) >= 3)
    assert not all(in_order(each) for each in pair.rounds()), pair.rounds()


def test_a_member_that_is_slow_takes_part_in_later_rounds_and_keeps_nobody_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B needs longer for each point than a round takes: A's points go on meanwhile, some rounds are common."""
    fast, slow = pair.begin(0, lambda qmp: NothingRuns()), pair.begin(1, lambda qmp: NothingRuns())
    until(lambda: pair.rounds())
    offer, kept_back = slow._offer, []

    def dawdle(*arguments: Any) -> None:
        """Until A has taken two more: the next round at least passes without B."""
        here = len(pair.points(0))
        try:
            until(lambda: len(pair.points(0)) >= here + 2)
        except AssertionError:
            kept_back.append(here)
        offer(*arguments)

    monkeypatch.setattr(slow, "_offer", dawdle)
    common_before = len(pair.rounds())
    until(lambda: kept_back or len(pair.rounds()) >= common_before + 2, 120)
    assert not kept_back
    assert fast.alive


def test_what_is_asked_of_one_machine_is_of_it_alone(pair: Pair) -> None:
    loops = [pair.begin(number, lambda qmp: NothingRuns()) for number in (0, 1)]
    until(lambda: pair.rounds())
    taken = loops[0].take_point(Consistency.CRASH, ("before patch",), 30)
    assert taken.group is None
    assert taken.notes == []
    before = len(pair.rounds())
    until(lambda: len(pair.rounds()) > before)
