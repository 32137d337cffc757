"""Trackers are verified, not trusted: which unchanged blocks are compared with the store in a cycle."""

from __future__ import annotations

import random

import numpy as np

from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK


def sample_clean_blocks(size: int, changed: Extents, count: int, seed: str) -> list[int]:
    """``count`` numbers of 16 KiB blocks (fewer where there are fewer) that ``changed`` doesn't touch, ascending.

    ``size`` of the disk in bytes. The clean blocks are cut into ``count`` equal strides and one block is taken of
    each at random: spread over the disk, another choice for each ``seed``, the same for the same one. Cost follows the
    number of extents.
    """
    total = -(-size // BLOCK)
    dirty = changed.clip(0, size).align(BLOCK)
    clean = Extents.whole(total * BLOCK).subtract(dirty)
    lengths = (clean.ends - clean.starts) // BLOCK
    available = int(lengths.sum())
    if not available or count < 1:
        return []
    count = min(count, available)
    chance = random.Random(seed)
    places = [
        chance.randrange(stride * available // count, (stride + 1) * available // count) for stride in range(count)
    ]
    before = np.cumsum(lengths) - lengths
    ranks = np.array(places, np.int64)
    run = np.searchsorted(before, ranks, side="right") - 1
    numbers: list[int] = (clean.starts[run] // BLOCK + ranks - before[run]).tolist()
    return numbers
