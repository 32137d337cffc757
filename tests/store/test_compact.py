"""Compaction gives back space and nothing else: every retained point reads as before, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineStore, MemoryObjects, Objects, StoreUnavailable, folds, names
from homeport.store.errors import PointNotFound, StoreError
from tests.store.stores import KEYS, MACHINE, T1, T2, Crash, FaultyObjects, add_point, noise, read_all

SIZES = {"disk0": 64 * BLOCK, "disk1": 20 * BLOCK + 512}
POINTS = 9
DROPPED = [1, 2, 4, 5, 6, 8]
LEFT = {PointId(T1, 3), PointId(T1, 7), PointId(T1, 9), PointId(T2, 1)}

Contents = dict[PointId, dict[str, bytes]]


def make(folder: Path, objects: Objects, *, random: int = 1) -> Contents:
    """A history of overlapping writes of all sizes, with a fork."""
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    rng = np.random.default_rng(random)
    now = {disk: bytearray(size) for disk, size in SIZES.items()}
    result: Contents = {}
    parent: PointId | None = None
    for number in range(1, POINTS + 1):
        writes = [("disk0", 0, noise(1, 64 * BLOCK)), ("disk1", 0, noise(2, 20 * BLOCK + 512))] if number == 1 else []
        for turn in range(0 if number == 1 else 7):
            first, count = int(rng.integers(0, 55)), int(rng.integers(1, 10))
            data = bytes(count * BLOCK) if turn == 3 else noise(100 * number + turn, count * BLOCK)
            writes.append(("disk0", first * BLOCK, data))
        if number % 2:
            writes.append(("disk1", 20 * BLOCK, noise(number, 512)))
        for disk, offset, data in writes:
            now[disk][offset : offset + len(data)] = data
        parent = add_point(writer, folder, parent, writes, SIZES)
        result[parent] = {disk: bytes(data) for disk, data in now.items()}
        if number == 3:
            fork = {disk: bytearray(data) for disk, data in now.items()}
            fork["disk0"][: 5 * BLOCK] = noise(77, 5 * BLOCK)
            store.create_timeline(T2, parent=parent)
            add_point(store.writer(T2, "two"), folder, parent, [("disk0", 0, noise(77, 5 * BLOCK))], SIZES, 1)
            result[PointId(T2, 1)] = {disk: bytes(data) for disk, data in fork.items()}
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryObjects, Contents]:
    objects = MemoryObjects()
    return objects, make(tmp_path_factory.mktemp("history"), objects)


def copy(objects: MemoryObjects) -> MemoryObjects:
    result = MemoryObjects()
    result.objects = dict(objects.objects)
    return result


def check(objects: Objects, contents: Contents, *, deep: bool = False) -> set[PointId]:
    """Every point that is listed reads right."""
    store = MachineStore(objects, KEYS)
    points = {info.id for timeline in store.timeline_ids() for info in store.points(timeline, hidden=True)}
    for point in points:
        assert read_all(store, point) == contents[point], point
    if deep:
        assert store.verify(deep=True).problems == []
    return points


def space(objects: Objects) -> int:
    return sum(size for key, size in objects.list("machines/") if "/segment/" in key)


def care(objects: Objects) -> None:
    store = MachineStore(objects, KEYS)
    store.expire(T1, DROPPED)
    store.compact(T1, threshold=0.95)


def test_the_space_of_what_no_point_sees_comes_back_with_the_next_run(
    made: tuple[MemoryObjects, Contents],
) -> None:
    objects, contents = copy(made[0]), made[1]
    store = MachineStore(objects, KEYS)
    store.expire(T1, DROPPED)
    before = space(objects)
    dry = store.compact(T1, threshold=0.95, dry_run=True)
    assert dry.chosen > 0
    assert space(objects) == before
    reader = store.open(PointId(T1, 7))
    assert reader.read("disk0", 0, BLOCK) == contents[PointId(T1, 7)]["disk0"][:BLOCK]
    result = store.compact(T1, threshold=0.95)
    assert (result.chosen, result.records) == (dry.chosen, dry.records)
    assert result.left == {}
    assert space(objects) == before + result.written_bytes
    store.compact(T1, threshold=0.95)
    assert space(objects) == before + result.written_bytes - result.freed_bytes < before
    # Who opened the point before the old segments went reads on.
    assert reader.read("disk0", 0, SIZES["disk0"]) == contents[PointId(T1, 7)]["disk0"]
    assert check(objects, contents, deep=True) == LEFT
    assert store.verify().leftovers == []
    assert store.compact(T1, threshold=0.95).chosen == 0


def test_nothing_is_rewritten_above_the_threshold_and_no_more_than_the_budget(
    made: tuple[MemoryObjects, Contents],
) -> None:
    objects = copy(made[0])
    store = MachineStore(objects, KEYS)
    store.expire(T1, DROPPED)
    assert store.compact(T1, threshold=0.0, dry_run=True).chosen == 0
    everything = store.compact(T1, threshold=0.99, dry_run=True)
    some = store.compact(T1, threshold=0.99, budget=everything.copied_bytes // 2, dry_run=True)
    assert 0 < some.chosen < everything.chosen
    assert some.copied_bytes <= everything.copied_bytes // 2


class Unsure(FaultyObjects):
    """The call at which it would die is reported as failed instead, whether it was done or not."""

    def _step(self, action: object) -> None:
        try:
            super()._step(action)
        except Crash:
            raise StoreUnavailable("no answer") from None


@pytest.mark.parametrize("after", [False, True], ids=["lost", "done"])
@pytest.mark.parametrize("faults", [FaultyObjects, Unsure], ids=["crash", "reported failed"])
def test_no_call_of_expiring_and_compacting_is_one_to_fail_at(
    made: tuple[MemoryObjects, Contents], faults: type[FaultyObjects], after: bool
) -> None:
    objects, contents = made
    counting = faults(copy(objects))
    care(counting)
    care(counting)
    for at in range(1, counting.count + 1):
        inner = copy(objects)
        faulty = faults(inner, at, after=after)
        try:
            care(faulty)
            care(faulty)
        except (Crash, StoreUnavailable):
            assert check(inner, contents) >= LEFT, at
        for _ in range(2):
            care(inner)
        store = MachineStore(inner, KEYS)
        assert folds.survey(store, T1)[1] == []
        if at % 4 == 0:
            assert check(inner, contents, deep=True) == LEFT, at
            # A fold that died leaves its copies until its range is folded again.
            assert all("/fold/" in key or "/segment/" in key for key in store.verify().leftovers)


class Pausing(MemoryObjects):
    """Does something else, once, before or after the first put of a key that contains ``at``."""

    def __init__(self, objects: MemoryObjects, at: str, what: object, *, after: bool = False) -> None:
        super().__init__()
        self.objects = dict(objects.objects)
        self.at = at
        self.what = what
        self.after = after

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        mine = self.at != "" and self.at in key
        if mine:
            self.at = ""
        if mine and not self.after:
            self.what(self)  # type: ignore[operator]
        super().put(key, data, if_absent=if_absent)
        if mine and self.after:
            self.what(self)  # type: ignore[operator]


def expire_more(objects: Objects) -> None:
    MachineStore(objects, KEYS).expire(T1, [7])


def compact_too(objects: Objects) -> None:
    for _ in range(2):
        MachineStore(objects, KEYS).compact(T1, threshold=0.95)


def sweep_all(objects: Objects) -> None:
    for _ in range(2):
        MachineStore(objects, KEYS).expire(T1, [])
        folds.begin(MachineStore(objects, KEYS), T1)
        MachineStore(objects, KEYS).expire(T1, [])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", ["/segment/1", "/thin/", "/fold/"], ids=["segment", "record", "number"])
@pytest.mark.parametrize("what", [expire_more, compact_too, sweep_all])
def test_a_folder_paused_anywhere_loses_nothing_to_another(
    made: tuple[MemoryObjects, Contents], what: object, where: str, after: bool
) -> None:
    objects, contents = copy(made[0]), made[1]
    MachineStore(objects, KEYS).expire(T1, DROPPED)
    pausing = Pausing(objects, where, what, after=after)
    MachineStore(pausing, KEYS).compact(T1, threshold=0.95)
    left = LEFT - {PointId(T1, 7)} if what is expire_more else LEFT
    assert check(pausing, contents) == left
    for _ in range(3):
        care(pausing)
    assert check(pausing, contents, deep=True) == left


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", ["/thin/", "/fold/"], ids=["record", "number"])
def test_one_who_expires_paused_anywhere_loses_nothing_to_a_folder(
    made: tuple[MemoryObjects, Contents], where: str, after: bool
) -> None:
    """The record that it writes late names segments that are gone: it never comes to stand."""
    objects, contents = copy(made[0]), made[1]
    MachineStore(objects, KEYS).expire(T1, [1, 2, 4, 5, 8])
    pausing = Pausing(objects, where, compact_too, after=after)
    MachineStore(pausing, KEYS).expire(T1, [6])
    assert check(pausing, contents) - {PointId(T1, 6)} == LEFT
    care(pausing)
    care(pausing)
    assert check(pausing, contents, deep=True) == LEFT


def test_a_record_that_a_dying_folder_writes_late_is_readable_still(made: tuple[MemoryObjects, Contents]) -> None:
    """Its segments aren't taken for garbage as long as it could come into force."""
    objects, contents = copy(made[0]), made[1]
    MachineStore(objects, KEYS).expire(T1, DROPPED)

    class Dying(Pausing):
        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            armed = self.at != ""
            super().put(key, data, if_absent=if_absent)
            if armed and "/thin/" in key:
                raise Crash

    dying = Dying(objects, "/thin/", sweep_all)
    with pytest.raises(Crash):
        MachineStore(dying, KEYS).compact(T1, threshold=0.95)
    assert check(dying, contents, deep=True) == LEFT
    sweep_all(dying)
    for _ in range(3):
        compact_too(dying)
    assert check(dying, contents, deep=True) == LEFT
    assert MachineStore(dying, KEYS).verify().leftovers == []


