"""The intake: what is taken in is what is read back, whatever is known, in how many threads, and whoever fails."""

from __future__ import annotations

import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import LocalObjects, MemoryObjects, PointBuilder, StoreUnavailable, Writer, block_digests, segment
from homeport.store.errors import StoreError
from homeport.store.finishing import IN_FLIGHT
from homeport.store.intake import PIECE, Digests, take_in
from homeport.store.names import Segment
from homeport.store.segment import SegmentFile, pack_frame
from tests.store.stores import KEYS, MACHINE, NOW, T1, add_point, blocks, noise, read_all, store

DISK = "disk0"
P1 = PointId(T1, 1)


class Disk:
    """Bytes to take in. ``fail_at``: the offset whose reading fails. Counts what is read."""

    def __init__(self, content: bytes | bytearray, fail_at: int | None = None) -> None:
        self.content = memoryview(content)
        self.size = len(content)
        self.fail_at = fail_at
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        if self.fail_at is not None and offset <= self.fail_at < offset + len(buffer):
            raise OSError(5, "the disk is broken here")
        buffer[:] = self.content[offset : offset + len(buffer)]


def writer_of(objects: object | None = None) -> Writer:
    machine = store(objects)  # type: ignore[arg-type]
    machine.create_timeline(T1)
    return machine.writer(T1, "test")


def finish(builder: PointBuilder, size: int) -> object:
    return builder.finish_uploaded(instant=NOW, disks={DISK: size}, incarnation="x")


def disk_bytes(kinds: list[int], tail: int) -> bytearray:
    """A block for each kind: 0 is zeroes, others differ from each other; ``tail``: bytes of a last short block."""
    found = bytearray(b"".join(bytes(BLOCK) if not kind else blocks(kind, 1) for kind in kinds))
    if tail:
        found += noise(tail, tail)
    return found


KINDS = st.lists(st.integers(0, 5), min_size=1, max_size=150)


