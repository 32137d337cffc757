"""The index costs what changed, never what a disk holds."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, REGION, MiB, TiB
from homeport.store import MemoryObjects, StoreError, block_digests, index, region_digests, sealed
from homeport.store.index import ROW, ZERO, overlay
from tests.store.stores import KEYS, NOW, T1, add_point, blocks, noise, spool_point, store

ranges = st.tuples(st.integers(0, 300), st.integers(0, 40), st.booleans())


@given(st.lists(ranges, max_size=40), st.booleans())
@settings(max_examples=150)
def test_rows_laid_over_each_other_are_what_painting_block_by_block_gives(
    painted: list[tuple[int, int, bool]], long: bool
) -> None:
    if long:
        painted = [*painted[:5], (0, 400, False), *painted[5:]]
    rows = np.zeros(len(painted), ROW)
    canvas: dict[int, tuple[int, int]] = {}
    for number, (first, count, data) in enumerate(painted):
        rows[number] = (first, count, number if data else ZERO, 0, 0, 0, number, 0)
        for block in range(first, first + count):
            canvas[block] = (number, block - first if data else 0)
    found = overlay(rows)
    assert (found["first"][1:] >= index.ends(found)[:-1]).all()
    got = {
        int(row["first"]) + step: (int(row["frame"]), int(row["skip"]) + (step if row["segment"] != ZERO else 0))
        for row in found
        for step in range(int(row["count"]))
    }
    assert got == canvas


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30))
def test_columns_come_back_as_they_went(values: list[int]) -> None:
    data = index.planes(np.array(values, np.int64), "<u4")
    assert index.unplanes(memoryview(data), len(values), "<u4").tolist() == values


def test_a_disk_of_64_tib_costs_its_rows_only(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    size = {"disk0": 64 * TiB}
    places = [n * 2 * TiB + n * 5 * BLOCK for n in range(32)] + [64 * TiB - BLOCK]
    tracemalloc.start()
    began = time.monotonic()
    first = add_point(writer, tmp_path, None, [("disk0", place, noise(1, BLOCK)) for place in places], size)
    builder = writer.builder(2, tmp_path, first)
    builder.zero("disk0", 10 * TiB, 20 * TiB)
    builder.write("disk0", 15 * TiB, noise(2, BLOCK))
    spooled = builder.finish(instant=NOW, disks=size, incarnation="")
    writer.publish(spooled)
    reader = found.open(PointId(T1, 2))
    assert reader.read("disk0", 64 * TiB - BLOCK - 5, BLOCK + 5) == bytes(5) + noise(1, BLOCK)
    assert reader.read("disk0", places[3], BLOCK) == noise(1, BLOCK)
    assert reader.read("disk0", places[7], BLOCK) == bytes(BLOCK)
    assert reader.read("disk0", 15 * TiB - 1, BLOCK + 2) == b"\0" + noise(2, BLOCK) + b"\0"
    assert reader.extents("disk0").total == BLOCK * (1 + sum(not 10 * TiB <= place < 30 * TiB for place in places))
    assert reader.changed_since(first, "disk0") == Extents.of([(10 * TiB, 20 * TiB)])
    assert reader.digests("disk0").blocks(15 * TiB // REGION)[0].any()
    assert found.expire(T1, [1]).dropped == [1]
    thinned = store(found.objects).open(PointId(T1, 2))
    assert thinned.read("disk0", places[3], BLOCK) == noise(1, BLOCK)
    assert thinned.read("disk0", places[7], BLOCK) == bytes(BLOCK)
    taken = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 20
    assert peak < 50 * MiB
    assert len(spooled.record()) < 4096


def test_tiny_changes_cost_less_than_a_hundred_bytes_each(tmp_path: Path) -> None:
    """Scattered single blocks of incompressible data: frame header, tag, directory, digest and index together."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    builder = writer.builder(1, tmp_path, None)
    count = 2000
    numbers = np.sort(np.random.default_rng(5).choice(1 << 22, count, replace=False)).tolist()
    for number in numbers:
        builder.write("disk0", number * BLOCK, noise(number, BLOCK))
    spooled = builder.finish(instant=NOW, disks={"disk0": 64 << 30}, incarnation="")
    overhead = (spooled.stored_bytes + len(spooled.record()) - count * BLOCK) / count
    assert overhead < 100


