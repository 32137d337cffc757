"""Finding what differs between a disk's view and what the store holds, and shipping only that.

Every way of replicating is this one walk: a first copy compares with a disk of zeroes, a delta compares the changed
extents with the digests of the last point, a resync compares everything. It reads about 1 MiB at a time, in one piece
or in many small ones, digests each 16 KiB block, and hands runs of differing blocks to the point's builder; hashing,
compression and encryption release the interpreter's lock, so two threads use two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np

from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION, MiB
from homeport.servers.digest_file import Digests, known
from homeport.sources.interface import DiskView, ReadsRanges
from homeport.store.builder import PointBuilder, Run
from homeport.store.digests import PointDigests, block_digests, region_digests
from homeport.store.keys import MachineKey

PIECE = MiB
RANGES = 64
"""Pieces that are read and compared in one go, at most."""
THREADS = 2

Progress = Callable[[int], None]
"""Called with the number of bytes looked at since the last call; may raise to stop the walk."""


class Base(Protocol):
    """What the store holds of one disk, in digests."""

    def digests(self, first_block: int, count: int) -> Digests:
        """Shape (count, 16)."""


class Blank:
    """A disk of zeroes: the base of a first copy."""

    def digests(self, first_block: int, count: int) -> Digests:
        return np.zeros((count, 16), np.uint8)


class FileBase:
    """The digests of a mapped digest file."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests

    def digests(self, first_block: int, count: int) -> Digests:
        return self._digests[first_block : first_block + count]


class PointBase:
    """The digests of a point in a store, fetched region by region when first asked for and kept."""

    def __init__(self, point: PointDigests, blocks: int) -> None:
        self._point = point
        self._blocks = blocks
        self._regions: dict[int, Digests] = {}
        self._lock = threading.Lock()

    def digests(self, first_block: int, count: int) -> Digests:
        parts = []
        while count > 0:
            region, within = divmod(first_block, BLOCKS_PER_REGION)
            take = min(count, BLOCKS_PER_REGION - within)
            parts.append(self._region(region)[within : within + take])
            first_block += take
            count -= take
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _region(self, region: int) -> Digests:
        with self._lock:
            if region not in self._regions:
                wanted = min(BLOCKS_PER_REGION, self._blocks - region * BLOCKS_PER_REGION)
                beyond = region * BLOCKS_PER_REGION * BLOCK >= self._point.size  # the disk has grown since
                held = np.zeros((0, 16), np.uint8) if beyond else self._point.blocks(region)[:wanted]
                if len(held) < wanted:
                    held = np.concatenate((held, np.zeros((wanted - len(held), 16), np.uint8)))
                self._regions[region] = held
            return self._regions[region]


