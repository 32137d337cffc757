"""Layers change nothing but the time that opening takes: whatever becomes of them, every point reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import Corrupt, MachineStore, MemoryObjects, StoreUnavailable, layers, names, sealed
from homeport.store.chain import chain
from homeport.store.layers import build_layers, check_layer, useless_layers
from homeport.store.names import Segment
from tests.store.stores import KEYS, T1, T2, Crash, FaultyObjects, add_point, blocks, noise, read_all, store
from tests.store.synthetic import synthetic
from tests.store.test_timeline_model import Histories

SMALL: dict[str, Any] = {"LEVELS": (2, 4, 8), "_WORTH": 2}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of two, four and eight points."""
    for name, value in SMALL.items():
        monkeypatch.setattr(layers, name, value)


class LayeredHistories(Histories):
    """All that the model of timelines does, with layers that come, go and rot meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.multiple(layers, **SMALL)
        self.patch.start()

    def teardown(self) -> None:
        try:
            for key in self.keys():
                if self.damaged(key):
                    self.objects.delete(key)
            super().teardown()
        finally:
            self.patch.stop()

    def keys(self) -> list[str]:
        return [key for key in self.objects.objects if "/layer/" in key]

    def damaged(self, key: str) -> bool:
        data = self.objects.objects[key]
        try:
            sealed.check_bytes(key, data)
        except Corrupt:
            return True
        return False

    @precondition(lambda self: self.content)
    @rule(data=st.data(), limit=st.integers(1, 20))
    def build(self, data: st.DataObject, limit: int) -> None:
        timeline = data.draw(st.sampled_from(sorted(self.heads)))
        build_layers(self.store, timeline, limit)

    @precondition(lambda self: self.keys())
    @rule(data=st.data())
    def drop_a_layer(self, data: st.DataObject) -> None:
        self.objects.delete(data.draw(st.sampled_from(sorted(self.keys()))))

    @precondition(lambda self: self.keys())
    @rule(data=st.data(), where=st.floats(0, 1, exclude_max=True))
    def damage_a_layer(self, data: st.DataObject, where: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys())))
        found = bytearray(self.objects.objects[key])
        found[int(where * len(found))] ^= 1
        self.objects.objects[key] = bytes(found)
        self.reopen()


TestLayeredHistories = LayeredHistories.TestCase
TestLayeredHistories.settings = settings(
    max_examples=25, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)

SIZES = {"disk0": 40 * BLOCK, "disk1": 16 * BLOCK}


def history(folder: Path, count: int) -> tuple[MemoryObjects, dict[int, dict[str, bytes]]]:
    """Points 1 … count, and what they hold."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    now = {disk: bytearray(size) for disk, size in SIZES.items()}
    expected = {}
    point = None
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        writes = [
            ("disk0", int(rng.integers(0, 36)) * BLOCK, blocks(number, 4)),
            ("disk1", int(rng.integers(0, 14)) * BLOCK, blocks(number, 2) if number % 3 else bytes(2 * BLOCK)),
        ]
        for disk, offset, data in writes:
            now[disk][offset : offset + len(data)] = data
        point = add_point(writer, folder, point, writes, SIZES)
        expected[number] = {disk: bytes(data) for disk, data in now.items()}
    assert isinstance(found.objects, MemoryObjects)
    return found.objects, expected


def check(objects: MemoryObjects, expected: dict[int, dict[str, bytes]]) -> None:
    fresh = store(objects)
    for number, content in expected.items():
        assert read_all(fresh, PointId(T1, number)) == content


def layer_keys(objects: MemoryObjects) -> list[str]:
    return sorted(key for key in objects.objects if "/layer/" in key)


def reach_of(key: str) -> tuple[int, int]:
    first, last = key.rsplit("/", 1)[1].split("-")
    return int(first), int(last)


def copy(objects: MemoryObjects) -> MemoryObjects:
    result = MemoryObjects()
    result.objects = dict(objects.objects)
    return result


