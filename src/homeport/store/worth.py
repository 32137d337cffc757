"""What is worth rewriting: rules of numbers alone, which the store and its simulation share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from homeport.store.index import Rows

THRESHOLD = 0.4
"""A segment with a smaller share of live bytes is cleaned: what lives in it is copied, then it is deleted."""

ABSORB = 4
"""A neighbouring thinning record is taken into a new one unless it is this many times as large."""


def absorbs(weight: int, neighbour: int) -> bool:
    """Bytes of the records that are merged anyway, and of a thinning record beside them. A point costs what it changed,
    so what was folded long ago isn't folded again with each."""
    return neighbour <= ABSORB * weight


def live_bytes(rows: Rows, segments: int) -> NDArray[np.int64]:
    """Bytes that data rows need in each of ``segments``. A frame counts by the share of its blocks that rows name, as
    far as rows tell how many it has."""
    if not len(rows):
        return np.zeros(segments, np.int64)
    order = np.lexsort((rows["frame"], rows["segment"]))
    ordered = rows[order]
    fresh = np.ones(len(ordered), np.bool_)
    fresh[1:] = (np.diff(ordered["segment"]) != 0) | (np.diff(ordered["frame"]) != 0)
    heads = np.flatnonzero(fresh)
    blocks = np.add.reduceat(ordered["count"], heads)
    reach = np.maximum.reduceat(ordered["skip"] + ordered["count"], heads)
    share = ordered["length"][heads] * blocks // reach
    return np.bincount(ordered["segment"][heads], weights=share, minlength=segments).astype(np.int64)


def victims(
    sizes: NDArray[np.int64], live: NDArray[np.int64], threshold: float, budget: int | None = None
) -> NDArray[np.bool_]:
    """Segments worth cleaning: those with the smallest share of live bytes, as long as it is below ``threshold`` and
    what is to be copied stays within ``budget`` bytes. At least one is chosen, if any is worth it."""
    ratio = live / np.maximum(sizes, 1)
    order = np.argsort(ratio, kind="stable")
    chosen = ratio[order] < threshold
    if budget is not None:
        chosen &= np.cumsum(live[order]) <= max(budget, int(live[order[0]]) if len(order) else 0)
    result = np.zeros(len(sizes), np.bool_)
    result[order[chosen]] = True
    return result


def pays(reclaimed: int, record: int) -> bool:
    """Whether a thinning record of ``record`` bytes is worth rewriting for the bytes that cleaning gives back."""
    return reclaimed > record
