"""Zeroes are found wherever they end."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.disks.zero import fill_zero, is_zero, nonzero_blocks
from homeport.domain.units import MiB

LENGTHS = [0, 1, 7, 511, 4096, 16384, 65537, MiB - 1, MiB, MiB + 1, 3 * MiB + 12345]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_buffer_of_zeroes_of_any_length_is_zero(length):
    assert is_zero(memoryview(bytes(length)))
    assert not nonzero_blocks(memoryview(bytes(length)), 4096).any()


@given(st.sampled_from(LENGTHS[1:]), st.data())
def test_one_byte_that_is_not_zero_is_found_anywhere(length, data):
    position = data.draw(st.integers(0, length - 1))
    buffer = bytearray(length)
    buffer[position] = data.draw(st.integers(1, 255))
    assert not is_zero(memoryview(buffer))
    assert np.flatnonzero(nonzero_blocks(memoryview(buffer), 4096)).tolist() == [position // 4096]
    fill_zero(memoryview(buffer))
    assert is_zero(memoryview(buffer))


@given(
    st.binary(max_size=100).map(lambda data: bytes(byte & 1 for byte in data)), st.integers(1, 40), st.integers(0, 9)
)
def test_blocks_of_any_size_at_any_alignment_are_told_apart(data, block, shift):
    view = memoryview(bytes(shift) + data)[shift:]
    expected = [any(data[start : start + block]) for start in range(0, len(data), block)]
    assert nonzero_blocks(view, block).tolist() == expected
    assert is_zero(view) == (not any(data))


def test_buffers_of_other_items_are_taken_byte_by_byte():
    assert is_zero(memoryview(array.array("q", [0, 0])))
    assert not is_zero(memoryview(array.array("q", [0, 1 << 40])))
