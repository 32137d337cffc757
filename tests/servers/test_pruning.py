"""What a replication drops of its points: tags keep them, unless they were taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.servers.crossing import Crossing
from homeport.servers.replication import Replication
from homeport.servers.replication_spec import renewed
from homeport.servers.shipper import Shipper
from homeport.store.timeline import MachineStore
from tests.servers.bucket import FolderObjects
from tests.servers.rig import spec_of

T1 = "1" * 16


class Dropping:
    """As much of a store as pruning sees."""

    def __init__(self, points: list[PointInfo]) -> None:
        self.left = points

    def expire(self, timeline: str, drop: list[int]) -> None:
        self.left = [point for point in self.left if point.id.number not in drop]

    def points(self, timeline: str) -> list[PointInfo]:
        return self.left

    def maintain(self, timeline: str, newest: int) -> None:
        pass


class Prompt:
    """A shipper that does at once what it is given."""

    def give(self, job: Callable[[], Any]) -> None:
        job()


@pytest.mark.parametrize(("untagged", "left"), [([], [1, 2, 4]), ([f"{T1}/1"], [2, 4])])
def test_a_tag_keeps_a_point_until_it_is_taken_back(tmp_path: Path, untagged: list[str], left: list[int]) -> None:
    at = datetime.now(UTC) - timedelta(days=9)
    tags = {1: ("one",), 2: ("two",)}
    points = [
        PointInfo(PointId(T1, number), at + timedelta(hours=number), Consistency.CRASH, tags=tags.get(number, ()))
        for number in range(1, 5)
    ]
    spec = replace(spec_of(T1), retention=1800.0, raw=_raw(spec_of(T1).raw))
    store = Dropping(points)
    reports: list[dict[str, Any]] = []
    running = Replication(spec, cast(Any, None), FolderObjects(tmp_path), tmp_path, "test", reports.append, Crossing())
    running.spec = renewed(spec, {"untagged": untagged, "retention": 1800, "policy_at": "2026-01-01"})
    running._points = points
    running._shipper = cast(Shipper, Prompt())
    running._prune(cast(MachineStore, store))
    assert [point.id.number for point in store.left] == left


def _raw(raw: dict[str, Any]) -> dict[str, Any]:
    keys = {"vault": "11111111-2222-3333-4444-555555555555", "machine_key": bytes(32).hex()}
    store = {"site": "b", "url": "http://127.0.0.1:1", "token": "t"}
    common = {
        "item": "item",
        "vm": "vm",
        "timeline": T1,
        "machine": "m",
        "keys": keys,
        "store": store,
        "interval": 3600,
    }
    return {**common, **raw}
