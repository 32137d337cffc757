"""Extents to block status and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from homeport.disks.nbd import wire
from homeport.disks.nbd.status import allocated, dirty, extents_of, status_of
from homeport.domain.extents import Extents

SIZE = 400
runs = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 60)), max_size=10)
statuses = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=20)
HOLE = wire.STATE_HOLE | wire.STATE_ZERO


def flags_of_bytes(status: list[tuple[int, int]]) -> list[int]:
    return [flags for length, flags in status for _ in range(length)]


class Told:
    """A client that was told a status."""

    def __init__(self, status: list[tuple[int, int]]) -> None:
        self.status = np.array(status, np.int64)
        self.size = int(self.status[:, 0].sum())

    def block_status(self, context: str, offset: int, length: int) -> np.ndarray:
        assert (offset, length) == (0, self.size)
        return self.status


@given(statuses)
def test_allocated_is_all_that_is_not_promised_to_be_zero(status):
    flags = flags_of_bytes(status)
    expected = Extents.of((byte, 1) for byte, flag in enumerate(flags) if not flag & wire.STATE_ZERO)
    assert allocated(Told(status)) == expected


@given(statuses)
def test_dirty_is_all_that_the_bitmap_marks(status):
    flags = flags_of_bytes(status)
    expected = Extents.of((byte, 1) for byte, flag in enumerate(flags) if flag & wire.STATE_DIRTY)
    assert dirty(Told(status), "qemu:dirty-bitmap:x") == expected


@given(runs, st.integers(0, SIZE - 1), st.integers(0, SIZE))
def test_the_status_of_a_range_says_of_each_byte_whether_it_is_data(some, offset, length):
    data = Extents.of(some).clip(0, SIZE)
    length = min(length, SIZE - offset)
    inside = {byte for start, size in data for byte in range(start, start + size)}
    status = status_of(data, offset, length)
    assert flags_of_bytes(status) == [0 if byte in inside else HOLE for byte in range(offset, offset + length)]
    assert all(size > 0 for size, _ in status)


@given(runs, st.integers(0, SIZE - 1), st.integers(1, SIZE), st.integers(1, 5))
def test_a_limited_status_is_the_beginning_of_the_whole_one(some, offset, length, limit):
    data = Extents.of(some).clip(0, SIZE)
    length = min(length, SIZE - offset)
    assert status_of(data, offset, length, limit) == status_of(data, offset, length)[:limit]


@given(runs)
def test_extents_survive_the_way_through_a_status(some):
    data = Extents.of(some).clip(0, SIZE)
    status = np.array(status_of(data, 0, SIZE), np.int64)
    assert extents_of(status, 0, status[:, 1] == 0) == data
    assert extents_of(status, 1000, status[:, 1] == 0) == Extents.of((start + 1000, size) for start, size in data)
