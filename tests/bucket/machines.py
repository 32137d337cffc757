"""A machine with a history: what the tests of work on a bucket alone share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineStore, MemoryObjects, VaultKey, Writer, machine_key, seal_vault
from homeport.store.unlock import KeyFile
from tests.store.stores import MACHINE, T1, T2, add_point, blocks, read_all

FILE = KeyFile(bytes(range(32)))
VAULT_KEY = VaultKey("a vault", bytes(range(7, 39)))
SIZES = {"disk0": 60 * BLOCK, "disk1": 5 * BLOCK + 512}


@dataclass
class History:
    """Two timelines of one machine, and what each point held when it was made."""

    objects: MemoryObjects
    store: MachineStore
    spool: Path
    now: dict[str, bytearray] = field(default_factory=lambda: {disk: bytearray(size) for disk, size in SIZES.items()})
    expected: dict[PointId, dict[str, bytes]] = field(default_factory=dict)
    writers: dict[str, Writer] = field(default_factory=dict)
    seed: int = 0

    def writer(self, timeline: str) -> Writer:
        if timeline not in self.writers:
            self.writers[timeline] = self.store.writer(timeline, "test")
        return self.writers[timeline]

    def point(self, timeline: str, parent: PointId | None) -> PointId:
        """One more, that overwrites a third of the first disk and zeroes a little."""
        self.seed += 1
        at = self.seed * 7 % 40 * BLOCK
        zeros = at + 3 * BLOCK if self.seed % 2 else (at + 25 * BLOCK) % (58 * BLOCK)
        writes = [("disk0", at, blocks(self.seed, 20)), ("disk0", zeros, bytes(2 * BLOCK))]
        writes.append(("disk1", self.seed % 5 * BLOCK, blocks(self.seed + 99, 1)))
        for disk, offset, data in writes:
            self.now[disk][offset : offset + len(data)] = data
        made = add_point(self.writer(timeline), self.spool, parent, writes, SIZES)
        self.expected[made] = {disk: bytes(data) for disk, data in self.now.items()}
        return made

    def points(self) -> list[PointId]:
        return offered(self.store)


def history(spool: Path, *, first: int = 6, fork: int = 2) -> History:
    """Points T1/1 … T1/6, then a fork T2 with two."""
    objects = MemoryObjects()
    seal_vault(objects, VAULT_KEY, FILE)
    store = MachineStore(objects, machine_key(objects, VAULT_KEY, MACHINE, create=True))
    store.describe({"machine": {"uuid": MACHINE, "name": "web1"}})
    made = History(objects, store, spool)
    store.create_timeline(T1)
    point: PointId | None = None
    for _ in range(first):
        point = made.point(T1, point)
    if fork:
        store.create_timeline(T2, parent=point)
    for _ in range(fork):
        point = made.point(T2, point)
    return made


def offered(store: MachineStore) -> list[PointId]:
    return [point.id for timeline in store.timelines() for point in store.points(timeline.id, hidden=True)]


def check_whole(store: MachineStore, expected: dict[PointId, dict[str, bytes]]) -> list[PointId]:
    """Verified deep, and every point holds what it held; the points."""
    verified = store.verify(deep=True)
    assert verified.problems == []
    found = offered(store)
    for point in found:
        assert read_all(store, point) == expected[point]
    return found
