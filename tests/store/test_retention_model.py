"""The simulation of retention does what the store does: of one history, the same segments, live bytes and choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import names
from tests.bench.store_retention import Store, run
from tests.store.stores import MACHINE, T1, add_point, noise, store

DISK = 160


def test_a_simulated_history_is_like_a_real_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    simulated = Store(ratio=1.0)
    parent: PointId | None = None
    kept: list[int] = []
    for number in range(1, 41):
        blocks = np.arange(DISK) if number == 1 else np.unique((DISK * rng.random(9) ** 3).astype(np.int64))
        runs = np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1)
        writes = [("disk0", int(run[0]) * BLOCK, noise(1000 * number + int(run[0]), len(run) * BLOCK)) for run in runs]
        parent = add_point(writer, tmp_path, parent, writes, {"disk0": DISK * BLOCK})
        simulated.publish(number, blocks)
        kept.append(number)
        if number % 8 == 0:
            drop = [old for old in kept[:-2] if old % 8]
            kept = [old for old in kept if old not in drop]
            assert found.expire(T1, drop).dropped == drop
            simulated.expire(set(drop))
        if number % 16 == 0:
            kept.remove(8 if number == 16 else 24)
            gone = 8 if number == 16 else 24
            assert found.expire(T1, [gone]).dropped == [gone]
            simulated.expire({gone})
            real = found.compact(T1, threshold=0.6)
            assert real.left == {}
            assert real.chosen > 0
            assert (real.segments, real.live_bytes, real.chosen) == simulated.compact(0.6)
            found.expire(T1, [])
            simulated.expire({-1})
        sizes = [size for _, size in found.objects.list(names.timeline(MACHINE, T1) + "segment/")]
        assert len(sizes) == sum(simulated.present)
        assert abs(sum(sizes) - simulated.space) < 0.02 * sum(sizes)


def test_cleaning_keeps_space_small_at_little_cost() -> None:
    """A short and coarse run; the bench gives the curve."""
    small = run(0.4, hours=22, scale=4096, retention=6)
    none = run(0.0, hours=22, scale=4096, retention=6)
    assert small["cleaning"] < 0.5
    assert small["space"] < 1.7 < none["space"] + 0.5
    assert small["space"] < none["space"]
