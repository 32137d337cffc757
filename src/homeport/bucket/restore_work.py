"""Bringing planned pieces to a target, in threads: fetch, authenticate, unpack, write."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from homeport.bucket.restore_plan import Piece, Zeroes
from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, MiB
from homeport.store.errors import NotFound
from homeport.store.reader import PointReader
from homeport.store.segment import open_frame
from homeport.store.timeline import MachineStore

CHECKPOINT = 256 * MiB
"""Bytes written between two checkpoints. Each also begins to bring them to the disk while the rest is worked on."""

_LOOK = 0.05  # seconds

Advance = Callable[[int], None]
"""Called with the bytes worked on since the last call; from any thread."""


class Target(Protocol):
    """What is written to; from several threads, each byte once. Offsets and lengths in bytes."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes."""

    def flush(self) -> None:
        """All that was written is on stable storage when this returns."""


@dataclass
class Moved:
    """Bytes. ``fetched``: from the store, packed; ``written``: to the target; ``zeroed``: there."""

    fetched: int = 0
    written: int = 0
    zeroed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, fetched: int = 0, written: int = 0, zeroed: int = 0) -> None:
        with self._lock:
            self.fetched += fetched
            self.written += written
            self.zeroed += zeroed


def cores() -> int:
    return len(os.sched_getaffinity(0))


def in_threads(work: Callable[[threading.Event], None], count: int, meanwhile: Callable[[], None]) -> None:
    """Run ``work`` in ``count`` threads until all return; in the caller's, ``meanwhile`` again and again. What one of
    them raises, or the caller's (Ctrl-C), sets the event, and is raised when all have returned."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=run, name=f"restore-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and not stop.is_set():
            for thread in threads:
                thread.join(_LOOK)
            meanwhile()
    finally:
        # Nobody may write to the target once the caller has closed it.
        if any(thread.is_alive() for thread in threads):
            stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class Copy:
    """One disk of a point on its way to a target."""

    def __init__(self, store: MachineStore, reader: PointReader, disk: str, target: Target) -> None:
        self._store, self._reader, self._disk, self._target = store, reader, disk, target
        self._size = reader.disks[disk]
        self.moved = Moved()
        self._lock = threading.Lock()
        self._done: list[tuple[int, int]] = []
        self._since = 0

    def run(
        self,
        parts: Iterator[Piece | Zeroes],
        advance: Advance,
        checkpoint: Callable[[Extents], None] = lambda done: None,
    ) -> None:
        """Work on all ``parts``. ``checkpoint``: told of what is on stable storage now, from time to time, and at the
        end, also where this raises. Raises Corrupt (naming disk and blocks), StoreUnavailable, OSError, DiskError."""
        lock = threading.Lock()

        def work(stop: threading.Event) -> None:
            while not stop.is_set():
                with lock:
                    part = next(parts, None)
                if part is None:
                    return
                if isinstance(part, Zeroes):
                    self._target.zero(part.offset, part.length)
                    self.moved.add(zeroed=part.length)
                    self._finished([(part.offset, part.offset + part.length)], advance)
                else:
                    self._piece(part, advance)

        def look() -> None:
            if self._since >= CHECKPOINT:
                self._checkpoint(checkpoint)

        try:
            in_threads(work, max(2, cores()), look)
        finally:
            self._checkpoint(checkpoint)

    def _checkpoint(self, tell: Callable[[Extents], None]) -> None:
        with self._lock:
            done, self._done, self._since = self._done, [], 0
        self._target.flush()
        if done:
            runs = np.array(done, np.int64)
            tell(Extents.of_runs(runs[:, 0], runs[:, 1]))

    def _finished(self, ranges: list[tuple[int, int]], advance: Advance) -> None:
        total = sum(end - start for start, end in ranges)
        with self._lock:
            self._done += ranges
            self._since += total
        advance(total)

    def _piece(self, piece: Piece, advance: Advance) -> None:
        ranges = [(start, min(end, self._size)) for start, end in piece.ranges]
        try:
            data = self._store.objects.get_range(
                piece.info.segment.key(self._reader.keys.machine), piece.offset, piece.length
            )
        except NotFound:
            # The segment's data moved, or it is damage: the reader knows how to look, and how to say so.
            for start, end in ranges:
                self._reread(start, end)
        else:
            self._unpack(piece, memoryview(data), ranges)
        self._finished(ranges, advance)

    def _unpack(self, piece: Piece, data: memoryview, ranges: list[tuple[int, int]]) -> None:
        rows, info = piece.rows, piece.info
        cipher = self._reader.cipher(info)
        keys = self._reader.keys
        opened, blocks = -1, memoryview(b"")
        written = zeroed = 0
        for offset, length, number, first, skip, stop, (start, end) in zip(
            rows["offset"].tolist(),
            rows["length"].tolist(),
            rows["frame"].tolist(),
            rows["first"].tolist(),
            rows["skip"].tolist(),
            piece.stops.tolist(),
            ranges,
            strict=True,
        ):
            if offset != opened:
                at = offset - piece.offset
                packed = data[at : at + length]
                found = open_frame(keys, cipher, info.segment, self._disk, number, first - skip, packed)
                blocks = memoryview(found)
                opened = offset
            part = blocks[skip * BLOCK : skip * BLOCK + stop - start]
            self._target.write(start, part)
            written += len(part)
            if len(part) < end - start:
                # A frame that ended the disk when it was smaller, or what was lost when it shrank.
                self._target.zero(start + len(part), end - start - len(part))
                zeroed += end - start - len(part)
        self.moved.add(fetched=len(data), written=written, zeroed=zeroed)

    def _reread(self, start: int, end: int) -> None:
        for offset in range(start, end, MiB):
            part = self._reader.read(self._disk, offset, min(MiB, end - offset))
            self._target.write(offset, part)
            self.moved.add(written=len(part))