@pytest.mark.usefixtures("small")
def test_layers_are_built_once_and_bounded_and_spare_reads(tmp_path: Path) -> None:
    objects, expected = history(tmp_path, 18)
    found = store(objects)
    assert build_layers(found, T1, 3) == 3
    assert len(layer_keys(objects)) == 3
    assert build_layers(found, T1, 100) == 10
    ranges = [reach_of(key) for key in layer_keys(objects)]
    assert ranges == [(2, 3), (2, 7), (4, 5), (4, 7), (6, 7), (8, 9), (8, 11), (8, 15), (10, 11), (12, 13), (12, 15),
                      (14, 15), (16, 17)]  # fmt: skip
    assert build_layers(found, T1, 100) == 0
    assert build_layers(store(objects), T1, 100) == 0
    links = chain(store(objects), PointId(T1, 18))
    assert [point.number for point, _ in links] == [18, 17, 15, 7, 1]
    assert len(chain(store(objects), PointId(T1, 18), layers=False)) == 18
    check(objects, expected)
    report = found.verify(deep=True)
    assert (report.problems, report.leftovers) == ([], [])
    for reach in ranges:
        assert check_layer(found, found.scan(T1), reach) is None


@pytest.mark.usefixtures("small")
def test_nothing_is_asked_of_the_storage_while_no_run_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, _ = history(tmp_path, 7)
    found = store(objects)
    assert found.maintain(T1, 7) > 0
    monkeypatch.setattr(found, "scan", lambda timeline: pytest.fail("listed"))
    assert found.maintain(T1, 7) == found.maintain(T1, 8) == 0
    monkeypatch.undo()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
def test_a_crash_at_any_put_of_a_build_leaves_every_point_whole(tmp_path: Path, after: bool) -> None:
    base, expected = history(tmp_path, 9)
    counting = FaultyObjects(copy(base))
    build_layers(MachineStore(counting, KEYS), T1, 100)
    whole = layer_keys(counting.inner)
    assert counting.count == len(whole) > 3
    for at in range(1, counting.count + 1):
        inner = copy(base)
        with pytest.raises(Crash):
            build_layers(MachineStore(FaultyObjects(inner, at, after=after), KEYS), T1, 100)
        check(inner, expected)
        build_layers(MachineStore(inner, KEYS), T1, 100)
        assert layer_keys(inner) == whole


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", [5, 100, -30], ids=["header", "head", "rows"])
def test_a_damaged_layer_is_left_aside_and_reported(tmp_path: Path, place: int) -> None:
    objects, expected = history(tmp_path, 9)
    build_layers(store(objects), T1, 100)
    for key in layer_keys(objects):
        data = bytearray(objects.objects[key])
        data[place] ^= 1
        objects.objects[key] = bytes(data)
    check(objects, expected)
    reader = store(objects).open(PointId(T1, 9))
    assert reader.extents("disk0").total
    assert not reader.changed_since(PointId(T1, 9), "disk0")
    report = store(objects).verify()
    assert {problem.object for problem in report.problems} == set(layer_keys(objects))
    assert report.unusable == []


@pytest.mark.usefixtures("small")
def test_a_layer_that_says_something_else_than_its_records_is_reported(tmp_path: Path) -> None:
    objects, _ = history(tmp_path, 9)
    found = store(objects)
    build_layers(found, T1, 100)
    key = names.layer(found.machine, T1, 4, 7)
    record = found.layer(key)
    head = {name: value for name, value in record.head.items() if name != "sections"}
    sections = [record.opened.section(number + 1) for number in range(len(record.head["sections"]))]
    place = next(n for n, (_, shard, _) in enumerate(head["index"]) if shard >= 0) + 1
    sections[place] = sections[place][:4] + bytes([sections[place][4] + 1]) + sections[place][5:]
    objects.objects[key] = found.seal(key, sealed.LAYER, head, sections)
    problems = store(objects).verify().problems
    assert [problem.object for problem in problems] == [key]
    assert "rows" in problems[0].cause


