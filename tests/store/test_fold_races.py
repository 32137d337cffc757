"""Those who drop points, compact or sweep, with another's calls between any two of theirs: what one judges by lists
that are out of date loses no point. Each test pauses one at the call where that once did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineStore, MemoryObjects, Objects, folds
from homeport.store.errors import Locked
from homeport.store.names import FOLD_EPOCHS
from homeport.store.rewrite import Rewriter
from homeport.store.sweep import Swept
from tests.store.stores import T1, Crash, add_point, noise, read_all, spool_point, store

DISK = 64
SIZES = {"disk0": DISK * BLOCK}
WAIT = 30
"""Seconds after which a thread that isn't let on fails."""

Step = Callable[[str, str], None]
Writes = list[tuple[str, int, bytes]]


class Watched(MemoryObjects):
    """Another's view of a bucket: ``step(call, key or prefix)`` runs before each call, and as "listed" or "done" after
    each list or put; what it calls itself isn't watched."""

    def __init__(self, inner: MemoryObjects, step: Step) -> None:
        super().__init__()
        self.objects = inner.objects
        self._inner_step = step
        self._busy = False

    def _step(self, call: str, key: str) -> None:
        if not self._busy:
            self._busy = True
            try:
                self._inner_step(call, key)
            finally:
                self._busy = False

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._step("put", key)
        super().put(key, data, if_absent=if_absent)
        self._step("done", key)

    def get(self, key: str) -> bytes:
        self._step("get", key)
        return super().get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._step("get", key)
        return super().get_range(key, offset, length)

    def delete(self, key: str) -> None:
        self._step("delete", key)
        super().delete(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._step("list", prefix)
        found = list(super().list(prefix))
        self._step("listed", prefix)
        return iter(found)


class World:
    """A timeline, and what its points must read as."""

    def __init__(self, folder: Path, points: int, writes: Callable[[int], Writes] | None = None) -> None:
        self.folder = folder
        self.objects = MemoryObjects()
        self.head: PointId | None = None
        self.contents: dict[int, bytes] = {}
        self.disk = bytearray(DISK * BLOCK)
        own = store(self.objects)
        own.create_timeline(T1)
        self.add(own, points, writes)

    def add(self, own: MachineStore, points: int, writes: Callable[[int], Writes] | None = None) -> None:
        writer = own.writer(T1, "a writer")
        for _ in range(points):
            number = self.head.number + 1 if self.head else 1
            data = (writes or _two)(number)
            self.written(number, data)
            self.head = add_point(writer, self.folder, self.head, data, SIZES)

    def written(self, number: int, data: Writes) -> None:
        for _, offset, piece in data:
            self.disk[offset : offset + len(piece)] = piece
        self.contents[number] = bytes(self.disk)

    def watched(self, step: Step) -> MachineStore:
        return store(Watched(self.objects, step))

    def check(self, live: set[int]) -> None:
        """These points are offered, all that is offered reads as written, and nothing is damaged."""
        own = store(self.objects)
        there = {info.id.number for info in own.points(T1, hidden=True)}
        assert there == live
        for number in there:
            assert read_all(own, PointId(T1, number))["disk0"] == self.contents[number], number
        assert own.verify().problems == []


def _two(number: int) -> Writes:
    return [
        ("disk0", number * 3 % 60 * BLOCK, noise(number, BLOCK)),
        ("disk0", 61 * BLOCK, noise(1000 + number, BLOCK)),
    ]


def _many(start: int) -> Callable[[int], Writes]:
    return lambda number: [("disk0", at * BLOCK, noise(number * 100 + at, BLOCK)) for at in range(start, 40)]


def once(when: Callable[[str, str], bool], do: Callable[[], object]) -> Step:
    """The first time that a call is the one."""
    left = [do]

    def step(call: str, key: str) -> None:
        if left and when(call, key):
            left.pop()()

    return step


def die(objects: Objects) -> None:
    raise Crash


def a_thin_is_put(call: str, key: str) -> bool:
    return call == "put" and "/thin/" in key


def numbers(first: int, last: int) -> set[int]:
    return set(range(first, last + 1))


def test_a_record_that_vanishes_while_a_sweep_reads_names_its_segments_still(tmp_path: Path) -> None:
    world = World(tmp_path, 6)
    world.add(store(world.objects), 3)
    meanwhile = once(
        lambda call, key: call == "get" and key.endswith("/point/0000000000000001"),
        lambda: store(world.objects).expire(T1, [2, 3]),
    )
    world.watched(meanwhile).expire(T1, [])
    world.check({1, *numbers(4, 9)})


def test_a_list_that_takes_long_misses_no_record(tmp_path: Path) -> None:
    """A storage lists page by page: what another merges between two pages may be in neither. (And the sweeper, who
    remembers what the other records named, wouldn't notice that these are gone.)"""
    world = World(tmp_path, 10)
    world.add(store(world.objects), 2)
    for run in ([2, 3], [5, 6], [8, 9]):
        store(world.objects).expire(T1, run)

    class Paged(MemoryObjects):
        armed = False

        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            found = list(super().list(prefix))
            if self.armed and prefix.endswith(f"/{T1}/"):
                self.armed = False
                upto = next(key for key, _ in found if "/thin/0000000000000005" in key)
                store(world.objects).expire(T1, [4, 7])
                found = [entry for entry in found if entry[0] <= upto]
                found += [entry for entry in super().list(prefix) if entry[0] > upto]
            return iter(found)

    paged = Paged()
    paged.objects = world.objects.objects
    sweeper = store(paged)
    sweeper.expire(T1, [])
    paged.armed = True
    sweeper.expire(T1, [])
    assert not paged.armed
    world.check({1, 10, 11, 12})


def test_segments_that_a_record_names_are_not_discarded(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    for start in (0, 2):
        world.add(store(world.objects), 2, _many(start))
    own = store(world.objects)
    own.expire(T1, [2, 3])
    assert own.compact(T1, threshold=0.95).records == 1
    found = own.scan(T1)
    table = own.layer(found.thin_key((2, 3))).segments
    rewriter = Rewriter(own, tmp_path, T1, FOLD_EPOCHS + found.revision((2, 3)))
    rewriter.infos = [info for info in table if info.segment.epoch >= FOLD_EPOCHS]
    assert rewriter.infos
    rewriter.discard(Swept())
    world.check({1, 4, 5})


@pytest.mark.parametrize("then", ["another writer", "the end"])
def test_a_point_that_lands_while_a_sweep_lists_keeps_its_segments(tmp_path: Path, then: str) -> None:
    world = World(tmp_path, 5)
    writer = store(world.objects).writer(T1, "late")
    world.head = add_point(writer, tmp_path, world.head, _two(6), SIZES)
    world.written(6, _two(6))
    spooled = spool_point(writer, 7, tmp_path, world.head, _two(7), SIZES)
    world.written(7, _two(7))
    writer._upload(spooled, None)

    def lands() -> None:
        writer.publish(spooled)
        world.head = spooled.point
        if then == "the end":
            store(world.objects).end(T1, "moved")
        else:
            world.add(store(world.objects), 1)

    # the list of everything, which the sweep looks its segments up in
    meanwhile = once(lambda call, key: call == "listed" and key.endswith(f"/{T1}/"), lands)
    world.watched(meanwhile).expire(T1, [])
    world.check(numbers(1, 7 if then == "the end" else 8))


def test_what_one_call_takes_together_is_kept_together(tmp_path: Path) -> None:
    """Two runs with a thinning record between them become one record: nothing of it is reported as dropped, or
    dropped, where a lease holds a part."""
    world = World(tmp_path, 13)
    store(world.objects).expire(T1, [7, 8, 9])
    meanwhile = once(a_thin_is_put, lambda: store(world.objects).lease(PointId(T1, 5), "me", 1000))
    told = world.watched(meanwhile).expire(T1, [5, 6, 10, 11])
    assert (told.dropped, set(told.kept)) == ([], {5, 6, 10, 11})
    world.check({*numbers(1, 6), *numbers(10, 13)})
    store(world.objects).release(PointId(T1, 5), "me")
    assert store(world.objects).expire(T1, [5, 6, 10, 11]).dropped == [5, 6, 10, 11]
    world.check({*numbers(1, 4), 12, 13})


@pytest.mark.parametrize("at", [2, 3])
def test_a_withdrawn_record_that_was_listed_is_nobodys_word(tmp_path: Path, at: int) -> None:
    """One dies with its record unsettled; between a sweep's lists another withdraws that and drops half of it."""
    world = World(tmp_path, 13)
    lists = 0

    def step(call: str, key: str) -> None:
        nonlocal lists
        if not key.endswith("/thin/"):
            return
        if call == "list":
            lists += 1
            if lists == at:
                died = once(lambda call, key: call == "done" and "/thin/" in key, lambda: die(world.objects))
                with pytest.raises(Crash):
                    world.watched(died).expire(T1, range(5, 11))
        if call == "listed" and lists == at:
            store(world.objects).expire(T1, [5, 6, 7, 8])

    world.watched(step).expire(T1, [])
    assert lists >= at
    world.check({*numbers(1, 4), *numbers(9, 13)})


class Late:
    """One who folds in a thread, paused before its record is put, and once more after."""

    def __init__(self, world: World, work: Callable[[MachineStore], object]) -> None:
        self._ready, self._go, self._put, self._finish = Event(), Event(), Event(), Event()
        own = world.watched(self._step)
        self._thread = Thread(target=lambda: work(own), daemon=True)
        self._thread.start()
        assert self._ready.wait(WAIT)

    def _step(self, call: str, key: str) -> None:
        if a_thin_is_put(call, key):
            self._ready.set()
            assert self._go.wait(WAIT)
        if call == "done" and "/thin/" in key:
            self._put.set()
            assert self._finish.wait(WAIT)

    def put(self) -> None:
        self._go.set()
        assert self._put.wait(WAIT)

    def finish(self) -> None:
        self._go.set()
        self._finish.set()
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


def at_list(at: int, do: Callable[[], object]) -> Step:
    """Before the ``at``-th list of thinning records since a fold was begun."""
    begun = False
    lists = 0

    def step(call: str, key: str) -> None:
        nonlocal begun, lists
        begun = begun or (call == "put" and "/fold/" in key)
        if begun and call == "list" and key.endswith("/thin/"):
            lists += 1
            if lists == at:
                do()

    return step


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_late_record_of_one_who_compacts_is_not_taken_in(tmp_path: Path, at: int) -> None:
    world = World(tmp_path, 1)
    for start, points in ((0, 4), (2, 2)):
        world.add(store(world.objects), points, _many(start))
    world.add(store(world.objects), 2)
    store(world.objects).expire(T1, [2, 3, 4, 5])
    late = Late(world, lambda own: own.compact(T1, threshold=0.9))
    told = world.watched(at_list(at, late.put)).expire(T1, [6, 7])
    late.finish()
    assert told.dropped == [6, 7]
    world.check({1, 8, 9})


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("leased", [True, False])
def test_a_late_record_of_one_who_drops_points_is_not_taken_in(tmp_path: Path, at: int, leased: bool) -> None:
    """Neither its points, of which one was leased since, nor its word on what it freed."""
    world = World(tmp_path, 3)
    world.add(store(world.objects), 10, lambda number: [("disk0", 61 * BLOCK, noise(number, BLOCK))])
    theirs, ours = ((5, 8), (9, 10)) if leased else ((5, 10), (8, 10))
    late = Late(world, lambda own: own.expire(T1, sorted(numbers(*theirs))))
    if leased:
        store(world.objects).lease(PointId(T1, 7), "me", 1000)
    told = world.watched(at_list(at, late.put)).expire(T1, sorted(numbers(*ours)))
    late.finish()
    assert told.dropped == sorted(numbers(*ours))
    world.check(numbers(1, 13) - numbers(*ours))


def test_a_withdrawal_that_the_storage_refuses_is_never_settled(tmp_path: Path) -> None:
    world = World(tmp_path, 13)
    lease = once(a_thin_is_put, lambda: store(world.objects).lease(PointId(T1, 5), "me", 1000))

    def step(call: str, key: str) -> None:
        lease(call, key)
        if call == "delete" and "/thin/" in key:
            raise Locked("locked", key=key)

    told = world.watched(step).expire(T1, [5, 6, 10, 11])
    assert (told.dropped, set(told.kept), told.locked) == ([10, 11], {5, 6}, 1)
    # once it isn't locked any more
    store(world.objects).expire(T1, [])
    world.check({*numbers(1, 9), 12, 13})


def test_numbers_that_vanish_while_they_are_read_are_listed_again(tmp_path: Path) -> None:
    world = World(tmp_path, 13)
    for number in (3, 5):
        store(world.objects).expire(T1, [number])
    stand = folds.standing(store(world.objects), T1)
    assert stand

    def others() -> None:
        for number in (7, 9):
            store(world.objects).expire(T1, [number])

    meanwhile = once(lambda call, key: call == "get" and "/fold/" in key, others)
    seen = folds.standing(world.watched(meanwhile), T1)
    assert seen == folds.standing(store(world.objects), T1)
    assert seen != stand
