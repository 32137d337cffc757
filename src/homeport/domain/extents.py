"""Sets of byte ranges of a disk: sorted, disjoint, never touching; immutable; array operations only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, ascending: ``np.unique`` for plain arrays, which loads masked arrays for that."""
    if not len(values):
        return values
    ordered = np.sort(values)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


class Extents:
    """A set of bytes of one disk, kept as maximal runs ``[offset, end)`` in bytes.

    Cost follows the number of runs; nothing here loops over blocks.
    """

    __slots__ = ("_runs",)

    def __init__(self, runs: Array | None = None) -> None:
        """``runs``: shape (n, 2), already sorted, disjoint and coalesced; use the class methods otherwise."""
        self._runs: Array = np.empty((0, 2), np.int64) if runs is None else runs

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Extents:
        """From ``(offset, length)`` pairs in any order, overlapping or not."""
        array = np.array(list(pairs), np.int64).reshape(-1, 2)
        return cls._coalesce(array[:, 0], array[:, 0] + array[:, 1])

    @classmethod
    def whole(cls, size: int) -> Extents:
        """The whole of a disk of ``size`` bytes."""
        return cls.of([(0, size)])

    @classmethod
    def of_blocks(cls, blocks: NDArray[Any], block: int, size: int | None = None) -> Extents:
        """From block numbers (any order); the last block is cut to ``size`` bytes."""
        starts = np.asarray(blocks, np.int64) * block
        result = cls._coalesce(starts, starts + block)
        return result if size is None else result.clip(0, size)

    @classmethod
    def of_runs(cls, starts: NDArray[Any], ends: NDArray[Any]) -> Extents:
        """From arrays of ``[start, end)`` in any order, overlapping or not; empty ones are left out."""
        return cls._coalesce(np.asarray(starts, np.int64), np.asarray(ends, np.int64))

    @classmethod
    def _coalesce(cls, starts: Array, ends: Array) -> Extents:
        keep = ends > starts
        starts, ends = starts[keep], ends[keep]
        if not len(starts):
            return cls()
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        first = np.concatenate(([True], starts[1:] > ends[:-1]))
        heads = np.flatnonzero(first)
        tails = np.concatenate((heads[1:] - 1, [len(starts) - 1]))
        return cls(np.stack((starts[heads], ends[tails]), axis=1))

    @property
    def starts(self) -> Array:
        starts: Array = self._runs[:, 0]
        return starts

    @property
    def ends(self) -> Array:
        ends: Array = self._runs[:, 1]
        return ends

    @property
    def total(self) -> int:
        """Bytes in the set."""
        return int((self.ends - self.starts).sum())

    def __len__(self) -> int:
        return len(self._runs)

    def __bool__(self) -> bool:
        return len(self._runs) > 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` pairs, ascending."""
        for start, end in self._runs.tolist():
            yield start, end - start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and np.array_equal(self._runs, other._runs)

    def __hash__(self) -> int:
        return hash(self._runs.tobytes())

    def __repr__(self) -> str:
        return f"Extents({list(self)!r})"

    def union(self, other: Extents) -> Extents:
        return self._coalesce(np.concatenate((self.starts, other.starts)), np.concatenate((self.ends, other.ends)))

    def intersect(self, other: Extents) -> Extents:
        return self._sweep(other, lambda a, b: a & b)

    def subtract(self, other: Extents) -> Extents:
        return self._sweep(other, lambda a, b: a & ~b)

    def _sweep(self, other: Extents, rule: Any) -> Extents:
        edges = distinct(np.concatenate((self._runs.ravel(), other._runs.ravel())))
        if len(edges) < 2:
            return Extents()
        keep = rule(self._covers(edges[:-1]), other._covers(edges[:-1]))
        return self._coalesce(edges[:-1][keep], edges[1:][keep])

    def _covers(self, points: Array) -> NDArray[np.bool_]:
        if not len(self._runs):
            return np.zeros(len(points), np.bool_)
        index = np.searchsorted(self.starts, points, side="right") - 1
        inside: NDArray[np.bool_] = (index >= 0) & (points < self.ends[np.maximum(index, 0)])
        return inside

    def clip(self, start: int, end: int) -> Extents:
        """What lies within ``[start, end)``."""
        return self._coalesce(np.maximum(self.starts, start), np.minimum(self.ends, end))

    def align(self, unit: int, size: int | None = None) -> Extents:
        """Grown outward to multiples of ``unit``; cut to ``size`` where given."""
        grown = self._coalesce(self.starts // unit * unit, -(-self.ends // unit) * unit)
        return grown if size is None else grown.clip(0, size)

    def blocks(self, block: int) -> Array:
        """The numbers of all blocks touched, ascending."""
        aligned = self.align(block)
        counts = (aligned.ends - aligned.starts) // block
        if not len(counts):
            return np.empty(0, np.int64)
        offsets = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers: Array = np.repeat(aligned.starts // block, counts) + offsets
        return numbers

    def pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """``(offset, length)`` pieces that don't cross a multiple of ``size``."""
        for start, end in self._runs.tolist():
            while start < end:
                cut = min((start // size + 1) * size, end)
                yield start, cut - start
                start = cut

    def to_json(self) -> list[list[int]]:
        return [[offset, length] for offset, length in self]