def test_a_number_that_was_cleared_away_settles_nothing(made: tuple[MemoryObjects, Contents]) -> None:
    objects, contents = copy(made[0]), made[1]
    store = MachineStore(objects, KEYS)
    paused = folds.begin(store, T1)
    for number in DROPPED:
        store.expire(T1, [number])
    assert names.fold(MACHINE, T1, paused + 1) not in objects.objects
    assert folds.settle(MachineStore(objects, KEYS), T1, paused, [(2, 2)]) is None
    stands = folds.standing(store, T1)
    assert stands
    assert {((2, 2), paused)}.isdisjoint(stands)
    assert check(objects, contents, deep=True) == LEFT


def test_what_the_storage_holds_locked_is_left_for_a_later_run(made: tuple[MemoryObjects, Contents]) -> None:
    objects, contents = copy(made[0]), made[1]

    class Locked(MemoryObjects):
        locked = True

        def delete(self, key: str) -> None:
            if self.locked:
                raise StoreError(f"{key} is locked", code="store.locked")
            super().delete(key)

    bucket = Locked()
    bucket.objects = objects.objects
    store = MachineStore(bucket, KEYS)
    result = store.expire(T1, DROPPED)
    assert result.dropped == DROPPED
    assert result.locked >= len(DROPPED)
    assert store.compact(T1, threshold=0.95).locked > 0
    assert check(bucket, contents) == LEFT
    store.expire(T1, DROPPED)
    bucket.locked = False
    care(bucket)
    care(bucket)
    assert check(bucket, contents, deep=True) == LEFT
    assert store.verify().leftovers == []


