"""Two writers can't interleave; what is published twice is published once; what ended stays ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import (
    Fenced,
    MachineStore,
    MemoryObjects,
    PointNotFound,
    StoreError,
    block_digests,
    names,
    spooled_points,
)
from homeport.store.errors import StoreUnavailable, TimelineNotFound
from homeport.store.layout import in_force
from tests.store.stores import KEYS, MACHINE, T1, T2, add_point, blocks, read_all, spool_point, store

SIZES = {"disk0": 8 * BLOCK}


def write(seed: int) -> list[tuple[str, int, bytes]]:
    return [("disk0", 0, blocks(seed, 3))]


def test_an_older_writer_is_fenced_before_it_writes(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    old = found.writer(T1, "old")
    spooled = spool_point(old, 1, tmp_path, None, write(1), SIZES)
    new = found.writer(T1, "new")
    keys = set(found.objects.objects)  # type: ignore[attr-defined]
    with pytest.raises(Fenced) as raised:
        old.publish(spooled)
    assert raised.value.code == "store.fenced"
    assert set(found.objects.objects) == keys  # type: ignore[attr-defined]
    new.check()


def test_a_writer_fenced_between_its_check_and_its_record_learns_it(tmp_path: Path) -> None:
    """The point stays, whole; but its source is told not to forget."""

    class Late(MemoryObjects):
        armed = False

        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            if self.armed and "/point/" in key:
                self.armed = False
                MachineStore(self, KEYS).claim(T1, "another")
            super().put(key, data, if_absent=if_absent)

    objects = Late()
    found = store(objects)
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    spooled = spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    objects.armed = True
    with pytest.raises(Fenced):
        writer.publish(spooled)
    assert read_all(store(objects), PointId(T1, 1))["disk0"][: 3 * BLOCK] == blocks(1, 3)
    later = store(objects).writer(T1, "another")
    later.publish(spooled)  # the same bytes: published already
    assert [info.id.number for info in store(objects).points(T1)] == [1]


def test_two_writers_of_one_number_collide(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    first = found.writer(T1, "a")
    add_point(first, tmp_path / "a", None, write(1), SIZES)
    mine = spool_point(first, 2, tmp_path / "a", PointId(T1, 1), write(2), SIZES)
    second = found.writer(T1, "b")
    add_point(second, tmp_path / "b", PointId(T1, 1), write(3), SIZES)
    with pytest.raises(Fenced):
        first.publish(mine)
    third = found.writer(T1, "a again")
    with pytest.raises(Fenced):  # even its newest writer: another point 2 is there
        third.publish(mine)
    assert read_all(found, PointId(T1, 2))["disk0"][: 3 * BLOCK] == blocks(3, 3)


def test_ending_a_timeline_fences_a_live_writer_and_all_later_ones(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    add_point(writer, tmp_path, None, write(1), SIZES)
    waiting = spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    assert found.end(T1, "failover") == PointId(T1, 1)
    assert found.end(T1, "failover") == PointId(T1, 1)
    assert found.ended(T1)
    with pytest.raises(Fenced):
        writer.check()
    with pytest.raises(Fenced):
        writer.publish(waiting)
    with pytest.raises(Fenced):
        store(found.objects).writer(T1, "two")
    assert [info.id.number for info in found.points(T1)] == [1]
    assert found.head(T1) == PointId(T1, 1)


def test_the_end_mark_alone_stops_a_writer_that_saw_no_newer_epoch(tmp_path: Path) -> None:
    """Create-if-absent of the number is the fence that can't be missed."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    waiting = spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    found.end(T1, "failover")
    writer.check = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Fenced):
        writer.publish(waiting)
    assert found.points(T1) == []
    assert found.end(T1, "again") is None


