"""Whatever the base and the view are: what is shipped turns the one into the other, and nothing equal is shipped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, REGION
from homeport.servers.difference import Base, Blank, Difference, FileBase, PointBase, differing_regions, mismatches
from homeport.servers.digest_file import UNKNOWN, DigestFile, known
from homeport.sources.interface import Changed, Knowledge
from homeport.store import MachineStore, MemoryObjects, SpooledPoint, Writer, block_digests
from homeport.store.builder import PointBuilder
from tests.servers.bucket import KEYS

T = "1" * 16
QUICK = settings(max_examples=25, suppress_health_check=list(HealthCheck))


class MemoryView:
    """A disk in memory; outside ``data`` a read is a mistake."""

    id = "disk0"
    changed = Changed(Knowledge.UNKNOWN)

    def __init__(self, content: bytes, data: Extents | None = None) -> None:
        self.content = content
        self.size = len(content)
        self.data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        asked = Extents.of([(offset, len(buffer))])
        assert self.data is None or not asked.subtract(self.data.align(BLOCK, self.size)), "a hole was read"
        buffer[:] = self.content[offset : offset + len(buffer)]

    def allocated(self) -> Extents:
        return Extents.whole(self.size) if self.data is None else self.data


@lru_cache(500)
def block(kind: int) -> bytes:
    return bytes(BLOCK) if kind == 0 else np.random.default_rng(kind).bytes(BLOCK)


def disk(kinds: list[int], size: int) -> bytes:
    return b"".join(block(kind) for kind in kinds)[:size]


class RangesView(MemoryView):
    """One that reads many places in one go."""

    def read_ranges(self, ranges: list[tuple[int, memoryview]]) -> None:
        ends = [0]
        for offset, buffer in ranges:
            assert offset >= ends[-1], "ascending, no byte twice"
            ends.append(offset + len(buffer))
            self.read_into(offset, buffer)


class Capture:
    """A real builder, and beside it what it was given."""

    def __init__(self, builder: PointBuilder) -> None:
        self.builder = builder
        self.touched: list[tuple[int, int]] = []

    def write_runs(self, disk: str, runs: list[tuple[int, memoryview, bytes]]) -> None:
        for offset, data, digests in runs:
            assert digests == block_digests(KEYS, data).tobytes()
            self.touched.append((offset, len(data)))
        self.builder.write_runs(disk, runs)

    def zero(self, disk: str, offset: int, length: int) -> None:
        self.touched.append((offset, length))
        self.builder.zero(disk, offset, length)

    def blocks(self) -> set[int]:
        return set(Extents.of(self.touched).blocks(BLOCK).tolist())


class Bench:
    """A store with point 0, which holds ``content``."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.folder = folder
        self.store = MachineStore(MemoryObjects(), KEYS)
        self.store.create_timeline(T)
        self.writer: Writer = self.store.writer(T, "test")
        builder = self.writer.builder(0, folder / "spool", None)
        builder.write("disk0", 0, content)
        self.publish(builder, len(content))

    def publish(self, builder: PointBuilder, size: int) -> SpooledPoint:
        spooled = builder.finish(instant=datetime.now(UTC), disks={"disk0": size})
        self.writer.publish(spooled)
        return spooled

    def next(self) -> Capture:
        return Capture(self.writer.builder(1, self.folder / "spool", PointId(T, 0)))

    def result(self, size: int) -> bytes:
        return self.store.open(PointId(T, 1)).read("disk0", 0, size)


@contextmanager
def bench(content: bytes) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="hp") as folder:
        yield Bench(Path(folder), content)


