"""Between extents and NBD's block status: the same knowledge, in our words and in the protocol's."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from homeport.disks.nbd import wire
from homeport.domain.extents import Extents


class HasBlockStatus(Protocol):
    """An NbdClient, or a pool of them."""

    @property
    def size(self) -> int: ...

    def block_status(self, context: str, offset: int, length: int) -> NDArray[np.int64]: ...


def dirty_bitmap(name: str) -> str:
    """The metadata context under which QEMU exports its dirty bitmap ``name``."""
    return wire.DIRTY_BITMAP + name


def allocated(client: HasBlockStatus) -> Extents:
    """What may hold data; all else reads as zeroes for certain. The client must have opened "base:allocation"."""
    status = client.block_status(wire.BASE_ALLOCATION, 0, client.size)
    # STATE_ZERO is the promise that a range reads as zeroes; STATE_HOLE alone promises nothing about what it reads as.
    return extents_of(status, 0, (status[:, 1] & wire.STATE_ZERO) == 0)


def dirty(client: HasBlockStatus, context: str) -> Extents:
    """What a dirty bitmap has marked. ``context`` as from :func:`dirty_bitmap`, opened by the client."""
    status = client.block_status(context, 0, client.size)
    return extents_of(status, 0, (status[:, 1] & wire.STATE_DIRTY) != 0)


def extents_of(status: NDArray[np.int64], offset: int, wanted: NDArray[np.bool_]) -> Extents:
    """The ranges of a block status that begins at byte ``offset``, where ``wanted`` holds."""
    ends = offset + np.cumsum(status[:, 0])
    return Extents.of_runs(ends[wanted] - status[wanted, 0], ends[wanted])


def status_of(data: Extents, offset: int, length: int, limit: int | None = None) -> list[tuple[int, int]]:
    """The base:allocation status of ``[offset, offset + length)`` of a disk that holds ``data`` and zeroes elsewhere.

    ``(length, flags)`` pairs, at most ``limit`` of them (then they stop short of the range, as the protocol allows).
    Cost follows the logarithm of the runs in ``data``, and the pairs returned.
    """
    if not length:
        return []
    end = offset + length
    first = int(np.searchsorted(data.ends, offset, side="right"))
    last = int(np.searchsorted(data.starts, end, side="left"))
    if limit is not None:
        last = min(last, first + limit)
    hole = wire.STATE_HOLE | wire.STATE_ZERO
    result: list[tuple[int, int]] = []
    position = offset
    for start, stop in zip(data.starts[first:last].tolist(), data.ends[first:last].tolist(), strict=True):
        if start > position:
            result.append((start - position, hole))
            position = start
        cut = min(stop, end)
        result.append((cut - position, 0))
        position = cut
    if position < end:
        result.append((end - position, hole))  # cut off again where `limit` hides a run: each run gave a pair or two
    return result if limit is None else result[:limit]
