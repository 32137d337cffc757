"""Extents against plain sets of byte numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.domain.units import TiB

LIMIT = 300
pairs = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, 40)), max_size=12)
units = st.integers(1, 33)


def as_set(given_pairs: list[tuple[int, int]]) -> set[int]:
    return {byte for offset, length in given_pairs for byte in range(offset, offset + length)}


def check(extents: Extents, expected: set[int]) -> None:
    """The same bytes, in runs that are sorted, not empty, and never touch."""
    runs = list(extents)
    assert as_set(runs) == expected
    assert all(length > 0 for _, length in runs)
    assert all(offset + length < following for (offset, length), (following, _) in pairwise(runs))
    assert extents.total == len(expected)
    assert bool(extents) == bool(expected)
    assert len(extents) == len(runs)
    assert extents.starts.dtype == extents.ends.dtype == np.int64


@given(pairs)
def test_of_takes_pairs_in_any_order_and_overlapping(some):
    extents = Extents.of(some)
    check(extents, as_set(some))
    assert extents == Extents.of(reversed(some)) == Extents.of(extents.to_json())
    assert hash(extents) == hash(Extents.of(reversed(some)))


@given(pairs)
def test_of_runs_is_of_with_ends_for_lengths(some):
    starts = np.array([offset for offset, _ in some], np.int64)
    ends = np.array([offset + length for offset, length in some], np.int64)
    assert Extents.of_runs(starts, ends) == Extents.of(some)


@given(pairs, pairs)
def test_union_intersection_and_difference_are_those_of_sets(some, others):
    a, b = Extents.of(some), Extents.of(others)
    check(a.union(b), as_set(some) | as_set(others))
    check(a.intersect(b), as_set(some) & as_set(others))
    check(a.subtract(b), as_set(some) - as_set(others))
    check(a, as_set(some))


@given(pairs, pairs)
def test_equal_means_the_same_bytes(some, others):
    assert (Extents.of(some) == Extents.of(others)) == (as_set(some) == as_set(others))


@given(pairs, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_clip_keeps_what_lies_within(some, start, end):
    check(Extents.of(some).clip(start, end), {byte for byte in as_set(some) if start <= byte < end})


@given(pairs, units, st.none() | st.integers(0, 400))
def test_align_grows_to_whole_units_and_is_cut_to_the_size(some, unit, size):
    grown = {
        byte
        for number in {byte // unit for byte in as_set(some)}
        for byte in range(number * unit, number * unit + unit)
    }
    check(Extents.of(some).align(unit, size), {byte for byte in grown if size is None or byte < size})


@given(pairs, units)
def test_blocks_are_the_numbers_of_all_units_touched(some, unit):
    numbers = Extents.of(some).blocks(unit)
    assert numbers.tolist() == sorted({byte // unit for byte in as_set(some)})
    assert Extents.of_blocks(numbers, unit) == Extents.of(some).align(unit)


@given(st.lists(st.integers(0, 50), max_size=20), units, st.none() | st.integers(0, 400))
def test_of_blocks_takes_numbers_in_any_order_and_cuts_the_last(numbers, unit, size):
    expected = {byte for number in numbers for byte in range(number * unit, number * unit + unit)}
    extents = Extents.of_blocks(np.array(numbers), unit, size)
    check(extents, {byte for byte in expected if size is None or byte < size})


@given(pairs, units)
def test_pieces_cover_all_in_order_and_cross_no_multiple(some, size):
    pieces = list(Extents.of(some).pieces(size))
    assert [byte for offset, length in pieces for byte in range(offset, offset + length)] == sorted(as_set(some))
    assert all(length > 0 and offset // size == (offset + length - 1) // size for offset, length in pieces)


def test_a_disk_of_64_tib_costs_no_more_than_its_runs():
    size = 64 * TiB
    extents = Extents.of([(size - 512, 512), (0, 1)])
    assert extents.align(16384, size).total == 2 * 16384
    assert Extents.whole(size).subtract(extents).total == size - 513
    assert extents.blocks(16384).tolist() == [0, size // 16384 - 1]


def test_an_empty_disk_has_no_extents():
    assert Extents.whole(0) == Extents() == Extents.of([])
    assert Extents().blocks(512).tolist() == []
    assert list(Extents().pieces(512)) == []
    assert Extents().align(512, 100) == Extents()


def test_extents_are_equal_to_nothing_else():
    assert Extents() != []
    with pytest.raises(TypeError):
        sorted([Extents(), Extents()])  # type: ignore[type-var]