@pytest.mark.usefixtures("small")
def test_a_reader_falls_back_when_a_layer_names_what_was_compacted_away(tmp_path: Path) -> None:
    """Records moved to other segments: layers that name the old ones are out of date, whichever their level."""
    objects, expected = history(tmp_path, 18)
    build_layers(store(objects), T1, 100)
    reader = store(objects).open(PointId(T1, 18))
    # Stands for the old segments of points 8 … 15, under names that no record knows.
    for key in layer_keys(objects):
        record = store(objects).layer(key)
        head = {name: value for name, value in record.head.items() if name != "sections"}
        table = record.segments
        table.rows["seq"] += 1000
        _, pages = table.pack()
        rest = [record.opened.section(number) for number in range(2, len(record.head["sections"]) + 1)]
        objects.objects[key] = store(objects).seal(key, sealed.LAYER, head, [*pages, *rest])
    check(objects, expected)
    assert reader.read("disk0", 0, SIZES["disk0"]) == expected[18]["disk0"]
    found = store(objects)
    live = {info for key in objects.objects if "/point/" in key for info in found.layer(key).segments.names()}
    assert [key for key, _ in useless_layers(found, found.scan(T1), live)] == layer_keys(objects)
    assert useless_layers(found, found.scan(T1)) == []
    assert found.verify().problems == []
    # Whenever a segment is deleted, such layers go too (a dead writer's), and sound ones are built.
    objects.put(Segment(T1, 0, 1).key(KEYS.machine), b"left")
    found.expire(T1, [])
    assert layer_keys(objects) == []
    assert found.maintain(T1, 18, limit=100) == len(live) - 5
    check(objects, expected)


@pytest.mark.usefixtures("small")
def test_a_segment_that_is_gone_is_damage_once_the_records_say_so_too(tmp_path: Path) -> None:
    objects, _ = history(tmp_path, 9)
    build_layers(store(objects), T1, 100)
    reader = store(objects).open(PointId(T1, 9))
    info = next(iter(store(objects).layer(names.point(KEYS.machine, PointId(T1, 9))).segments))
    objects.delete(info.segment.key(KEYS.machine))
    with pytest.raises(Corrupt):
        reader.read("disk0", 0, SIZES["disk0"])


class ThinningObjects(FaultyObjects):
    """Thins some points just before the build's ``at``-th read."""

    def __init__(self, inner: MemoryObjects, at: int, drop: list[int]) -> None:
        super().__init__(inner)
        self.left = at
        self.drop = drop

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.left -= 1
        if self.left == 0:
            MachineStore(self.inner, KEYS).expire(T1, self.drop)
        return super().get_range(key, offset, length)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("drop", [[3, 4], [4, 5, 6, 7], [2, 3, 8, 9, 10]], ids=["across", "a run", "two"])
def test_points_are_thinned_while_their_layers_are_built(tmp_path: Path, drop: list[int]) -> None:
    base, expected = history(tmp_path, 12)
    left = {number: content for number, content in expected.items() if number not in drop}
    at, thinned = 0, True
    while thinned:
        at += 1
        inner = copy(base)
        objects = ThinningObjects(inner, at, drop)
        build_layers(MachineStore(objects, KEYS), T1, 100)
        thinned = objects.left <= 0
        if thinned:
            check(inner, left)
            build_layers(MachineStore(inner, KEYS), T1, 100)
            check(inner, left)
            fresh = MachineStore(inner, KEYS)
            fresh.expire(T1, [])
            assert useless_layers(fresh, fresh.scan(T1)) == []
            assert fresh.verify().problems == []
    assert at > 10


@pytest.mark.usefixtures("small")
def test_a_thinned_run_keeps_the_layers_that_contain_it_whole(tmp_path: Path) -> None:
    objects, expected = history(tmp_path, 18)
    found = store(objects)
    build_layers(found, T1, 100)
    found.expire(T1, [4, 5, 6, 9, 10])
    left = [reach_of(key) for key in layer_keys(objects)]
    assert left == [(2, 3), (2, 7), (4, 7), (8, 11), (8, 15), (12, 13), (12, 15), (14, 15), (16, 17)]
    links = chain(store(objects), PointId(T1, 18))
    assert [point.number for point, _ in links] == [18, 17, 15, 7, 1]
    check(objects, {number: content for number, content in expected.items() if number not in (4, 5, 6, 9, 10)})


