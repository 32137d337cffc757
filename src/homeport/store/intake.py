"""Taking a disk into a point: the pipeline from something readable to a point's builder.

    read → zeroes out → digest of each block → the same as before? → frames → segments

Each of a few threads takes a piece of about 1 MiB all the way, in buffers of its own; nothing else is held, whatever
the disk's size. A thread whose frames fill a segment hands it on to be finished, and waits if too many already are
(:mod:`homeport.store.finishing`): so a slow store slows down the reading, and memory stays what it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, MiB
from homeport.store.builder import PointBuilder, Run
from homeport.store.crew import THREADS, share_out
from homeport.store.digests import SIZE, hash_blocks
from homeport.store.keys import MachineKey

PIECE = MiB
"""Bytes that a thread takes in one go; no run in it crosses a multiple of this."""

_MOST_RUNS = 64

Digests = NDArray[np.uint8]
Known = Callable[[int, int], Digests]
"""Of (first block, blocks): their digests as they are in the store, shape (blocks, 16); zeroes for blocks of zeroes.
Called from several threads."""

Progress = Callable[[int], None]
"""Called with the bytes looked at since the last call, from any thread; may raise, to stop."""


class Readable(Protocol):
    """What is taken in. Reads come from several threads."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``, within the size."""


@dataclass
class Taken:
    """Bytes: ``looked_at``: read and digested; ``changed``: of those, what differed from what was known."""

    looked_at: int = 0
    changed: int = 0


def take_in(
    builder: PointBuilder,
    keys: MachineKey,
    disk: str,
    source: Readable,
    candidates: Extents,
    *,
    known: Known | None = None,
    collect: Digests | None = None,
    progress: Progress | None = None,
    threads: int = THREADS,
) -> Taken:
    """Write to ``builder`` what of ``candidates`` (grown outward to 16 KiB blocks) differs from what is ``known``;
    where nothing is, from zeroes.

    Holes of the source needn't be among the candidates; blocks of zeroes are found, too, and cost no data. ``collect``:
    shape (blocks of the disk, 16), gets the digests of all blocks that were looked at. The first error of any thread
    stops all and is raised; the builder is then of no more use.
    """
    intake = _Intake(builder, keys, disk, source, known, collect, progress)
    share_out(_pieces(candidates.align(BLOCK, source.size)), intake.take, threads)
    return intake.taken


Piece = list[tuple[int, int]]
"""Runs (offset, length) in bytes, ascending, about PIECE together."""


def _pieces(extents: Extents) -> Iterator[Piece]:
    """Runs that lie scattered are taken together: a call has its price, whatever its size."""
    piece: Piece = []
    total = 0
    for offset, length in extents.pieces(PIECE):
        if total + length > PIECE or len(piece) >= _MOST_RUNS:
            yield piece
            piece, total = [], 0
        piece.append((offset, length))
        total += length
    if piece:
        yield piece


class _Intake:
    def __init__(
        self,
        builder: PointBuilder,
        keys: MachineKey,
        disk: str,
        source: Readable,
        known: Known | None,
        collect: Digests | None,
        progress: Progress | None,
    ) -> None:
        self.taken = Taken()
        self._builder = builder
        self._key = keys.digest_key
        self._disk = disk
        self._source = source
        self._known = known
        self._collect = collect
        self._progress = progress
        self._own = threading.local()
        self._lock = threading.Lock()

    def take(self, piece: Piece) -> None:
        buffer = self._buffer()
        runs: list[Run] = []
        looked_at = changed = 0
        for offset, length in piece:
            data = buffer[looked_at : looked_at + length]
            self._source.read_into(offset, data)
            digests = hash_blocks(self._key, data)
            looked_at += length
            if self._collect is not None:
                first = offset // BLOCK
                blocks = len(digests) // SIZE
                self._collect[first : first + blocks] = np.frombuffer(digests, np.uint8).reshape(blocks, SIZE)
            for run in self._changed(offset, data, digests):
                runs.append(run)
                changed += len(run[1])
        if runs:
            self._builder.write_runs(self._disk, runs)
        with self._lock:
            self.taken.looked_at += looked_at
            self.taken.changed += changed
        if self._progress is not None:
            self._progress(looked_at)

    def _buffer(self) -> memoryview:
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = new_buffer(PIECE)
        return buffer

    def _changed(self, offset: int, data: memoryview, digests: bytes) -> Iterator[Run]:
        """The runs of blocks that are not what is known."""
        blocks = len(digests) // SIZE
        held = bytes(len(digests)) if self._known is None else self._known(offset // BLOCK, blocks).tobytes()
        if held == digests:
            return
        start = None
        for block in range(blocks + 1):
            at = block * SIZE
            differs = block < blocks and digests[at : at + SIZE] != held[at : at + SIZE]
            if differs and start is None:
                start = block
            elif start is not None and not differs:
                yield offset + start * BLOCK, data[start * BLOCK : block * BLOCK], digests[start * SIZE : at]
                start = None