def unequal(one: bytes, other: bytes) -> set[int]:
    one, other = (each.ljust(max(len(one), len(other)), b"\0") for each in (one, other))
    starts = range(0, len(one), BLOCK)
    return {start // BLOCK for start in starts if one[start : start + BLOCK] != other[start : start + BLOCK]}


@st.composite
def disks(draw: st.DrawFn) -> tuple[bytes, bytes, Extents, set[int]]:
    """Base, view, the view's allocated extents, and blocks whose digests the base doesn't know."""
    count = draw(st.integers(1, 150))
    kinds = st.integers(0, 4)
    base = draw(st.lists(kinds, min_size=count, max_size=count))
    view = [draw(kinds) if draw(st.booleans()) else kind for kind in base]
    size = (count - 1) * BLOCK + draw(st.sampled_from([512, 5_000, BLOCK - 1, BLOCK]))
    content = disk(view, size)
    data = [n for n in range(count) if content[n * BLOCK : (n + 1) * BLOCK].strip(b"\0") or draw(st.booleans())]
    unsure = draw(st.sets(st.integers(0, count - 1), max_size=5))
    return disk(base, size), content, Extents.of_blocks(np.array(data, np.int64), BLOCK, size), unsure


@pytest.mark.parametrize("kind", ["file", "point"])
@QUICK
@given(disks())
def test_what_is_shipped_turns_the_base_into_the_view(kind: str, case: tuple[bytes, bytes, Extents, set[int]]) -> None:
    before, content, allocated, unsure = case
    with bench(before) as b:
        capture = b.next()
        base: Base
        if kind == "file":
            held = block_digests(KEYS, before)
            held[list(unsure)] = UNKNOWN
            base = FileBase(held)
        else:
            unsure = set()
            base = PointBase(b.store.open(PointId(T, 0)).digests("disk0"), -(-len(content) // BLOCK))
        own = np.full((-(-len(content) // BLOCK), 16), 5, np.uint8)
        seen: list[int] = []
        view = (RangesView if kind == "file" else MemoryView)(content, allocated)
        difference = Difference(view, KEYS, capture, base, seen.append, own)  # type: ignore[arg-type]
        difference.ship(Extents.whole(len(content)), allocated)
        assert capture.blocks() == unequal(before, content) | unsure
        assert sum(seen) == difference.looked_at == len(content)
        assert (own == block_digests(KEYS, content)).all()
        spooled = b.publish(capture.builder, len(content))
        assert b.result(len(content)) == content
        numbers, digests = spooled.changed_digests().get("disk0", (np.empty(0, np.int64), np.empty((0, 16), np.uint8)))
        assert set(numbers.tolist()) == capture.blocks()
        assert (digests == own[numbers]).all()


@QUICK
@given(disks())
def test_over_a_blank_disk_exactly_what_is_not_zero_is_shipped(case: tuple[bytes, bytes, Extents, set[int]]) -> None:
    _, content, allocated, _ = case
    with bench(bytes(len(content))) as b:
        capture = b.next()
        Difference(MemoryView(content, allocated), KEYS, capture, Blank()).ship(  # type: ignore[arg-type]
            Extents.whole(len(content)), allocated
        )
        assert capture.blocks() == unequal(bytes(len(content)), content)
        b.publish(capture.builder, len(content))
        assert b.result(len(content)) == content


@QUICK
@given(disks(), st.sets(st.integers(0, 150 * 32), max_size=20))
def test_only_candidates_are_looked_at(case: tuple[bytes, bytes, Extents, set[int]], sectors: set[int]) -> None:
    before, content, _, _ = case
    candidates = Extents.of((sector * 512, 512) for sector in sectors if sector * 512 < len(content))
    candidates = candidates.clip(0, len(content))
    with bench(before) as b:
        capture = b.next()
        whole = candidates.align(BLOCK, len(content))
        Difference(MemoryView(content, whole), KEYS, capture, FileBase(block_digests(KEYS, before))).ship(candidates)  # type: ignore[arg-type]
        assert capture.blocks() == unequal(before, content) & set(whole.blocks(BLOCK).tolist())


@pytest.mark.parametrize("sizes", [(0, 300), (-3, 5_000), (BLOCKS_PER_REGION + 5, 512), (-BLOCKS_PER_REGION, BLOCK)])
def test_two_levels_find_what_differs_on_disks_that_grew_or_shrank(sizes: tuple[int, int]) -> None:
    """Regions of 16 MiB; the base is 1 region and 10 blocks, the view as much more or less as ``sizes`` says."""
    grown, last = sizes
    kinds = [n % 3 if n % 40 < 3 else 0 for n in range(BLOCKS_PER_REGION + 10)]
    before = disk(kinds, len(kinds) * BLOCK)
    now = (kinds + [int(n % 40 == 3 or n > 1020) for n in range(max(grown, 0))])[: len(kinds) + grown]
    now[min(7, len(now) - 1)] = 9
    content = disk(now, (len(now) - 1) * BLOCK + last)
    with bench(before) as b:
        point = b.store.open(PointId(T, 0)).digests("disk0")
        view = MemoryView(content)
        regions, own = differing_regions(view, KEYS, point, Extents.whole(len(content)))
        assert (own == block_digests(KEYS, content)).all()
        wrong = unequal(before[: len(own) * BLOCK], content)  # a block that was cut differs too
        assert set(regions.blocks(REGION).tolist()) >= {n // BLOCKS_PER_REGION for n in wrong}
        capture = b.next()
        Difference(view, KEYS, capture, PointBase(point, len(own))).ship(regions)  # type: ignore[arg-type]
        assert capture.blocks() == wrong
        b.publish(capture.builder, len(content))
        assert b.result(len(content)) == content


def test_regions_that_are_equal_are_not_looked_into() -> None:
    content = disk([1] * (BLOCKS_PER_REGION + 1), BLOCKS_PER_REGION * BLOCK + 100)
    with bench(content) as b:
        point = b.store.open(PointId(T, 0)).digests("disk0")
        changed = content[:-1] + b"x"
        regions, _ = differing_regions(MemoryView(changed), KEYS, point, Extents.whole(len(content)))
        assert regions == Extents.of([(REGION, 100)])


@QUICK
@given(disks())
def test_mismatches_are_the_sampled_blocks_that_differ(case: tuple[bytes, bytes, Extents, set[int]]) -> None:
    before, content, _, unsure = case
    held = block_digests(KEYS, before)
    held[list(unsure)] = UNKNOWN
    sampled = range(0, len(held), 2)
    found = mismatches(MemoryView(content), KEYS, FileBase(held), sampled)
    assert set(found) == (unequal(before, content) - unsure) & set(sampled)


def test_an_error_in_one_piece_ends_the_walk_and_is_raised() -> None:
    class Broken(MemoryView):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset >= 2 << 20:
                raise OSError("broken")
            super().read_into(offset, buffer)

    content = disk([1] * 600, 600 * BLOCK)
    with bench(content) as b, pytest.raises(OSError, match="broken"):
        Difference(Broken(content), KEYS, b.next(), Blank()).ship(Extents.whole(len(content)))  # type: ignore[arg-type]


# ── the digest file ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_digest_file_keeps_what_it_was_told(tmp_path: Path) -> None:
    file = DigestFile(tmp_path / "d", 10 * BLOCK + 1)
    assert (file.blocks, file.valid_for) == (11, None)
    file.reset(UNKNOWN)
    assert not known(file.digests).any()
    rows = np.arange(32, dtype=np.uint8).reshape(2, 16)
    file.exchange(np.array([3, 10]), rows)
    file.validate("1/2")
    file.close()
    again = DigestFile(tmp_path / "d", 10 * BLOCK + 1)
    assert again.valid_for == "1/2"
    assert (again.digests[[3, 10]] == rows).all()
    assert np.flatnonzero(known(again.digests)).tolist() == [3, 10]
    again.reset(0)
    assert again.valid_for is None
    assert not again.digests.any()
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o600
    again.close()


def test_a_digest_file_that_was_cut_or_whose_header_is_torn_is_void(tmp_path: Path) -> None:
    for harm in ("shrunk", "cut", "head", "magic"):
        path = tmp_path / harm
        file = DigestFile(path, 10 * BLOCK)
        file.validate("1/2")
        file.close()
        with path.open("r+b") as raw:
            if harm == "cut":
                raw.truncate(4096 + 9 * 16)
            elif harm != "shrunk":
                raw.seek(14 if harm == "head" else 0)
                raw.write(b"\0" * 8)
        opened = DigestFile(path, (9 if harm == "shrunk" else 10) * BLOCK)
        assert (opened.valid_for, opened.covers) == (None, None), harm
        opened.close()


def test_the_digests_of_a_disk_that_grew_are_still_those_of_its_former_part(tmp_path: Path) -> None:
    path = tmp_path / "d"
    file = DigestFile(path, 10 * BLOCK + 512)
    file.digests[:] = 7
    file.validate("1/2")
    file.close()
    for size in (10 * BLOCK + 1024, 20 * BLOCK, 20 * BLOCK):  # opened twice without an update between
        grown = DigestFile(path, size)
        assert (grown.valid_for, grown.covers) == ("1/2", 10 * BLOCK + 512)
        assert (grown.digests[:10] == 7).all()
        assert not known(grown.digests)[10], "the block that was the last has become longer"
        assert not grown.digests[11:].any(), "what was added is zeroes in the store"
        grown.close()
    grown = DigestFile(path, 20 * BLOCK)
    grown.exchange(np.array([15]), np.ones((1, 16), np.uint8))
    grown.validate("1/3")
    assert grown.covers == 20 * BLOCK
    grown.invalidate()
    grown.close()
    again = DigestFile(path, 20 * BLOCK)
    assert (again.valid_for, again.covers) == (None, 20 * BLOCK)
    again.close()


def test_a_digest_file_is_void_on_the_disk_before_a_digest_changes(tmp_path: Path, monkeypatch: Any) -> None:
    """Killed at any moment of an update, what lies on the disk is valid for what it holds, or void."""
    file = DigestFile(tmp_path / "d", 100 * BLOCK)
    file.reset(0)
    file.validate("old")
    states = []
    write_header = DigestFile._write_header

    def spying(self: DigestFile, valid_for: str | None) -> None:
        before = (self.valid_for, bool(self.digests.any()))
        write_header(self, valid_for)
        states.append((before, (self.valid_for, bool(self.digests.any()))))

    monkeypatch.setattr(DigestFile, "_write_header", spying)
    file.reset(1)
    file.validate("new")
    assert states == [(("old", False), (None, False)), ((None, True), ("new", True))]
    file.close()
