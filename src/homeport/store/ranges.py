"""Several ranges of one object, neighbours fetched together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from homeport.domain.units import KiB, MiB
from homeport.store.objects import Objects

GAP = 64 * KiB
"""Bytes that are fetched in vain rather than asking twice."""

MOST = 4 * MiB
"""Bytes of one request."""

Range = tuple[int, int]
"""Offset and length in bytes."""


class RangeCache(ABC):
    """Objects that keep ranges of immutable objects nearer than the store. What they give is as good as their disk:
    who can tell that it is damaged says so, and asks ``get_range``, which never answers from the cache."""

    @abstractmethod
    def get_ranges(self, key: str, ranges: Sequence[Range]) -> list[memoryview]:
        """As :func:`get_ranges`."""

    @abstractmethod
    def drop_range(self, key: str, range_: Range) -> bool:
        """The range that was given is damaged: forget it. False: it didn't come from the cache."""


def get_ranges(objects: Objects, key: str, ranges: Sequence[Range]) -> list[memoryview]:
    """The ranges in their order; short or empty where the object ends before. Raises NotFound, StoreUnavailable."""
    if isinstance(objects, RangeCache):
        return objects.get_ranges(key, ranges)
    result = [memoryview(b"")] * len(ranges)
    for together in groups(ranges, MOST):
        start = ranges[together[0]][0]
        stop = max(sum(ranges[index]) for index in together)
        data = memoryview(objects.get_range(key, start, stop - start))
        for index in together:
            offset, length = ranges[index]
            result[index] = data[offset - start : offset - start + length]
    return result


def groups(ranges: Sequence[Range], most: int) -> list[list[int]]:
    """Places in ``ranges`` that are worth one request of at most ``most`` bytes (or of one range), by offset."""
    result: list[list[int]] = []
    start = stop = 0
    for index in sorted(range(len(ranges)), key=ranges.__getitem__):
        offset, length = ranges[index]
        if result and offset - stop <= GAP and max(stop, offset + length) - start <= most:
            result[-1].append(index)
            stop = max(stop, offset + length)
        else:
            result.append([index])
            start, stop = offset, offset + length
    return result