class Difference:
    """One walk over one disk. ``shipped`` and ``looked_at`` in bytes; thread-safe counts."""

    def __init__(
        self,
        view: DiskView,
        keys: MachineKey,
        builder: PointBuilder,
        base: Base,
        progress: Progress | None = None,
        collect: Digests | None = None,
    ) -> None:
        """``collect``: filled with the view's own digests wherever it was looked at."""
        self._view = view
        self._keys = keys
        self._builder = builder
        self._base = base
        self._progress = progress or (lambda count: None)
        self._collect = collect
        self._lock = threading.Lock()
        self.looked_at = 0
        self.shipped = 0

    def ship(self, candidates: Extents, allocated: Extents | None = None) -> None:
        """Compare ``candidates`` with the base and write what differs to the builder. Outside ``allocated`` the view
        is known to read as zeroes and is not read."""
        aligned = candidates.align(BLOCK, self._view.size)
        holes = Extents() if allocated is None else aligned.subtract(allocated.align(BLOCK, self._view.size))
        _in_threads(self._hole, holes.pieces(64 * PIECE))
        _in_threads(self._pieces, _batches(aligned.subtract(holes).pieces(PIECE)))

    def _pieces(self, *pieces: tuple[int, int]) -> None:
        """(offset, length) of each, ascending. Only the disk's last block is a broken one, and it comes last: so one
        after another in one buffer, blocks stay blocks."""
        buffer = new_buffer(sum(length for _, length in pieces))
        ranges, start = [], 0
        for offset, length in pieces:
            ranges.append((offset, buffer[start : start + length]))
            start += length
        if isinstance(self._view, ReadsRanges):
            self._view.read_ranges(ranges)
        else:
            for offset, part in ranges:
                self._view.read_into(offset, part)
        digests = block_digests(self._keys, buffer)
        held = np.concatenate([self._base.digests(offset // BLOCK, -(-length // BLOCK)) for offset, length in pieces])
        differs = (digests.view(np.uint64) != held.view(np.uint64)).any(axis=1)
        runs: list[Run] = []
        shipped = block = 0
        for offset, part in ranges:
            count = -(-len(part) // BLOCK)
            self._seen(offset // BLOCK, digests[block : block + count])
            for start, end in _runs(differs[block : block + count]):
                data = part[start * BLOCK : end * BLOCK]
                runs.append((offset + start * BLOCK, data, digests[block + start : block + end].tobytes()))
                shipped += len(data)
            block += count
        if runs:
            self._builder.write_runs(self._view.id, runs)
        self._count(looked_at=len(buffer), shipped=shipped)

    def _hole(self, offset: int, length: int) -> None:
        first = offset // BLOCK
        held = np.array(self._base.digests(first, -(-length // BLOCK)))
        self._seen(first, np.zeros_like(held))
        for start, end in _runs(held.any(axis=1)):
            self._builder.zero(self._view.id, offset + start * BLOCK, min(end * BLOCK, length) - start * BLOCK)
        self._count(looked_at=length)

    def _seen(self, first: int, digests: Digests) -> None:
        if self._collect is not None:
            self._collect[first : first + len(digests)] = digests

    def _count(self, looked_at: int = 0, shipped: int = 0) -> None:
        with self._lock:
            self.looked_at += looked_at
            self.shipped += shipped
        if looked_at:
            self._progress(looked_at)


def differing_regions(
    view: DiskView, keys: MachineKey, point: PointDigests, allocated: Extents, progress: Progress | None = None
) -> tuple[Extents, Digests]:
    """The first level of a two-level comparison: which 16 MiB regions differ, and the view's own block digests.

    Reads the view locally; of the store only 16 bytes per region cross.
    """
    blocks = -(-view.size // BLOCK)
    own = np.zeros((blocks, 16), np.uint8)

    def look(offset: int, length: int) -> None:
        buffer = new_buffer(length)
        view.read_into(offset, buffer)
        digests = block_digests(keys, buffer)
        own[offset // BLOCK : offset // BLOCK + len(digests)] = digests
        if progress:
            progress(length)

    _in_threads(look, allocated.align(BLOCK, view.size).pieces(PIECE))
    mine = region_digests(keys, own)
    held = point.regions()
    count = min(len(mine), len(held))
    differ = np.ones(len(mine), np.bool_)
    differ[:count] = (mine[:count] != held[:count]).any(axis=1)
    differ[count:] = mine[count:].any(axis=1)
    size_of_region = BLOCKS_PER_REGION * BLOCK
    return Extents.of_blocks(np.flatnonzero(differ), size_of_region, view.size), own


def mismatches(view: DiskView, keys: MachineKey, base: Base, blocks: Iterable[int]) -> list[int]:
    """Which of the sampled blocks, said to be unchanged, differ from what the store holds."""
    wrong = []
    for block in blocks:
        offset = block * BLOCK
        buffer = memoryview(bytearray(min(BLOCK, view.size - offset)))
        view.read_into(offset, buffer)
        held = base.digests(block, 1)
        if known(held)[0] and (block_digests(keys, buffer) != held).any():
            wrong.append(block)
    return wrong


def _batches(pieces: Iterator[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """About PIECE bytes each."""
    batch: list[tuple[int, int]] = []
    total = 0
    for offset, length in pieces:
        if batch and (total + length > PIECE or len(batch) == RANGES):
            yield tuple(batch)
            batch, total = [], 0
        batch.append((offset, length))
        total += length
    if batch:
        yield tuple(batch)


def _runs(flags: Any) -> Iterator[tuple[int, int]]:
    """``[start, end)`` of each run of True."""
    if flags.all():
        yield 0, len(flags)
        return
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _in_threads(work: Callable[..., None], pieces: Iterator[tuple[Any, ...]]) -> None:
    """Two workers draw pieces; the first error stops both and is raised."""
    lock = threading.Lock()
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            try:
                work(*piece)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(THREADS, thread_name_prefix="difference") as pool:
        futures = [pool.submit(draw) for _ in range(THREADS)]
        wait(futures)
    for future in futures:
        future.result()
