"""Which unchanged blocks are compared in a cycle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.sources.verify import sample_clean_blocks

BLOCK = 16384


@given(
    size=st.integers(1, 200 * BLOCK),
    changed=st.lists(st.tuples(st.integers(0, 200 * BLOCK), st.integers(0, 40 * BLOCK)), max_size=8),
    count=st.integers(0, 80),
    seed=st.text(max_size=8),
)
def test_only_whole_clean_blocks_are_chosen_each_once_and_as_many_as_there_are(
    size: int, changed: list[tuple[int, int]], count: int, seed: str
) -> None:
    extents = Extents.of(changed)
    chosen = sample_clean_blocks(size, extents, count, seed)
    dirty = set(extents.clip(0, size).blocks(BLOCK).tolist())
    clean = [block for block in range(-(-size // BLOCK)) if block not in dirty]
    assert len(chosen) == min(count, len(clean))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(clean)


def test_the_choice_follows_from_the_seed() -> None:
    size = 1 << 40
    one = sample_clean_blocks(size, Extents(), 64, "a")
    assert one == sample_clean_blocks(size, Extents(), 64, "a")
    assert one != sample_clean_blocks(size, Extents(), 64, "b")


def test_the_choice_is_spread_over_the_disk() -> None:
    blocks = (1 << 40) // BLOCK
    chosen = sample_clean_blocks(1 << 40, Extents.of([(0, 1 << 38)]), 64, "a")
    stride = (blocks - blocks // 4) // 64
    assert len(chosen) == 64
    for number, block in enumerate(chosen):
        assert blocks // 4 + number * stride <= block < blocks // 4 + (number + 1) * stride


def test_every_clean_block_gets_its_turn() -> None:
    size, dirty = 100 * BLOCK, Extents.of([(0, 20 * BLOCK)])
    seen = {block for seed in range(200) for block in sample_clean_blocks(size, dirty, 8, str(seed))}
    assert seen == set(range(20, 100))
