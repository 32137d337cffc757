"""Every byte of a machine is accounted for, and what is said to be freed is freed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from homeport.bucket.accounting import account
from tests.bucket.machines import history
from tests.store.stores import NOW, T1


def test_bytes_are_live_dead_or_unnamed(tmp_path: Path) -> None:
    made = history(tmp_path / "spool")
    before = account(made.store, NOW + timedelta(days=2))
    keys = list(made.objects.list("machines/"))
    assert (before["objects"], before["bytes"]) == (len(keys), sum(size for _, size in keys))
    assert sum(kind["bytes"] for kind in before["kinds"].values()) == before["bytes"]
    first, fork = before["timelines"]
    segments = first["segments"]
    assert segments["live_bytes"] + segments["dead_bytes"] + segments["unnamed"]["bytes"] == segments["bytes"]
    assert segments["dead_bytes"] < segments["bytes"] // 10  # headers, directories
    assert sum(share["segments"] for share in segments["by_live_share"]) == 6
    assert (first["points"], first["thinned"], fork["points"]) == (6, 0, 2)
    week = next(age for age in before["ages"] if age["age"] == "week")
    assert week["points"] == 8
    assert week["bytes"] == sum(timeline["segments"]["live_bytes"] for timeline in before["timelines"])
    # The newest point of the first timeline is forked from, those before may go.
    assert [drop["points"] for drop in first["dropping"]] == [1, 2, 4, 5]


@pytest.mark.parametrize("count", [2, 4, 5])
def test_what_dropping_would_free_is_what_it_frees(tmp_path: Path, count: int) -> None:
    made = history(tmp_path / "spool")
    before = account(made.store)["timelines"][0]
    told = next(drop["frees_bytes"] for drop in before["dropping"] if drop["points"] == count)
    made.store.expire(T1, list(range(1, count + 1)))
    after = account(made.store)["timelines"][0]
    assert after["points"] == 6 - count
    assert before["segments"]["live_bytes"] - after["segments"]["live_bytes"] == told
    assert told > 0
