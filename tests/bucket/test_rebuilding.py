"""Records are made again from segments: the very same, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeport.bucket.rebuilding import Rebuilt, rebuild
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import Fenced, MachineStore, names
from tests.bucket.machines import SIZES, History, check_whole, history
from tests.store.stores import MACHINE, T1, T2, add_point, blocks, spool_point


@pytest.fixture
def made(tmp_path: Path) -> History:
    return history(tmp_path / "spool")


def fresh(made: History) -> MachineStore:
    """As another process sees it."""
    return MachineStore(made.objects, made.store.keys)


def rebuilt(made: History, *, newest: bool = False, dry_run: bool = False) -> Rebuilt:
    return rebuild(fresh(made), newest=newest, dry_run=dry_run)


def key_of(point: PointId) -> str:
    return names.point(MACHINE, point)


def lose(made: History, *points: PointId) -> dict[str, bytes]:
    lost = {key_of(point): made.objects.get(key_of(point)) for point in points}
    for key in lost:
        made.objects.delete(key)
    return lost


def test_a_whole_machine_needs_nothing(made: History) -> None:
    before = dict(made.objects.list(""))
    done = rebuilt(made)
    assert (done.points, done.maps, done.problems) == ([], [], [])
    assert {key for key, _ in made.objects.list("") if "/layer/" not in key} == set(before)


def test_lost_records_come_back_byte_for_byte(made: History) -> None:
    points = made.points()
    lost = lose(made, PointId(T1, 1), PointId(T1, 3), PointId(T1, 4), PointId(T1, 6), PointId(T2, 1))
    told = rebuilt(made, dry_run=True)
    assert all(key not in dict(made.objects.list("")) for key in lost)
    done = rebuilt(made)
    assert done.points == told.points == [f"{T1}/1", f"{T1}/3", f"{T1}/4", f"{T1}/6", f"{T2}/1"]
    assert done.problems == []
    assert {key: made.objects.get(key) for key in lost} == lost
    assert check_whole(fresh(made), made.expected) == points


def test_the_newest_points_come_back_though_nothing_names_them(made: History) -> None:
    points = made.points()
    lost = lose(made, PointId(T2, 1), PointId(T2, 2))
    done = rebuilt(made)
    assert (done.points, done.unproven, done.problems) == ([f"{T2}/1"], [f"{T2}/2"], [])
    done = rebuilt(made, newest=True)
    assert (done.points, done.unproven, done.problems) == ([f"{T2}/2"], [], [])
    assert made.objects.get(key_of(PointId(T2, 1))) == lost[key_of(PointId(T2, 1))]
    # Sealed anew: one salt must never seal twice.
    assert made.objects.get(key_of(PointId(T2, 2))) != lost[key_of(PointId(T2, 2))]
    assert check_whole(fresh(made), made.expected) == points
    with pytest.raises(Fenced):
        made.point(T2, PointId(T2, 2))


def test_all_records_of_a_timeline_come_back(made: History) -> None:
    points = made.points()
    lose(made, *points)
    assert rebuilt(made, newest=True).points == [str(point) for point in points]
    assert check_whole(fresh(made), made.expected) == points


def test_a_point_that_is_being_published_is_left_to_its_writer(made: History, tmp_path: Path) -> None:
    writer = made.writer(T2)
    spooled = spool_point(writer, 3, tmp_path / "late", PointId(T2, 2), [("disk0", 0, blocks(500, 2))], SIZES)
    for segment, _ in spooled.segments:
        made.objects.put(segment.key(MACHINE), spooled.file(segment.file).read_bytes())
    done = rebuilt(made)
    assert (done.points, done.unproven) == ([], [f"{T2}/3"])
    assert writer.publish(spooled).id == PointId(T2, 3)
    spooled.remove()


def test_a_damaged_record_is_replaced(made: History) -> None:
    key = key_of(PointId(T1, 2))
    good = made.objects.get(key)
    made.objects.put(key, good[:100] + bytes([good[100] ^ 1]) + good[101:], if_absent=False)
    assert rebuilt(made).points == [f"{T1}/2"]
    assert made.objects.get(key) == good


def test_what_was_dropped_stays_dropped(made: History) -> None:
    fresh(made).expire(T1, [2, 3, 4])
    offered = fresh(made).points(T1)
    assert rebuilt(made).points == []
    assert fresh(made).points(T1) == offered
    # Below the boundary nothing tells a lost point from a dropped one.
    lose(made, PointId(T1, 1))
    done = rebuilt(made)
    assert done.points == []
    assert any("may have been dropped" in problem for problem in done.problems)


def test_a_point_whose_segment_is_gone_is_reported_with_those_above_it_untouched(made: History) -> None:
    (segment,) = [info.segment for info in made.store.layer(key_of(PointId(T1, 3))).segments]
    lost = lose(made, PointId(T1, 3), PointId(T1, 4))
    made.objects.delete(segment.key(MACHINE))
    done = rebuilt(made)
    assert done.points == []
    assert [problem for problem in done.problems if f"{T1}/3" in problem]
    assert [problem for problem in done.problems if f"{T1}/4" in problem and "isn't there" in problem]
    assert not set(lost) & set(dict(made.objects.list("")))


def test_another_content_is_never_taken_for_the_lost_one(made: History, tmp_path: Path) -> None:
    """A writer that was fenced left a whole point of the same number, and the real one's segment is gone."""
    late = made.writer(T1)
    spooled = spool_point(late, 7, tmp_path / "late", PointId(T1, 6), [("disk0", 0, blocks(500, 2))], SIZES)
    for segment, _ in spooled.segments:
        made.objects.put(segment.key(MACHINE), spooled.file(segment.file).read_bytes())
    made.writers.clear()
    real = made.point(T1, PointId(T1, 6))
    assert real == PointId(T1, 7)
    lose(made, real)
    done = rebuilt(made)
    assert done.points == []
    assert any("several attempts" in problem for problem in done.problems)
    # With a successor that names it, the right one is found.
    spooled.remove()


