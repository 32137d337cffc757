"""Reading a point in pieces: what is sent from the cache is what is stored, each frame is fetched once, and a segment
that moved is found again."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, KiB, MiB
from homeport.store import MachineStore, MemoryObjects, StoreUnavailable
from homeport.store.cache import Cache
from homeport.store.disk_reader import Pieces
from homeport.store.errors import CorruptFrame, PointNotFound
from homeport.store.frame_cache import FrameCache
from homeport.store.names import Segment
from homeport.store.read_ahead import FRAME, FetchPool, ReadAhead
from tests.store.stores import KEYS, NOW, T1, add_point, blocks, noise

SIZE = 24 * MiB  # two regions
DISK = "disk0"


def joined(pieces: Pieces) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)  # bytes(n) of a number is n zeroes


class CountingObjects(MemoryObjects):
    """Counts ranged reads of segments, and may hold them up or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []
        self.before: Callable[[], None] = lambda: None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if "/segment/" in key:
            self.asked.append((key, offset, length))
            self.before()
        return super().get_range(key, offset, length)


def one_point(content: bytes, objects: MemoryObjects | None = None, cache: int = 64 * MiB) -> MachineStore:
    objects = objects or MemoryObjects()
    store = MachineStore(objects, KEYS, cache_bytes=cache)
    store.create_timeline(T1)
    with tempfile.TemporaryDirectory() as spool:
        add_point(store.writer(T1, "test"), Path(spool), None, [(DISK, 0, content)], {DISK: len(content)})
    return MachineStore(objects, KEYS, cache_bytes=cache)


# -- properties --------------------------------------------------------------------------------------------------------

places = st.tuples(st.integers(0, SIZE // BLOCK - 1), st.integers(1, 40), st.integers(0, 9), st.booleans())
sizes = st.sampled_from([SIZE, SIZE - 512, 17 * MiB + 4096 * 5, 5 * BLOCK + 100, 16 * MiB])
reads = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=6)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=st.lists(st.tuples(sizes, st.lists(places, max_size=6)), min_size=1, max_size=4),
    reads=reads,
    cache=st.sampled_from([MiB, 64 * MiB]),
)
def test_pieces_are_what_was_written(
    history: list[tuple[int, list[tuple[int, int, int, bool]]]], reads: list[tuple[float, float, bool]], cache: int
) -> None:
    """Disks that shrink and grow, writes over writes, zeroes; reads of any alignment; with a cache that is too small
    and one that holds all."""
    store = MachineStore(MemoryObjects(), KEYS, cache_bytes=cache)
    store.create_timeline(T1)
    model = bytearray()
    point: PointId | None = None
    with tempfile.TemporaryDirectory() as spool:
        writer = store.writer(T1, "test")
        for size, writes in history:
            model = model[:size].ljust(size, b"\0")
            builder = writer.builder(point.number + 1 if point else 1, Path(spool), point)
            for first, count, seed, zero in writes:
                start, end = first * BLOCK, min((first + count) * BLOCK, size)
                if start >= end:
                    continue
                if zero:
                    model[start:end] = bytes(end - start)
                    builder.zero(DISK, start, end - start)
                else:
                    model[start:end] = blocks(seed, count)[: end - start]
                    builder.write(DISK, start, model[start:end])
            spooled = builder.finish(instant=NOW, disks={DISK: size}, incarnation="")
            writer.publish(spooled)
            spooled.remove()
            point = PointId(T1, (point.number if point else 0) + 1)
    assert point
    reader = store.open(point)
    disk = reader.disk(DISK)
    size = len(model)
    for where, share, small in reads:
        offset = int(where * (size - 1))
        length = 1 + int(share * (min(size - offset, 4096 if small else size) - 1))
        expected = model[offset : offset + length]
        at_hand = disk.at_hand(offset, length)
        assert at_hand is None or joined(at_hand) == expected
        found = disk.pieces(offset, length)
        assert joined(found) == expected
        assert all(found), "an empty piece"
        assert all(piece.readonly for piece in found if isinstance(piece, memoryview))
        assert reader.read(DISK, offset, length) == expected
        if cache > size:
            again = disk.at_hand(offset, length)
            assert again is not None
            assert joined(again) == expected
    assert reader.frames.weight <= cache


