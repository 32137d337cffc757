"""Every operation on a store beside every other (docs/store-safety.md): one is paused amid its calls, the other runs to
its end, the first goes on. Whatever either is told, every point that is listed reads as it was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeport.bucket.copying import copy_machine
from homeport.bucket.rebuilding import rebuild
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import Fenced, MachineStore, MemoryObjects, PointNotFound
from homeport.store.keys import VaultKey
from tests.store.stores import KEYS, T1, T2, T3, VAULT, Crash, add_point, noise, read_all, spool_point

PAGE = Path(__file__).parents[2] / "docs" / "store-safety.md"
SIZES = {"disk0": 24 * BLOCK}
POINTS = 17
CHOSEN = PointId(T1, 12)
T4 = "4" * 16

Contents = dict[PointId, dict[str, bytes]]


class World:
    """A bucket and what its points must read as."""

    def __init__(self, objects: MemoryObjects, contents: Contents, folder: Path) -> None:
        self.objects = objects
        self.contents = contents
        self.folder = folder

    def check(self, *, deep: bool = True) -> None:
        store = MachineStore(self.objects, KEYS)
        points = [info.id for timeline in store.timeline_ids() for info in store.points(timeline, hidden=True)]
        for point in points:
            assert read_all(store, point) == self.contents[point], point
        assert not deep or store.verify().problems == []
        held = {lease.point for lease in store.leases()}
        held |= {info.parent for info in store.timelines() if info.parent is not None}
        assert held <= set(points)


def publish(world: World, store: MachineStore) -> None:
    head = store.head(T1)
    assert head is not None
    writer = store.writer(T1, "another")
    data = noise(99, 2 * BLOCK)
    spooled = spool_point(writer, head.number + 1, world.folder, head, [("disk0", 5 * BLOCK, data)], SIZES)
    before = world.contents[head]["disk0"]
    world.contents[spooled.point] = {"disk0": before[: 5 * BLOCK] + data + before[7 * BLOCK :]}
    writer.publish(spooled)


def part(world: World, store: MachineStore) -> None:
    writer = store.writer(T3, "first copy")
    writer.publish_part(spool_point(writer, 0, world.folder, None, [("disk0", 0, noise(5, BLOCK))], SIZES))


def read(world: World, store: MachineStore) -> None:
    assert read_all(store, CHOSEN) == world.contents[CHOSEN]
    assert read_all(store, PointId(T1, POINTS)) == world.contents[PointId(T1, POINTS)]


def lease(world: World, store: MachineStore) -> None:
    store.lease(CHOSEN, "a reader", 1000)


def fork(world: World, store: MachineStore) -> None:
    store.create_timeline(T4, parent=CHOSEN)


def end(world: World, store: MachineStore) -> None:
    store.end(T1, "failover")


def hide(world: World, store: MachineStore) -> None:
    store.hide(T1, 3)


def expire(world: World, store: MachineStore) -> None:
    store.expire(T1, [11, CHOSEN.number, 14])


def compact(world: World, store: MachineStore) -> None:
    """Twice: the second run deletes what the first replaced."""
    for _ in range(2):
        assert not [why for why in store.compact(T1, threshold=0.99).left.values() if "missing" in why]


def layers(world: World, store: MachineStore) -> None:
    store.maintain(T1)


def sweep(world: World, store: MachineStore) -> None:
    store.expire(T1, [])


def verify(world: World, store: MachineStore) -> None:
    assert store.verify(deep=True).problems == []


def copy(world: World, store: MachineStore) -> None:
    target = MemoryObjects()
    assert copy_machine(store, target, VaultKey(VAULT, bytes(32))).problems == []
    World(target, world.contents, world.folder).check()


def rebuild_(world: World, store: MachineStore) -> None:
    rebuild(store)


OPERATIONS: dict[str, Callable[[World, MachineStore], None]] = {
    "publish": publish, "part": part, "read": read, "lease": lease, "fork": fork, "end": end, "hide": hide,
    "expire": expire, "compact": compact, "layers": layers, "sweep": sweep, "verify": verify, "copy": copy,
    "rebuild": rebuild_,
}  # fmt: skip


def run(name: str, world: World, objects: object) -> None:
    """Being told no is fine: that a writer is fenced, that a point was dropped."""
    try:
        OPERATIONS[name](world, MachineStore(objects, KEYS))  # type: ignore[arg-type]
    except (Fenced, PointNotFound):
        pass


class Stepping:
    """Counts calls; at the ``at``-th (from 1), does ``what`` first."""

    def __init__(self, inner: MemoryObjects, at: int = 0, what: Callable[[], None] = lambda: None) -> None:
        self.inner = inner
        self.at = at
        self.what = what
        self.count = 0
        self.changes: list[int] = []

    def _step(self, changes: bool) -> None:
        self.count += 1
        if changes:
            self.changes.append(self.count)
        if self.count == self.at:
            self.what()

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._step(True)
        self.inner.put(key, data, if_absent=if_absent)

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        self._step(True)
        self.inner.put_file(key, path, if_absent=if_absent)

    def delete(self, key: str) -> None:
        self._step(True)
        self.inner.delete(key)

    def get(self, key: str) -> bytes:
        self._step(False)
        return self.inner.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._step(False)
        return self.inner.get_range(key, offset, length)

    def size(self, key: str) -> int:
        self._step(False)
        return self.inner.size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._step(False)
        return self.inner.list(prefix)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryObjects, Contents]:
    """Points enough for a layer, a fork, dropped points, dead space, an unfinished first copy, a crash's leftovers."""
    folder = tmp_path_factory.mktemp("prepared")
    objects = MemoryObjects()
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    now = bytearray(SIZES["disk0"])
    contents: Contents = {}
    parent: PointId | None = None
    for number in range(1, POINTS + 1):
        first, count = (0, 24) if number == 1 else (number * 7 % 20, 1 + number % 4)
        data = noise(number, count * BLOCK)
        now[first * BLOCK : (first + count) * BLOCK] = data
        parent = add_point(writer, folder, parent, [("disk0", first * BLOCK, data)], SIZES)
        contents[parent] = {"disk0": bytes(now)}
        if number == 8:
            store.create_timeline(T2, parent=parent)
            add_point(store.writer(T2, "two"), folder, parent, [("disk0", 0, noise(77, BLOCK))], SIZES, 1)
            contents[PointId(T2, 1)] = {"disk0": noise(77, BLOCK) + bytes(now[BLOCK:])}
    store.create_timeline(T3)
    store.expire(T1, [1, 2, 3, 5, 6, 7])
    with pytest.raises(Crash):
        MachineStore(_Dying(objects), KEYS).expire(T1, [9])
    return objects, contents