def test_a_store_that_shows_nothing_at_all_is_no_fence_and_is_waited_for(tmp_path: Path) -> None:
    """An empty folder lies where its volume isn't mounted; what was there is there again later."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    add_point(writer, tmp_path, None, write(1), SIZES)
    waiting = spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    objects: dict[str, bytes] = found.objects.objects  # type: ignore[attr-defined]
    there = dict(objects)
    objects.clear()
    with pytest.raises(StoreUnavailable, match="nothing of timeline"):
        writer.publish(waiting)
    assert objects == {}
    objects.update(there)
    writer.publish(waiting)
    assert [info.id.number for info in found.points(T1)] == [1, 2]
    second = found.writer(T1, "two")
    del objects[names.epoch(MACHINE, T1, 2)]
    with pytest.raises(Fenced, match="set back"):
        second.check()


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    first = spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    second = spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    for _ in range(2):
        writer.publish(first)
        writer.publish(second)
    writer.publish(first)
    found.expire(T1, [1])
    writer.publish(first)  # dropped since: it was published, nothing comes back
    assert [info.id.number for info in found.points(T1)] == [2]
    assert not [key for key, _ in found.objects.list(names.timeline(MACHINE, T1) + "point/") if key.endswith("1")]


def test_a_restarted_writer_publishes_what_was_spooled_before(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    incomplete = writer.builder(3, tmp_path, PointId(T1, 2))
    incomplete.write("disk0", 0, blocks(3, 3))
    again = store(found.objects)
    newer = again.writer(T1, "one")
    spooled = spooled_points(tmp_path)
    assert [point.point.number for point in spooled] == [1, 2]
    assert not incomplete.path.exists()
    for point in spooled:
        newer.publish(point)
    add_point(newer, tmp_path, PointId(T1, 2), write(3), SIZES)
    assert read_all(again, PointId(T1, 3))["disk0"][: 3 * BLOCK] == blocks(3, 3)


def test_a_point_whose_parent_never_came_is_refused(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    lost = spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    child = spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    lost.remove()
    with pytest.raises(Fenced):
        writer.publish(child)
    other = spool_point(writer, 1, tmp_path, None, write(3), SIZES)
    writer.publish(other)
    with pytest.raises(Fenced):  # another point 1 than the one it was made on
        writer.publish(child)


def test_a_damaged_spooled_point_is_dropped_with_those_that_follow(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    second = spool_point(writer, 2, tmp_path, PointId(T1, 1), write(2), SIZES)
    spool_point(writer, 3, tmp_path, PointId(T1, 2), write(3), SIZES)
    with second.file(second.segments[0][0].file).open("ab") as file:
        file.write(b"x")
    assert [point.point.number for point in spooled_points(tmp_path)] == [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_first_point_must_take_in_all_parts(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    early = spool_point(writer, 1, tmp_path, None, write(1), SIZES)
    writer.publish_part(spool_point(writer, 0, tmp_path, None, write(2), SIZES))
    with pytest.raises(Fenced, match="leaves out parts"):
        writer.publish(early)


def test_a_timeline_keeps_its_parent_and_a_fork_needs_one_that_is_there(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    point = add_point(writer, tmp_path, None, write(1), SIZES)
    add_point(writer, tmp_path, point, write(2), SIZES)
    found.create_timeline(T2, parent=point, origin=PointId("f" * 16, 7))
    found.create_timeline(T2, parent=point, origin=PointId("f" * 16, 7))
    with pytest.raises(StoreError) as raised:
        found.create_timeline(T2, parent=PointId(T1, 2))
    assert raised.value.code == "store.other-timeline"
    assert found.head(T2) == point
    assert found.expire(T1, [1]).kept == {1: f"timeline {T2} forks from it"}
    with pytest.raises(PointNotFound):
        found.create_timeline("9" * 16, parent=PointId(T1, 99))
    with pytest.raises(StoreError) as raised:
        found.purge(T1)
    assert raised.value.code == "store.timeline-in-use"
    found.purge()
    assert list(found.objects.list("machines/")) == []


@pytest.mark.parametrize("begun", [False, True])
def test_of_two_who_make_a_timeline_one_may_find_its_parent_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """The parent's dropping was withdrawn between their looks: who takes the timeline back leaves it to a writer."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    point = add_point(writer, tmp_path, None, write(1), SIZES)
    other = store(found.objects)
    looks: list[PointId] = []

    def look(parent: PointId) -> None:
        looks.append(parent)
        if len(looks) == 2:
            other.create_timeline(T2, parent=point)
            if begun:
                add_point(other.writer(T2, "two"), tmp_path, point, write(2), SIZES, 1)
        if len(looks) % 2 == 0:
            raise PointNotFound("dropped just now")

    monkeypatch.setattr(found, "_must_be_offered", look)
    with pytest.raises(PointNotFound):
        found.create_timeline(T2, parent=point)
    assert other.timeline_ids() == ([T1, T2] if begun else [T1])
    if begun:
        assert [info.id for info in other.points(T2)] == [PointId(T2, 1)]
        with pytest.raises(PointNotFound):  # who finds it there looks again, too
            found.create_timeline(T2, parent=point)
        assert other.timeline_ids() == [T1, T2]
    else:
        with pytest.raises(TimelineNotFound):
            other.writer(T2, "two")


