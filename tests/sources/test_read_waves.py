"""Reads of an instant's view that are under way at once never touch one cluster twice: QEMU before 9.2 ends of that."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from homeport.domain.units import KiB
from homeport.sources.qemu_view import _waves
from homeport.sources.scratch import CLUSTER

STEP = 16 * KiB


@settings(max_examples=50)
@given(st.sets(st.integers(0, 40), min_size=1))
def test_what_is_asked_for_at_once_shares_no_cluster_and_nothing_is_left_out(blocks: set[int]) -> None:
    ranges = []
    for block in sorted(blocks):
        if ranges and ranges[-1][0] + len(ranges[-1][1]) == block * STEP:
            offset, before = ranges.pop()
            ranges.append((offset, memoryview(bytearray(len(before) + STEP))))
        else:
            ranges.append((block * STEP, memoryview(bytearray(STEP))))
    seen = set()
    for wave in _waves(ranges):
        clusters = [(offset // CLUSTER, (offset + len(view) - 1) // CLUSTER) for offset, view in wave]
        assert all(first == last for first, last in clusters)
        assert all(one[0] < other[0] for one, other in pairwise(clusters))
        for offset, view in wave:
            assert view
            view[:] = b"x" * len(view)
            seen |= {(offset + at) // STEP for at in range(0, len(view), STEP)}
    assert seen == blocks
    assert all(bytes(view) == b"x" * len(view) for _, view in ranges), "the buffers that were given are filled"
