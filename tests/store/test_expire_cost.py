"""What expiring costs follows what is dropped, not what is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineStore, MemoryObjects
from tests.store.stores import KEYS, T1, add_point, noise


class Counting(MemoryObjects):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self.calls["put"] += 1
        super().put(key, data, if_absent=if_absent)

    def get(self, key: str) -> bytes:
        self.calls["get"] += 1
        return super().get(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.calls["list"] += 1
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self.calls["delete"] += 1
        super().delete(key)


def cost(folder: Path, points: int) -> tuple[Counter[str], Counter[str]]:
    """Of dropping ten points of many: by a process that did so before, and of an idle sweep."""
    objects = Counting()
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    parent: PointId | None = None
    writer = store.writer(T1, "before")
    for number in range(1, points + 1):
        if number == points // 2:
            writer = store.writer(T1, "restarted")
        parent = add_point(writer, folder, parent, [("disk0", 0, noise(number, BLOCK))], {"disk0": BLOCK})
    store.expire(T1, [2, 3])
    store.expire(T1, [])
    objects.calls.clear()
    store.expire(T1, list(range(10, 20)))
    dropping = Counter(objects.calls)
    objects.calls.clear()
    store.expire(T1, [])
    return dropping, Counter(objects.calls)


def test_the_cost_of_expiring_follows_what_is_dropped(tmp_path: Path) -> None:
    few, idle_few = cost(tmp_path / "few", 30)
    many, idle_many = cost(tmp_path / "many", 120)
    assert all(many[call] <= few[call] for call in many)
    assert idle_few == idle_many
    assert many["put"] == 4  # number, thinning record, mark, boundary
    assert many["list"] < 40
    assert few["get"] < 40
    assert idle_many["get"] < 10