def test_a_digest_map_of_an_attempt_that_died_is_left_aside(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    died = found.writer(T1, "one")
    wrong = np.full((SIZES["disk0"] // BLOCK, 16), 7, np.uint8)
    spooled = spool_point(died, 1, tmp_path, None, write(1), SIZES, digest_maps={"disk0": wrong})
    died._upload(spooled, None)
    point = add_point(found.writer(T1, "two"), tmp_path, None, write(2), SIZES)
    assert any("/digests/" in key for key, _ in found.objects.list("machines/"))
    expected = block_digests(KEYS, read_all(found, point)["disk0"])
    assert np.array_equal(store(found.objects).open(point).digests("disk0").blocks(0), expected)


@pytest.mark.parametrize("dropped", [[], [1], [1, 2]])
def test_a_digest_map_counts_also_where_a_thinning_record_stands_for_its_point(
    tmp_path: Path, dropped: list[int]
) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    first = add_point(writer, tmp_path, None, write(1), SIZES)
    told = np.full((SIZES["disk0"] // BLOCK, 16), 7, np.uint8)  # to be told from what directories say
    second = add_point(writer, tmp_path, first, write(2), SIZES, digest_maps={"disk0": told})
    third = add_point(writer, tmp_path, second, [], SIZES)
    found.expire(T1, dropped)
    assert np.array_equal(store(found.objects).open(third).digests("disk0").blocks(0), told)


def test_leases_keep_points_and_run_out(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    parent: PointId | None = None
    for seed in range(4):
        parent = add_point(writer, tmp_path, parent, write(seed), SIZES)
    found.lease(PointId(T1, 2), "server/1", 1000)
    found.lease(PointId(T1, 3), "gone", -1)
    assert [(lease.point.number, lease.owner) for lease in found.leases()] == [(2, "server/1")]
    result = found.expire(T1, [1, 2, 3, 4])
    assert result.dropped == [1, 3]
    assert set(result.kept) == {2, 4}
    found.release(PointId(T1, 2), "server/1")
    assert found.expire(T1, [2]).dropped == [2]
    with pytest.raises(PointNotFound):
        found.lease(PointId(T1, 2), "late", 10)
    with pytest.raises(PointNotFound):
        found.open(PointId(T1, 2))
    assert found.leases() == []


def test_a_lease_taken_while_thinning_wins(tmp_path: Path) -> None:
    class Busy(MemoryObjects):
        armed = False

        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            if self.armed and "/thin/" in key:
                self.armed = False
                store(self).lease(PointId(T1, 2), "quick", 1000)
            super().put(key, data, if_absent=if_absent)

    objects = Busy()
    found = store(objects)
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    parent: PointId | None = None
    for seed in range(4):
        parent = add_point(writer, tmp_path, parent, write(seed), SIZES)
    objects.armed = True
    result = found.expire(T1, [1, 2, 3])
    assert result.dropped == []
    assert result.kept[2] == "leased by quick"
    assert [info.id.number for info in store(objects).points(T1)] == [1, 2, 3, 4]
    assert found.expire(T1, [1, 2, 3]).dropped == [1, 3]


def test_of_thinnings_that_cross_the_one_of_the_newer_fold_counts() -> None:
    assert in_force([((2, 4), 3), ((3, 6), 1)]) == ([(2, 4)], [(3, 6)])
    assert in_force([((2, 4), 3), ((3, 6), 5)]) == ([(3, 6)], [(2, 4)])
    assert in_force([((1, 3), 1), ((1, 4), 3)]) == ([(1, 4)], [(1, 3)])
    assert in_force([((1, 3), 5), ((1, 4), 3)]) == ([(1, 3)], [(1, 4)])
    assert in_force([((1, 3), 0), ((1, 4), 0)]) == ([(1, 4)], [(1, 3)])
    assert in_force([((8, 9), 1), ((1, 3), 1), ((4, 4), 3)]) == ([(1, 3), (4, 4), (8, 9)], [])