def test_what_a_disk_lost_when_it_shrank_is_zeroes_when_it_grew_again(tmp_path: Path) -> None:
    """Cut within a block; and the disk's short end, whose frame is as short, also where a thinning record says that
    the disk was longer."""
    store = MachineStore(MemoryObjects(), KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "test")
    long, middle, short = 5 * BLOCK + 100, 4 * BLOCK + 700, 3 * BLOCK + 50
    content = noise(9, long)
    points = [add_point(writer, tmp_path, None, [(DISK, 0, content)], {DISK: long})]
    for size in (8 * BLOCK, 8 * BLOCK, middle, short, 8 * BLOCK):
        points.append(add_point(writer, tmp_path, points[-1], [], {DISK: size}))
    grown = content.ljust(8 * BLOCK, b"\0")
    expected = [content, grown, grown, content[:middle], content[:short]]
    expected.append(content[:short].ljust(8 * BLOCK, b"\0"))

    def check(kept: list[int]) -> None:
        for number in kept:
            disk = store.open(points[number]).disk(DISK)
            for _ in range(2):  # as it is fetched, then from memory
                for offset in (0, short - 10, 5 * BLOCK, 5 * BLOCK + 90):
                    whole = expected[number][offset:]
                    for wanted in (whole, whole[:20]):
                        if wanted:
                            assert joined(disk.pieces(offset, len(wanted))) == wanted
                            again = disk.at_hand(offset, len(wanted))
                            assert again is not None
                            assert joined(again) == wanted

    check([0, 1, 2, 3, 4, 5])
    store.expire(T1, [1, 2])
    check([2, 3, 4, 5])
    store.expire(T1, [4, 5])
    check([2, 5])


@settings(max_examples=50)
@given(steps=st.lists(st.tuples(st.sampled_from("pgd"), st.integers(0, 9), st.integers(0, 40)), max_size=80))
def test_a_cache_keeps_its_bound_and_gives_what_was_put(steps: list[tuple[str, int, int]]) -> None:
    cache: Cache[bytes] = Cache(100, len)
    last: dict[int, bytes] = {}
    for step, key, weight in steps:
        if step == "p":
            last[key] = cache.put(key, bytes([key]) * weight)
        elif step == "d":
            cache.drop(key)
            last.pop(key, None)
        else:
            assert cache.get(key) in (None, last.get(key))
        kept = {key: value for key in range(10) if (value := cache._items.get(key))}
        assert cache.weight == sum(entry.weight for entry in kept.values()) <= 100
        assert len(cache._queue) <= 2 * len(kept) + 64


def test_what_is_used_stays_when_much_passes_by() -> None:
    cache: Cache[bytes] = Cache(10, len)
    cache.put("dear", b"x")
    for number in range(100):
        cache.put(number, b"x")
        assert cache.get("dear")
    assert cache.weight <= 10
    assert 50 not in cache


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_many_readers_of_one_frame_fetch_it_once() -> None:
    objects = CountingObjects()
    store = one_point(noise(1, MiB), objects)
    reader = store.open(PointId(T1, 1))
    go = threading.Event()
    objects.before = lambda: (go.wait(30), None)[1]
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(reader.read, DISK, n * 100, 100) for n in range(8)]
        while not objects.asked:
            pass
        go.set()
        assert [done.result(30) for done in waiting] == [noise(1, MiB)[n * 100 :][:100] for n in range(8)]
    assert len(objects.asked) == 1


def test_a_fetch_that_fails_fails_for_all_who_wait_and_the_next_one_tries_again() -> None:
    objects = CountingObjects()
    store = one_point(noise(1, MiB), objects)
    reader = store.open(PointId(T1, 1))
    release = threading.Event()

    def fail() -> None:
        release.wait(30)
        raise StoreUnavailable("the line is down")

    objects.before = fail
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(reader.read, DISK, 0, 100) for _ in range(4)]
        while not objects.asked:
            pass
        release.set()
        for done in waiting:
            with pytest.raises(StoreUnavailable):
                done.result(30)
    objects.before = lambda: None
    assert reader.read(DISK, 0, 100) == noise(1, MiB)[:100]


def test_a_thread_that_is_ended_leaves_nobody_waiting() -> None:
    frames = FrameCache(MiB)
    place = frames.place(Segment(T1, 1, 1), 48)
    mine, here, others = frames.claim([place])
    assert (mine, here, others) == ([place], {}, {})
    _, _, flying = frames.claim([place])
    frames.fail(place, StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable):
        flying[place].wait()
    assert frames.claim([place])[0] == [place]
    frames.deliver(place, b"blocks")
    assert frames.claim([place])[1] == {place: b"blocks"}


def test_reads_beside_a_damaged_frame_go_on_in_one_request_too() -> None:
    objects = MemoryObjects()
    store = one_point(noise(1, 4 * FRAME), objects)
    key = next(key for key, _ in objects.list("") if "/segment/" in key)
    data = bytearray(objects.get(key))
    data[100 + FRAME] ^= 1  # frames are stored as they are: noise doesn't compress
    objects.put(key, bytes(data), if_absent=False)
    disk = store.open(PointId(T1, 1)).disk(DISK)
    with pytest.raises(CorruptFrame):
        disk.pieces(0, 4 * FRAME)
    assert disk.at_hand(0, FRAME) is not None  # fetched beside it
    assert joined(disk.pieces(2 * FRAME, FRAME)) == noise(1, 4 * FRAME)[2 * FRAME : 3 * FRAME]


# -- read-ahead --------------------------------------------------------------------------------------------------------