def test_writes_from_several_threads_and_twice_the_same_block(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    builder = writer.builder(1, tmp_path, None)
    size = 96 * MiB
    content = np.frombuffer(noise(1, size), np.uint8).copy()
    content[8 * MiB : 9 * MiB] = 0
    view = memoryview(content)

    def work(which: int) -> None:
        for place in range(which * MiB, size, 3 * MiB):
            builder.write("disk0", place, view[place : place + MiB])

    threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = noise(2, 5 * BLOCK)
    builder.write("disk0", 30 * BLOCK, again)
    content[30 * BLOCK : 35 * BLOCK] = np.frombuffer(again, np.uint8)
    spooled = builder.finish(instant=NOW, disks={"disk0": size}, incarnation="")
    assert len(spooled.segments) >= 3
    writer.publish(spooled)
    reader = found.open(PointId(T1, 1))
    assert reader.read("disk0", 0, size) == content.tobytes()
    assert reader.extents("disk0") == Extents.of([(0, 8 * MiB), (9 * MiB, size - 9 * MiB)])
    numbers, digests = spooled.changed_digests()["disk0"]
    assert numbers.tolist() == list(range(size // BLOCK))
    assert np.array_equal(digests, block_digests(KEYS, view))
    assert found.verify(deep=True).ok


def test_digests_come_from_a_map_and_from_directories_alike(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    size = 40 * MiB + 5 * BLOCK
    content = bytearray(size)
    content[: 3 * MiB] = noise(1, 3 * MiB)
    content[33 * MiB : 34 * MiB] = noise(2, MiB)
    digests = block_digests(KEYS, content)
    writes = [("disk0", 0, bytes(content))]
    point = add_point(writer, tmp_path, None, writes, {"disk0": size}, digest_maps={"disk0": digests})
    for seed in range(3, 6):
        place = seed * 4 * MiB
        content[place : place + 4 * BLOCK] = blocks(seed, 4)
        content[MiB : MiB + BLOCK] = bytes(BLOCK)
        writes = [("disk0", place, blocks(seed, 4)), ("disk0", MiB, bytes(BLOCK))]
        point = add_point(writer, tmp_path, point, writes, {"disk0": size})
    expected = block_digests(KEYS, content)
    assert isinstance(found.objects, MemoryObjects)
    for with_map in (True, False):
        if not with_map:
            for key in [key for key, _ in found.objects.list("machines/") if "/digests/" in key]:
                found.objects.delete(key)
        answers = store(found.objects).open(point).digests("disk0")
        assert np.array_equal(answers.regions(), region_digests(KEYS, expected))
        for region in range(3):
            part = expected[region * BLOCKS_PER_REGION : (region + 1) * BLOCKS_PER_REGION]
            assert np.array_equal(answers.blocks(region), part)
        with pytest.raises(ValueError):
            answers.blocks(3)


def test_a_reader_goes_on_while_what_is_below_it_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records so large that their index is fetched in pieces, thinned away after the reader was opened."""
    monkeypatch.setattr(sealed, "FIRST_READ", 512)
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    size = {"disk0": 1 << 28}
    point: PointId | None = None
    rng = np.random.default_rng(1)
    content: dict[int, bytes] = {}
    for _ in range(3):
        builder = writer.builder(point.number + 1 if point else 1, tmp_path, point)
        for number in rng.choice(size["disk0"] // BLOCK, 600, replace=False).tolist():
            content[number] = bytes([rng.integers(1, 255)]) * BLOCK
            builder.write("disk0", number * BLOCK, content[number])
        spooled = builder.finish(instant=NOW, disks=size, incarnation="")
        writer.publish(spooled)
        spooled.remove()
        point = spooled.point
    assert point is not None
    reader = store(found.objects).open(point)
    digests = reader.digests("disk0")
    assert found.expire(T1, [1, 2]).dropped == [1, 2]
    sample = sorted(content)[:: len(content) // 50]
    for number in sample:
        assert reader.read("disk0", number * BLOCK, BLOCK) == content[number]
    region = sample[0] // BLOCKS_PER_REGION
    expected = np.zeros((BLOCKS_PER_REGION, 16), np.uint8)
    for number, data in content.items():
        if number // BLOCKS_PER_REGION == region:
            expected[number % BLOCKS_PER_REGION] = block_digests(KEYS, data)[0]
    assert np.array_equal(digests.blocks(region), expected)


def test_a_wrong_use_of_a_builder_is_refused(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    size = {"disk0": 2 * BLOCK + 512}
    for disk, offset, data in (
        ("disk0", 0, bytes(512)),
        ("disk1", 0, noise(1, BLOCK)),
        ("disk0", 0, noise(1, 4 * BLOCK)),
    ):
        with pytest.raises(ValueError):
            spool_point(writer, 1, tmp_path, None, [(disk, offset, data)], size)
    with pytest.raises(ValueError):
        writer.builder(1, tmp_path, None).write("disk0", 512, bytes(BLOCK))
    with pytest.raises(ValueError):
        writer.builder(5, tmp_path, PointId(T1, 1))
    builder = writer.builder(1, tmp_path, None)
    builder.write("disk0", 2 * BLOCK, noise(1, 512))
    builder.finish(instant=NOW, disks=size, incarnation="")
    with pytest.raises(StoreError):
        builder.write("disk0", 0, bytes(BLOCK))


@pytest.mark.parametrize("small", [2 * BLOCK, 2 * BLOCK + 512], ids=["at a block's end", "within a block"])
def test_what_a_disk_lost_by_shrinking_does_not_come_back_when_it_grows(tmp_path: Path, small: int) -> None:
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    large = {"disk0": 6 * BLOCK}
    data = noise(1, 6 * BLOCK)
    first = add_point(writer, tmp_path, None, [("disk0", 0, data)], large)
    second = add_point(writer, tmp_path, first, [], {"disk0": small})
    third = add_point(writer, tmp_path, second, [("disk0", 5 * BLOCK, noise(2, BLOCK))], large)
    fourth = add_point(writer, tmp_path, third, [("disk0", 0, noise(3, BLOCK))], large)
    third_content = (data[:small].ljust(5 * BLOCK, b"\0")) + noise(2, BLOCK)
    fourth_content = noise(3, BLOCK) + third_content[BLOCK:]
    for thinned in (False, True):
        if thinned:
            result = found.expire(T1, [2, 3])
            # A size within a block can't be told by rows: that point's own record stays.
            assert result.dropped == ([3] if small % BLOCK else [2, 3])
        else:
            assert found.open(third).read("disk0", 0, 6 * BLOCK) == third_content
        reader = store(found.objects).open(fourth)
        assert reader.read("disk0", 0, 6 * BLOCK) == fourth_content
        assert np.array_equal(reader.digests("disk0").blocks(0), block_digests(KEYS, fourth_content))
        changed = reader.changed_since(first, "disk0")
        assert changed.clip(small, 5 * BLOCK) == Extents.of([(small, 5 * BLOCK - small)])
    assert found.verify(deep=True).ok
