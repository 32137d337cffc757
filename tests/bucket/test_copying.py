"""A copy of a store is consistent at every instant, whatever happens at either side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from homeport.bucket.copying import Copied, Diverged, copy_machine, prepare, to_copy
from homeport.domain.points import PointId
from homeport.store import (
    MachineStore,
    MemoryObjects,
    Objects,
    StoreError,
    VaultKey,
    machine_key,
    open_vault,
    seal_vault,
)
from homeport.store import rotation as keys
from homeport.store.unlock import KeyFile, Secret
from tests.bucket.machines import FILE, VAULT_KEY, History, check_whole, history, offered
from tests.store.stores import MACHINE, T1, T2, Crash, FaultyObjects


@pytest.fixture
def made(tmp_path: Path) -> History:
    return history(tmp_path / "spool")


def never() -> Secret:
    raise AssertionError("the target's secret was asked for")


def copied(made: History, target: Objects, source: Objects | None = None) -> Copied:
    store = MachineStore(source or made.objects, made.store.keys)
    vault = prepare(made.objects, VAULT_KEY, target, never)
    return copy_machine(store, target, vault)


def opened(target: Objects, secret: Secret = FILE) -> MachineStore:
    return MachineStore(target, machine_key(target, open_vault(target, secret), MACHINE))


def test_all_that_can_be_read_can_be_read_from_the_copy(made: History) -> None:
    made.store.expire(T1, [2, 3])
    made.store.hide(T1, 1)
    made.store.end(T1, "over")
    target = MemoryObjects()
    bytes_ahead = to_copy(made.store, target)
    moved: list[int] = []
    vault = prepare(made.objects, VAULT_KEY, target, never)
    done = copy_machine(made.store, target, vault, advance=moved.append)
    store = opened(target)
    assert check_whole(store, made.expected) == made.points()
    assert sum(moved) == bytes_ahead > 0
    assert (len(done.points), done.skipped, done.problems) == (len(made.points()), [], [])
    assert store.ended(T1)
    assert [point.hidden for point in store.points(T1, hidden=True)] == [True, False, False, False]
    assert store.description() == made.store.description()
    again = copied(made, target)
    assert (again.points, again.objects, again.bytes) == ([], 0, 0)


def test_only_what_is_missing_is_sent(made: History) -> None:
    target = MemoryObjects()
    first = copied(made, target)
    newest = made.point(T2, PointId(T2, 2))
    second = copied(made, target)
    assert second.points == [str(newest)]
    assert 0 < second.bytes < first.bytes // 3
    # What was dropped at the source stays at the target, what was dropped at the target isn't brought back.
    made.store.expire(T1, [1, 2])
    opened(target).expire(T1, [3, 4])
    made.point(T2, newest)
    third = copied(made, target)
    assert sorted(third.skipped) == [f"{T1}/3", f"{T1}/4"]
    found = check_whole(opened(target), made.expected)
    assert [str(point) for point in found] == [
        *(f"{T1}/{n}" for n in (1, 2, 5, 6)),
        *(f"{T2}/{n}" for n in (1, 2, 3, 4)),
    ]


@pytest.mark.parametrize("after", [False, True])
def test_a_copy_that_dies_anywhere_leaves_whole_points_and_goes_on(made: History, after: bool) -> None:
    made.store.expire(T1, [2, 3])
    counting = FaultyObjects(MemoryObjects())
    copied(made, counting)
    assert counting.count > 20
    seen = set()
    for at in range(1, counting.count + 1, 3):
        inner = MemoryObjects()
        with pytest.raises(Crash):
            copied(made, FaultyObjects(inner, at, after=after))
        if any(True for _ in inner.list(f"machines/{MACHINE}/key/")):
            seen.add(len(check_whole(opened(inner), made.expected)))
        copied(made, inner)
        assert check_whole(opened(inner), made.expected) == made.points()
    assert len(seen) > 3


class Watched:
    """A source at which something happens before its ``at``-th read."""

    def __init__(self, inner: MemoryObjects, at: int, event: object) -> None:
        self.inner, self.at, self.event = inner, at, event
        self.count = 0
        self.put, self.delete, self.list, self.size = inner.put, inner.delete, inner.list, inner.size
        self.put_file = inner.put_file

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.event()  # type: ignore[operator]

    def get(self, key: str) -> bytes:
        self._step()
        return self.inner.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._step()
        return self.inner.get_range(key, offset, length)


@pytest.mark.parametrize("step", range(0, 32, 4))
def test_points_dropped_and_taken_during_a_copy_do_no_harm(tmp_path: Path, step: int) -> None:
    made = history(tmp_path / "spool")

    def event() -> None:
        for drop in ([1, 2], [3], [5]):
            made.store.expire(T1, drop)
        made.point(T2, PointId(T2, 2))

    target = MemoryObjects()
    source = Watched(made.objects, step + 1, event)
    done = copied(made, target, source)
    assert source.count > step
    assert done.problems == []
    found = check_whole(opened(target), made.expected)
    assert set(found) >= {PointId(T1, 6), PointId(T2, 1), PointId(T2, 2)}
    copied(made, target)
    assert set(check_whole(opened(target), made.expected)) >= set(made.points())


def test_a_target_that_was_written_to_is_left_alone(made: History, tmp_path: Path) -> None:
    target = MemoryObjects()
    copied(made, target)
    theirs = History(target, opened(target), tmp_path / "other", made.now, dict(made.expected), seed=50)
    theirs.point(T2, PointId(T2, 2))
    before = check_whole(opened(target), theirs.expected)
    made.writers.clear()
    made.point(T2, PointId(T2, 2))
    with pytest.raises(Diverged) as raised:
        copied(made, target)
    assert raised.value.code == "store.copy-diverged"
    assert check_whole(opened(target), theirs.expected) == before


def test_a_later_writer_at_the_target_does_not_collide_with_what_was_copied(made: History, tmp_path: Path) -> None:
    target = MemoryObjects()
    copied(made, target)
    theirs = History(target, opened(target), tmp_path / "other", made.now, dict(made.expected), seed=50)
    theirs.point(T2, PointId(T2, 2))
    assert theirs.writer(T2).epoch > made.writer(T2).epoch
    check_whole(opened(target), theirs.expected)


class Acting(MemoryObjects):
    """Something happens once a thinning record was put."""

    def __init__(self) -> None:
        super().__init__()
        self.event: Callable[[], object] | None = None

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        super().put(key, data, if_absent=if_absent)
        if self.event is not None and "/thin/" in key:
            event, self.event = self.event, None
            event()


def test_what_stands_at_the_source_says_nothing_of_a_record_of_the_same_name_at_the_target(made: History) -> None:
    target = Acting()
    copied(made, target)
    assert made.store.expire(T1, [2, 3]).dropped == [2, 3]

    def event() -> None:
        copied(made, target)
        opened(target).expire(T1, [])  # takes the record back that isn't settled yet

    target.event = event
    assert opened(target).expire(T1, [2, 3]).dropped == []
    assert check_whole(opened(target), made.expected) == [*(PointId(T1, n) for n in range(1, 7)), *made.points()[-2:]]


def test_damage_at_the_source_is_named_and_copied_as_it_is(made: History) -> None:
    key = [key for key, _ in made.objects.list(f"machines/{MACHINE}/t/{T1}/segment/")][2]
    data = bytearray(made.objects.get(key))
    data[len(data) // 3] ^= 1
    made.objects.put(key, bytes(data), if_absent=False)
    target = MemoryObjects()
    done = copied(made, target)
    assert len(done.problems) == 1
    assert key in done.problems[0]
    assert target.get(key) == bytes(data)
    assert offered(opened(target)) == made.points()


def test_what_is_missing_at_the_source_is_left_out_with_the_points_that_need_it(made: History) -> None:
    key = [key for key, _ in made.objects.list(f"machines/{MACHINE}/t/{T1}/segment/")][2]
    made.objects.delete(key)
    target = MemoryObjects()
    done = copied(made, target)
    assert done.problems
    assert check_whole(opened(target), made.expected) == [PointId(T1, 1), PointId(T1, 2)]


def test_a_target_of_another_vault_or_key_is_told_apart(made: History) -> None:
    foreign = MemoryObjects()
    seal_vault(foreign, VaultKey.create(), FILE)
    with pytest.raises(StoreError) as raised:
        copied(made, foreign)
    assert raised.value.code == "store.other-vault"
    # Keys may change at either side: each keeps its own.
    target, other = MemoryObjects(), KeyFile.create()
    copied(made, target)
    keys.rotate(target, FILE, [other])
    made.point(T2, PointId(T2, 2))
    vault = prepare(made.objects, VAULT_KEY, target, lambda: other)
    copy_machine(made.store, target, vault)
    assert check_whole(opened(target, other), made.expected) == made.points()