def test_who_reads_on_and_on_finds_what_follows_in_memory() -> None:
    content = noise(3, 16 * FRAME)
    store = one_point(content)
    disk = store.open(PointId(T1, 1)).disk(DISK)
    pool = FetchPool(2)
    ahead = ReadAhead(disk, pool, 4 * FRAME)
    try:
        for number in range(2):
            disk.pieces(number * FRAME, FRAME)
            ahead.reached(number * FRAME, FRAME)
        deadline = threading.Event()
        for _ in range(1000):
            if disk.at_hand(2 * FRAME, FRAME) is not None:
                break
            deadline.wait(0.01)
        found = disk.at_hand(2 * FRAME, FRAME)
        assert found is not None
        assert joined(found) == content[2 * FRAME : 3 * FRAME]
        assert disk.at_hand(12 * FRAME, FRAME) is None  # no further than it was told to
    finally:
        pool.close()


def test_reads_here_and_there_fetch_nothing_ahead() -> None:
    objects = CountingObjects()
    disk = one_point(noise(3, 16 * FRAME), objects).open(PointId(T1, 1)).disk(DISK)
    pool = FetchPool(1)
    ahead = ReadAhead(disk, pool)
    for number in (0, 5, 2, 9, 14, 7, 11):
        ahead.reached(number * FRAME, FRAME)
    pool.close()
    assert objects.asked == []
    assert pool._started == []


def test_damage_ahead_is_told_to_who_reads_it_and_the_threads_go_on() -> None:
    objects = MemoryObjects()
    content = noise(1, 4 * FRAME)
    store = one_point(content, objects)
    key = next(key for key, _ in objects.list("") if "/segment/" in key)
    data = bytearray(objects.get(key))
    data[100] ^= 1
    objects.put(key, bytes(data), if_absent=False)
    disk = store.open(PointId(T1, 1)).disk(DISK)
    pool = FetchPool(1)
    ahead = ReadAhead(disk, pool)
    try:
        ahead.prepare([(0, 4 * KiB)])
        ahead.prepare([(3 * FRAME, 4 * KiB)])
        for _ in range(1000):
            if disk.at_hand(3 * FRAME, FRAME) is not None:
                break
            threading.Event().wait(0.01)
        assert disk.at_hand(3 * FRAME, FRAME) is not None
        with pytest.raises(CorruptFrame):
            disk.pieces(0, 100)
    finally:
        pool.close()


# -- segments that moved -----------------------------------------------------------------------------------------------


def test_a_reader_finds_records_that_were_moved_to_another_segment(tmp_path: Path) -> None:
    """A dropped point's data lives on in a thinning record; then all of it is replaced by a record that names others,
    as compaction does it, behind the back of a reader of the point above."""
    objects = MemoryObjects()
    old, new = bytearray(blocks(1, 64)), blocks(2, 3)
    expected = bytes(new) + bytes(old[3 * BLOCK :])
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "test")
    first = add_point(writer, tmp_path, None, [(DISK, 0, bytes(old))], {DISK: len(old)})
    second = add_point(writer, tmp_path, first, [(DISK, 0, new)], {DISK: len(old)})
    reader = MachineStore(objects, KEYS).open(second)
    assert reader.read(DISK, 0, BLOCK) == expected[:BLOCK]
    # The same content elsewhere: a bucket whose first point was built anew, so that its segments have other names.
    moved = MemoryObjects()
    other = MachineStore(moved, KEYS)
    other.create_timeline(T1)
    other.claim(T1, "so that the epoch differs")
    writer = other.writer(T1, "test")
    first = add_point(writer, tmp_path / "other", None, [(DISK, 0, bytes(old))], {DISK: len(old)})
    add_point(writer, tmp_path / "other", first, [(DISK, 0, new)], {DISK: len(old)})
    before = {key for key, _ in objects.list("") if "/segment/" in key}
    for key, _ in moved.list(""):
        if "/point/" in key or "/segment/" in key:
            objects.put(key, moved.get(key), if_absent=False)
    for key in before:
        objects.delete(key)
    assert reader.read(DISK, 0, len(expected)) == expected
    # And now for good: told once, with what is missing; the next read is told at once.
    for key in [key for key, _ in objects.list("") if "/segment/" in key]:
        objects.delete(key)
    reader = MachineStore(objects, KEYS).open(second)
    for _ in range(2):
        with pytest.raises(CorruptFrame, match="is missing") as caught:
            reader.read(DISK, 10 * BLOCK, 10)
        assert caught.value.details["disk"] == DISK


def test_a_reader_of_a_point_that_is_gone_is_told_so(tmp_path: Path) -> None:
    objects = MemoryObjects()
    store = one_point(noise(1, MiB), objects)
    reader = store.open(PointId(T1, 1))
    for key in [key for key, _ in objects.list("") if "/segment/" in key or "/point/" in key]:
        objects.delete(key)
    with pytest.raises(PointNotFound):
        reader.read(DISK, 0, 10)