@settings(max_examples=60)
@given(
    before=KINDS,
    now=KINDS,
    tail=st.sampled_from([0, 512, BLOCK - 1]),
    ranges=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 40)), max_size=6),
    threads=st.integers(1, 4),
    upload=st.booleans(),
)
def test_the_point_is_what_was_there_with_what_was_taken_in(
    before: list[int], now: list[int], tail: int, ranges: list[tuple[int, int]], threads: int, upload: bool
) -> None:
    old, new = disk_bytes(before, 0), disk_bytes(now, tail)
    candidates = Extents.of([(first * BLOCK, count * BLOCK) for first, count in ranges]).clip(0, len(new))
    held = np.zeros((max(len(before), len(now)) + 1, 16), np.uint8)
    held[: len(before)] = block_digests(KEYS, old)
    collected = np.full((-(-len(new) // BLOCK), 16), 255, np.uint8)
    writer = writer_of()
    with tempfile.TemporaryDirectory() as folder:
        add_point(writer, Path(folder), None, [(DISK, 0, bytes(old))], {DISK: len(old)})
        builder = writer.builder(2, Path(folder), P1, upload=upload)
        taken = take_in(
            builder,
            KEYS,
            DISK,
            Disk(new),
            candidates,
            known=lambda first, count: held[first : first + count],
            collect=collected,
            threads=threads,
        )
        end = builder.finish_uploaded if upload else builder.finish
        writer.publish(end(instant=NOW, disks={DISK: len(new)}))  # type: ignore[arg-type]
    looked_at = candidates.align(BLOCK, len(new))
    expected = (old[: len(new)] + bytes(max(len(new) - len(old), 0)))[: len(new)]
    changed = 0
    digests = block_digests(KEYS, new)
    for offset, length in looked_at.pieces(BLOCK):
        block = offset // BLOCK
        changed += length if (digests[block] != held[block]).any() else 0
        expected[offset : offset + length] = new[offset : offset + length]
        assert (collected[block] == digests[block]).all()
    assert read_all(writer._store, PointId(T1, 2))[DISK] == expected
    assert (taken.looked_at, taken.changed) == (looked_at.total, changed)
    assert (collected == 255).all(axis=1).sum() == len(collected) - len(list(looked_at.pieces(BLOCK)))


def test_what_is_known_costs_nothing(tmp_path: Path) -> None:
    objects = MemoryObjects()
    writer = writer_of(objects)
    content = disk_bytes([1, 0, 2, 3] * 40, 0)
    digests = block_digests(KEYS, content)
    builder = writer.builder(1, tmp_path, None, upload=True)
    taken = take_in(
        builder,
        KEYS,
        DISK,
        Disk(content),
        Extents.whole(len(content)),
        known=lambda first, n: digests[first : first + n],
    )
    built = builder.finish_uploaded(instant=NOW, disks={DISK: len(content)})
    assert (taken.changed, built.stored_bytes, built.logical_bytes, built.segments) == (0, 0, 0, [])
    assert not [key for key in objects.objects if "/segment/" in key]


def test_a_change_of_8_kib_ships_one_block(tmp_path: Path) -> None:
    writer = writer_of()
    content = bytearray(noise(1, 4 * MiB))
    digests = block_digests(KEYS, content)
    content[2 * MiB + 8192 : 2 * MiB + 16384] = noise(2, 8192)
    builder = writer.builder(1, tmp_path, None, upload=True)
    take_in(
        builder,
        KEYS,
        DISK,
        Disk(content),
        Extents.of([(2 * MiB + 8192, 8192)]),
        known=lambda first, n: digests[first : first + n],
    )
    built = builder.finish_uploaded(instant=NOW, disks={DISK: len(content)})
    assert built.logical_bytes == BLOCK
    assert built.stored_bytes < BLOCK + 1024
    builder = writer.builder(1, tmp_path / "scan", None, upload=True)
    everything = Extents.whole(len(content))
    take_in(builder, KEYS, DISK, Disk(content), everything, known=lambda first, n: digests[first : first + n])
    assert builder.finish_uploaded(instant=NOW, disks={DISK: len(content)}).stored_bytes < BLOCK + 1024


def test_scattered_changes_are_read_as_they_lie_and_taken_together(tmp_path: Path) -> None:
    content = noise(3, 8 * MiB)
    disk = Disk(content)
    scattered = Extents.of([(start, 100) for start in range(0, 8 * MiB, 128 * 1024)])
    builder = writer_of().builder(1, tmp_path, None, upload=True)
    taken = take_in(builder, KEYS, DISK, disk, scattered)
    assert sorted(disk.reads) == [(start, BLOCK) for start in range(0, 8 * MiB, 128 * 1024)]
    assert taken.looked_at == 64 * BLOCK
    finish(builder, len(content))


class Broken(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("where", ["read", "upload", "progress", "known"])
def test_an_error_of_any_thread_stops_all_and_nothing_is_published(
    where: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "TARGET", MiB)
    objects = MemoryObjects()
    writer = writer_of(objects)
    content = noise(4, 24 * MiB)
    disk = Disk(content, 9 * MiB if where == "read" else None)
    seen = 0

    def fail_late(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > 8 * MiB:
            raise Broken

    def known(first: int, count: int) -> Digests:
        if first * BLOCK >= 8 * MiB:
            raise Broken
        return np.zeros((count, 16), np.uint8)

    def refuse(key: str, path: Path, *, if_absent: bool = True) -> None:
        raise StoreUnavailable("the store is away")

    if where == "upload":
        monkeypatch.setattr(objects, "put_file", refuse)
    builder = writer.builder(1, tmp_path / "spool", None, upload=True)
    with pytest.raises((OSError, Broken, StoreUnavailable)):
        take_in(
            builder,
            KEYS,
            DISK,
            disk,
            Extents.whole(disk.size),
            known=known if where == "known" else None,
            progress=fail_late if where == "progress" else None,
            threads=threads,
        )
        finish(builder, disk.size)
    assert len(disk.reads) < 24
    builder.discard()
    assert not list((tmp_path / "spool").iterdir())
    assert not [key for key in objects.objects if "/point/" in key]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("crew", "segment"))]
    with pytest.raises(StoreError):
        builder.write(DISK, 0, bytes(BLOCK))


def test_a_slow_store_holds_up_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and the spool stay as they are, whatever the disk's size: who fills segments waits for those before."""
    monkeypatch.setattr(segment, "TARGET", MiB)
    objects = LocalObjects(tmp_path / "store")
    objects.path.mkdir()
    writer = writer_of(objects)
    open_again = threading.Event()
    put_file = objects.put_file

    def slow(key: str, path: Path, *, if_absent: bool = True) -> None:
        assert open_again.wait(60)
        put_file(key, path, if_absent=if_absent)

    monkeypatch.setattr(objects, "put_file", slow)
    content = noise(5, 40 * MiB)
    disk = Disk(content)
    builder = writer.builder(1, objects.scratch(), None, upload=True)
    threads = 2
    job = threading.Thread(target=take_in, args=(builder, KEYS, DISK, disk, Extents.whole(disk.size)))
    job.start()
    held = -1
    while held != len(disk.reads):
        held = len(disk.reads)
        time.sleep(0.3)
    # On their way, being filled, and what each thread has in its hands (a segment may be one piece too long).
    assert held <= 2 * (IN_FLIGHT + 1) + 2 * threads
    assert sum(file.stat().st_size for file in builder.path.iterdir()) <= (held + 1) * PIECE
    open_again.set()
    job.join()
    built = builder.finish_uploaded(instant=NOW, disks={DISK: disk.size})
    assert not list(builder.path.iterdir())
    writer.publish(built)
    assert read_all(writer._store, P1)[DISK] == content


def test_holes_and_zeroes_of_a_huge_disk_cost_no_memory(tmp_path: Path) -> None:
    class Empty:
        size = 1 << 50

        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = bytes(len(buffer))

    builder = writer_of().builder(1, tmp_path, None, upload=True)
    taken = take_in(builder, KEYS, DISK, Empty(), Extents.of([(0, 64 * MiB), ((1 << 50) - MiB, MiB)]))
    assert (taken.looked_at, taken.changed) == (65 * MiB, 0)
    built = builder.finish_uploaded(instant=NOW, disks={DISK: Empty.size})
    assert (built.stored_bytes, len(built.record()) < 4096) == (0, True)


# -- keys and nonces ---------------------------------------------------------------------------------------------------


def segment_bytes(folder: Path, place: Segment, content: bytes) -> tuple[bytes, bytes, bytes]:
    """A segment of one frame: its random bytes, the sealed frame, its sealed directory."""
    folder.mkdir()
    file = SegmentFile(folder, KEYS, place)
    frame = pack_frame(0, memoryview(content), block_digests(KEYS, content).tobytes())
    (found,) = file.append(DISK, [frame])
    file.finish()
    data = file.path.read_bytes()
    return file.random, data[found.offset + 28 : found.offset + found.length], data[file.directory_offset :]


def test_a_rebuilt_segment_never_repeats_a_key_and_nonce(tmp_path: Path) -> None:
    """The same content under the same number, as after a crash: frame number and so nonce are the same, so the key
    must not be; neither the random bytes that make it nor anything sealed with it come twice."""
    place = Segment(T1, 7, 1)
    content = noise(6, BLOCK)
    found = [segment_bytes(tmp_path / str(number), place, content) for number in range(8)]
    for column in zip(*found, strict=True):
        assert len(set(column)) == len(found)
    # With one key and one nonce, two ciphertexts differ by what the plaintexts differ: here by nothing.
    assert all(len(sealed) == len(content) + 16 for _, sealed, _ in found)


def test_a_point_built_again_after_a_crash_shares_no_bytes_with_the_first_try(tmp_path: Path) -> None:
    objects = MemoryObjects()
    content = noise(7, 3 * BLOCK)
    tries = []
    machine = store(objects)
    machine.create_timeline(T1)
    for attempt in range(3):  # each is a new process: a new writer of the timeline, counting its segments from 1 again
        writer = machine.writer(T1, "test")
        builder = writer.builder(1, tmp_path / str(attempt), None, upload=True)
        take_in(builder, KEYS, DISK, Disk(content), Extents.whole(len(content)))
        tries.append(builder.finish_uploaded(instant=NOW, disks={DISK: len(content)}))
    stored = [objects.objects[segment.key(MACHINE)] for built in tries for segment, _ in built.segments]
    assert len(stored) == 3
    assert len({data[12:44] for data in stored}) == 3
    assert len({data[48:] for data in stored}) == 3
    writer.publish(tries[-1])
    assert read_all(machine, P1)[DISK] == content


def test_segments_are_uploaded_together_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "TARGET", MiB)
    objects = MemoryObjects()
    writer = writer_of(objects)
    builder = writer.builder(1, tmp_path, None)
    content = noise(8, 8 * MiB)
    builder.write(DISK, 0, content)
    spooled = builder.finish(instant=NOW, disks={DISK: len(content)})
    together = threading.Barrier(2, timeout=30)
    order: list[str] = []
    begun = count()
    put, put_file = objects.put, objects.put_file

    def upload(key: str, path: Path, *, if_absent: bool = True) -> None:
        if next(begun) < 4:
            together.wait()  # two at a time, or this breaks
        put_file(key, path, if_absent=if_absent)
        order.append("segment")

    def record(key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        put(key, data, if_absent=if_absent)
        if "/point/" in key:
            order.append("record")

    monkeypatch.setattr(objects, "put_file", upload)
    monkeypatch.setattr(objects, "put", record)
    done: list[tuple[int, int]] = []
    writer.publish(spooled, lambda sent, total: done.append((sent, total)))
    assert order == ["segment"] * len(spooled.segments) + ["record"]
    assert len(spooled.segments) >= 4
    assert [sent for sent, _ in done] == sorted(sent for sent, _ in done)
    assert done[-1][0] == done[-1][1] == spooled.stored_bytes