def test_a_damaged_segment_is_left_as_it_is(made: tuple[MemoryObjects, Contents]) -> None:
    objects = copy(made[0])
    store = MachineStore(objects, KEYS)
    store.expire(T1, DROPPED)
    key = names.timeline(MACHINE, T1) + "segment/0000000001-0000000001"
    data = bytearray(objects.objects[key])
    data[5000] ^= 1
    objects.objects[key] = bytes(data)
    before = store.verify(deep=True)
    result = MachineStore(objects, KEYS).compact(T1, threshold=0.95)
    assert key in result.left
    MachineStore(objects, KEYS).compact(T1, threshold=0.95)
    after = MachineStore(objects, KEYS).verify(deep=True)
    assert {problem.object for problem in after.problems} == {problem.object for problem in before.problems} == {key}
    assert {problem.frame for problem in after.problems} == {problem.frame for problem in before.problems}


def test_what_a_dropped_point_had_changed_is_told_whole_or_not_at_all(tmp_path: Path) -> None:
    """A compacted record lacks what the next point covers: nobody may take it for all that the dropped ones wrote."""
    objects = MemoryObjects()
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    parent = None
    for number, count in enumerate([1, 1, 40, 40, 40, 40, 38, 1, 1], 1):
        data = noise(number, count * BLOCK)
        parent = add_point(writer, tmp_path, parent, [("disk0", 0, data)], {"disk0": 64 * BLOCK})

    def changed(one: int, other: int) -> int:
        reader = MachineStore(objects, KEYS).open(PointId(T1, one))
        return reader.changed_since(PointId(T1, other), "disk0").total // BLOCK

    store.expire(T1, [3, 4, 5, 6])
    assert changed(2, 6) == 40
    assert store.compact(T1, threshold=1.0).records == 1
    with pytest.raises(PointNotFound):
        changed(2, 6)
    assert (changed(2, 9), changed(9, 2), changed(9, 6)) == (40, 40, 38)
    # With the record of the point that covers it, the whole is known again.
    store.expire(T1, [7])
    assert store.scan(T1).thins == [(3, 7)]
    assert changed(2, 7) == 40