def test_the_right_one_of_two_is_found_by_its_successors_hash(made: History, tmp_path: Path) -> None:
    late = made.writer(T1)
    spooled = spool_point(late, 7, tmp_path / "late", PointId(T1, 6), [("disk0", 0, blocks(500, 2))], SIZES)
    for segment, _ in spooled.segments:
        made.objects.put(segment.key(MACHINE), spooled.file(segment.file).read_bytes())
    spooled.remove()
    made.writers.clear()
    real = made.point(T1, PointId(T1, 6))
    made.point(T1, real)
    lost = lose(made, real)
    done = rebuilt(made)
    assert (done.points, done.problems) == ([str(real)], [])
    assert made.objects.get(key_of(real)) == lost[key_of(real)]


def test_an_attempt_that_was_never_published_is_left_alone_when_points_came_after(
    made: History, tmp_path: Path
) -> None:
    late = made.writer(T1)
    spooled = spool_point(late, 3, tmp_path / "late", PointId(T1, 2), [("disk0", 0, blocks(500, 2))], SIZES)
    for segment, _ in spooled.segments:
        made.objects.put(segment.key(MACHINE), spooled.file(segment.file).read_bytes())
    spooled.remove()
    assert rebuilt(made).points == []


def test_a_point_without_data_left_nothing_and_is_reported(made: History) -> None:
    writer = made.writer(T2)
    empty = add_point(writer, made.spool, PointId(T2, 2), [], SIZES)
    made.point(T2, empty)
    lose(made, empty)
    done = rebuilt(made)
    assert done.points == []
    assert any(str(empty) in problem and "no segment tells" in problem for problem in done.problems)


def test_a_first_point_takes_the_pieces_of_its_first_copy_in_again(tmp_path: Path) -> None:
    made = history(tmp_path / "spool", first=0, fork=0)
    writer = made.writer(T1)
    for number in range(3):
        data = blocks(number, 20)
        made.now["disk0"][number * 20 * BLOCK : (number + 1) * 20 * BLOCK] = data
        part = spool_point(writer, 0, made.spool, None, [("disk0", number * 20 * BLOCK, data)], SIZES)
        writer.publish_part(part)
        part.remove()
    first = made.point(T1, None)
    second = made.point(T1, first)
    fresh(made).expire(T1, [])  # the parts go
    lost = lose(made, first)
    done = rebuilt(made)
    assert (done.points, done.problems) == ([str(first)], [])
    assert made.objects.get(key_of(first)) == lost[key_of(first)]
    assert check_whole(fresh(made), made.expected) == [first, second]


def test_a_damaged_digest_map_is_made_again(made: History) -> None:
    from homeport.store import block_digests

    writer = made.writer(T2)
    maps = {disk: block_digests(made.store.keys, data) for disk, data in made.now.items()}
    point = add_point(writer, made.spool, PointId(T2, 2), [], SIZES, digest_maps=maps)
    made.expected[point] = {disk: bytes(data) for disk, data in made.now.items()}
    key = names.digests(MACHINE, point, "disk0")
    made.objects.put(key, made.objects.get(key)[:-9], if_absent=False)
    assert rebuilt(made).maps == [key]
    check_whole(fresh(made), made.expected)