@pytest.mark.usefixtures("small")
def test_differences_and_forks_across_layers(tmp_path: Path) -> None:
    objects, expected = history(tmp_path, 18)
    found = store(objects)
    build_layers(found, T1, 100)
    found.create_timeline(T2, parent=PointId(T1, 10))
    writer = found.writer(T2, "two")
    point = PointId(T1, 10)
    for number in range(1, 6):
        point = add_point(writer, tmp_path, point, [("disk0", number * 3 * BLOCK, noise(number, BLOCK))], SIZES)
    build_layers(found, T2, 100)
    fresh = store(objects)
    reader = fresh.open(point)
    assert reader.changed_since(PointId(T1, 10), "disk0").blocks(BLOCK).tolist() == [3, 6, 9, 12, 15]
    for number in (3, 5, 12, 17):
        changed = set(reader.changed_since(PointId(T1, number), "disk0").blocks(BLOCK).tolist())
        mine = read_all(fresh, point)["disk0"]
        for block in range(SIZES["disk0"] // BLOCK):
            place = slice(block * BLOCK, (block + 1) * BLOCK)
            assert block in changed or mine[place] == expected[number]["disk0"][place]
        both = (np.random.default_rng(n).integers(0, 36) for n in range(min(number, 10) + 1, max(number, 10) + 1))
        assert changed <= {3, 6, 9, 12, 15}.union(*(range(first, first + 4) for first in both))


@pytest.mark.usefixtures("small")
def test_no_layer_over_a_disk_that_shrank_within_a_block(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    point = None
    data = noise(1, 6 * BLOCK)
    for number in range(1, 10):
        size = {"disk0": 2 * BLOCK + 512 if number == 5 else 6 * BLOCK}
        point = add_point(writer, tmp_path, point, [("disk0", 0, data)] if number == 4 else [], size)
    assert isinstance(found.objects, MemoryObjects)
    build_layers(found, T1, 100)
    # Four and five in one would lose the broken block; a run that begins with the small disk wouldn't.
    assert [reach_of(key) for key in layer_keys(found.objects)] == [(2, 3), (6, 7), (8, 9)]
    assert store(found.objects).open(PointId(T1, 9)).read("disk0", 0, 6 * BLOCK) == data[: 2 * BLOCK + 512].ljust(
        6 * BLOCK, b"\0"
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("written", [1, 4], ids=["below the layer", "within it"])
def test_what_a_disk_lost_by_shrinking_stays_lost_through_layers(tmp_path: Path, written: int) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    point = None
    data = noise(1, 6 * BLOCK)
    for number in range(1, 9):
        size = {"disk0": (2 if number == 5 else 6) * BLOCK}
        point = add_point(writer, tmp_path, point, [("disk0", 0, data)] if number == written else [], size)
    build_layers(found, T1, 100)
    links = chain(store(found.objects), PointId(T1, 8))
    assert [point.number for point, _ in links] == [8, 7, 1]
    expected = data[: 2 * BLOCK].ljust(6 * BLOCK, b"\0")
    assert store(found.objects).open(PointId(T1, 8)).read("disk0", 0, 6 * BLOCK) == expected
    assert found.verify(deep=True).problems == []


class Counting(FaultyObjects):
    """Counts what is read."""

    def __init__(self, inner: MemoryObjects) -> None:
        super().__init__(inner)
        self.reads = 0
        self.bytes = 0

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = super().get_range(key, offset, length)
        self.reads += 1
        self.bytes += len(data)
        return data


def test_opening_reads_tens_of_records_and_no_list_of_points() -> None:
    """Three hundred points of a disk of 64 TiB, made without data."""
    objects = MemoryObjects()
    found = MachineStore(objects, KEYS)
    synthetic(found, 300)
    while build_layers(found, T1, 100):
        pass
    counting = Counting(objects)
    listed: list[str] = []
    counting.list = lambda prefix: (listed.append(prefix), objects.list(prefix))[1]  # type: ignore[method-assign, func-returns-value]
    reader = MachineStore(counting, KEYS).open(PointId(T1, 300))
    assert counting.reads <= 20
    assert not any(prefix.endswith(("/point/", "/segment/")) for prefix in listed)
    reader.view.map.rows("disk0", 5)
    assert counting.reads <= 40


def test_a_storage_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = MemoryObjects()
    found = MachineStore(objects, KEYS)
    synthetic(found, 40)
    build_layers(found, T1, 100)

    def fail(key: str, offset: int, length: int) -> bytes:
        if "/layer/" in key:
            raise StoreUnavailable("no answer")
        return objects.get(key)[offset : offset + length]

    fresh = MachineStore(objects, KEYS)
    monkeypatch.setattr(objects, "get_range", fail)
    with pytest.raises(StoreUnavailable):
        fresh.open(PointId(T1, 40))
