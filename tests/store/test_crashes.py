"""A crash at any put or delete leaves every earlier point whole, and the same work can be done again to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineStore, MemoryObjects, Objects, spooled_points
from tests.store.stores import KEYS, T1, T2, Crash, FaultyObjects, blocks, read_all, spool_point

SIZES = {"disk0": 40 * BLOCK, "disk1": 20 * BLOCK + 512}
SEED: dict[str, list[tuple[str, int, bytes]]] = {
    "part1": [("disk0", 0, blocks(1, 20))],
    "part2": [("disk0", 20 * BLOCK, blocks(2, 20)), ("disk1", 0, blocks(3, 10))],
}
POINTS: dict[int, list[tuple[str, int, bytes]]] = {
    1: [("disk0", 4 * BLOCK, blocks(4, 3)), ("disk1", 20 * BLOCK, b"tail".ljust(512, b"."))],
    2: [("disk0", 4 * BLOCK, blocks(5, 30))],
    3: [("disk1", 0, blocks(6, 10)), ("disk0", 0, bytes(8 * BLOCK))],
    4: [("disk0", 2 * BLOCK, blocks(7, 2))],
    5: [("disk0", 3 * BLOCK, blocks(8, 12))],
}
FORKED = [("disk0", 10 * BLOCK, blocks(9, 5))]


def expected() -> dict[PointId, dict[str, bytes]]:
    now = {disk: bytearray(size) for disk, size in SIZES.items()}
    result = {}

    def put(writes: list[tuple[str, int, bytes]]) -> dict[str, bytes]:
        for disk, offset, data in writes:
            now[disk][offset : offset + len(data)] = data
        return {disk: bytes(data) for disk, data in now.items()}

    for writes in SEED.values():
        put(writes)
    for number, writes in POINTS.items():
        result[PointId(T1, number)] = put(writes)
        if number == 3:
            fork = {disk: bytearray(data) for disk, data in result[PointId(T1, 3)].items()}
            for disk, offset, data in FORKED:
                fork[disk][offset : offset + len(data)] = data
            result[PointId(T2, 1)] = {disk: bytes(data) for disk, data in fork.items()}
    return result


EXPECTED = expected()


def history(objects: Objects, folder: Path) -> None:
    """The whole life of a timeline. Looks before it acts, so that it can be run again from the start."""
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    if not store.ended(T1):
        writer = store.writer(T1, "one")
        for name, writes in SEED.items():
            if store.head(T1) is not None:
                break
            done = {part.disk: part.ranges for part in writer.parts()}
            for disk, offset, data in writes:
                if disk not in done or done[disk].clip(offset, offset + len(data)).total < len(data):
                    part = spool_point(writer, 0, folder / name, None, writes, SIZES)
                    writer.publish_part(part)
                    break
        for spooled in spooled_points(folder / "spool"):
            writer.publish(spooled)
            spooled.remove()
        for number, writes in POINTS.items():
            head = store.head(T1)
            if head is None or head.number < number:
                spooled = spool_point(writer, number, folder / "spool", head, writes, SIZES)
                writer.publish(spooled)
                spooled.remove()
            if number == 3:
                store.create_timeline(T2, parent=PointId(T1, 3))
                if store.head(T2) == PointId(T1, 3):
                    other = store.writer(T2, "two")
                    for spooled in spooled_points(folder / "fork"):
                        spooled.remove()
                    spooled = spool_point(other, 1, folder / "fork", PointId(T1, 3), FORKED, SIZES)
                    other.publish(spooled)
                    spooled.remove()
            if number == 4:
                store.expire(T1, [1])
    store.end(T1, "test")
    if any(info.id.number == 4 for info in store.points(T1, hidden=True)):
        store.lease(PointId(T1, 4), "someone", 1000)
    store.expire(T1, [1, 2, 4])
    store.release(PointId(T1, 4), "someone")
    store.expire(T1, [1, 2, 4])
    store.hide(T1, 3)
    store.hide(T1, 5)
    store.describe({"name": "web1"})


def check(objects: Objects) -> set[PointId]:
    """Every point that is listed reads right."""
    store = MachineStore(objects, KEYS)
    found = set()
    for timeline in store.timeline_ids():
        for info in store.points(timeline, hidden=True):
            assert read_all(store, info.id) == EXPECTED[info.id]
            found.add(info.id)
    report = store.verify(deep=True)
    assert report.problems == []
    return found


FINAL = {PointId(T1, 3), PointId(T1, 5), PointId(T2, 1)}


def steps(tmp_path: Path) -> int:
    counting = FaultyObjects(MemoryObjects())
    history(counting, tmp_path)
    assert check(counting.inner) == FINAL
    return counting.count


def test_the_whole_history_can_be_run_twice(tmp_path: Path) -> None:
    objects = MemoryObjects()
    history(objects, tmp_path)
    before = check(objects)
    history(objects, tmp_path)
    assert check(objects) == before == FINAL


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_a_crash_at_any_put_or_delete_leaves_earlier_points_whole(tmp_path: Path, after: bool) -> None:
    total = steps(tmp_path / "count")
    assert total > 40
    for at in range(1, total + 1):
        inner = MemoryObjects()
        folder = tmp_path / str(at)
        with pytest.raises(Crash):
            history(FaultyObjects(inner, at, after=after), folder)
        survived = check(inner)
        history(inner, folder)
        assert check(inner) == FINAL, at
        assert survived - FINAL <= {PointId(T1, n) for n in (1, 2, 4)}
        store = MachineStore(inner, KEYS)
        assert store.ended(T1)
        # Nothing is left over but what a crash before the spool was complete may leave: unnamed segments of one epoch.
        assert all("/segment/" in key for key in store.verify().leftovers)


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_two_crashes_in_a_row_while_thinning_lose_nothing(tmp_path: Path, after: bool) -> None:
    base = MemoryObjects()
    history_up_to_thinning(base, tmp_path)
    counting = FaultyObjects(copy(base))
    MachineStore(counting, KEYS).expire(T1, [2, 3, 4])
    for first in range(1, counting.count + 1):
        for second in range(1, counting.count + 1):
            inner = copy(base)
            for at in (first, second):
                try:
                    MachineStore(FaultyObjects(inner, at, after=after), KEYS).expire(T1, [2, 3, 4])
                except Crash:
                    check(inner)
            MachineStore(inner, KEYS).expire(T1, [2, 3, 4])
            assert check(inner) == {PointId(T1, 1), PointId(T1, 5)}


def history_up_to_thinning(objects: Objects, folder: Path) -> None:
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    for name, writes in SEED.items():
        writer.publish_part(spool_point(writer, 0, folder / name, None, writes, SIZES))
    for number, writes in POINTS.items():
        parent = PointId(T1, number - 1) if number > 1 else None
        writer.publish(spool_point(writer, number, folder / "spool", parent, writes, SIZES))


def copy(objects: MemoryObjects) -> MemoryObjects:
    result = MemoryObjects()
    result.objects = dict(objects.objects)
    return result