class _Dying(Stepping):
    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        super().put(key, data, if_absent=if_absent)
        if "/thin/" in key:
            raise Crash


@pytest.fixture(scope="module")
def steps(prepared: tuple[MemoryObjects, Contents], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """Of each operation, the calls at which it is paused."""
    result = {}
    for name in OPERATIONS:
        world = _world(prepared, tmp_path_factory.mktemp(name))
        counting = Stepping(world.objects)
        run(name, world, counting)
        world.check()
        changes = counting.changes
        result[name] = sorted({*changes[len(changes) * 3 // 4 :][:1], *([] if changes else [counting.count * 2 // 3])})
        if name in ("expire", "compact"):
            result[name] = sorted({*changes[:6], changes[-1]})
        elif name in ("read", "verify"):
            result[name] = [counting.count * part // 8 for part in (2, 5, 7)]
        elif name in ("lease", "fork"):
            result[name] = list(range(1, counting.count + 1))[-4:]
    return result


def _world(prepared: tuple[MemoryObjects, Contents], folder: Path) -> World:
    objects = MemoryObjects()
    objects.objects = dict(prepared[0].objects)
    return World(objects, dict(prepared[1]), folder)


@pytest.mark.parametrize("paused", OPERATIONS)
@pytest.mark.parametrize("other", OPERATIONS)
def test_every_pair_of_operations(
    prepared: tuple[MemoryObjects, Contents], steps: dict[str, list[int]], tmp_path: Path, paused: str, other: str
) -> None:
    for at in steps[paused]:
        world = _world(prepared, tmp_path / str(at))

        def meanwhile(world: World = world, at: int = at) -> None:
            run(other, World(world.objects, world.contents, tmp_path / f"other{at}"), world.objects)

        run(paused, world, Stepping(world.objects, at, meanwhile))
        world.check()
    # And on from there.
    store = MachineStore(world.objects, KEYS)
    store.expire(T1, [9])
    store.compact(T1, threshold=0.99)
    world.check(deep=False)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_names_every_pair_and_a_test_for_each_rule() -> None:
    text = PAGE.read_text()
    rules = dict(re.findall(r"^\* \*\*([A-Z]) — .*?\*\*(.*?)(?=^\* |^## )", text, re.MULTILINE | re.DOTALL))
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    table = [line.strip("| \n").split(" | ") for line in text.splitlines() if re.match(r"\| \w+ \|", line)]
    table = [[cell.strip(" |") for cell in row] for row in table if row[0] in OPERATIONS]
    header = re.search(r"^\| \| (publish.*) \|$", text, re.MULTILINE)
    assert header is not None
    names = list(OPERATIONS)
    assert listed == names == header[1].split(" | ") == [row[0] for row in table]
    cells = [cell for place, row in enumerate(table) for cell in " ".join(row[1:]).replace("|", " ").split()]
    assert len(cells) == len(names) * (len(names) + 1) // 2
    assert set(cells) == set(rules)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for rule, words in rules.items():
        (test,) = re.findall(r"\(`(test_\w+)`\)", words)
        assert f"def {test}(" in tests, (rule, test)
