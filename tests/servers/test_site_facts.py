"""What the servers of a site tell of its store and its drives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from homeport.domain.errors import HomeportError
from homeport.servers.site_facts import StoreProbe, device_of, drive, volumes
from homeport.store.backends import open_objects
from homeport.store.memory import MemoryObjects


class Strange(MemoryObjects):
    """Lists only when it is let, or fails."""

    def __init__(self, failure: HomeportError | None = None) -> None:
        super().__init__()
        self.let = threading.Event()
        self.failure = failure
        self.asked = 0

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        self.let.wait(30)
        return super().list(prefix)


def test_a_drive_is_told_be_its_folder_there_or_not(tmp_path: Path) -> None:
    for folder in (tmp_path / ".homeport" / "cache", tmp_path):
        found = drive(folder)
        assert found["path"] == str(folder)
        assert 0 < found["free"] <= found["total"]
        assert found["writable"] is True
        assert found["filesystem"] == found["filesystem"].lower()
    assert drive(tmp_path / "cache")["device"] == drive(tmp_path / "retention")["device"]


def test_the_volumes_of_this_machine_hold_its_folders_each_once(tmp_path: Path) -> None:
    found = volumes()
    assert len({volume.device for volume in found}) == len(found)
    assert device_of(tmp_path) in {volume.device for volume in found}
    assert not {"proc", "sysfs", "cgroup2"} & {volume.filesystem for volume in found}
    assert all(0 <= volume.free <= volume.total for volume in found)


def test_a_local_store_answers_and_tells_its_room(tmp_path: Path) -> None:
    url = (tmp_path / "a store").as_uri()
    (tmp_path / "a store").mkdir()
    found = StoreProbe(open_objects(url), url).facts()
    assert (found["reachable"], found["why"]) == (True, "")
    assert found["free"] > 0
    assert found["path"] == str(tmp_path / "a store")


def test_a_store_that_refuses_is_not_reachable_and_says_why() -> None:
    found = StoreProbe(Strange(HomeportError("the disk is gone", code="store.unavailable")), "s3://bucket").facts()
    assert (found["reachable"], found["free"]) == (False, None)
    assert "the disk is gone" in found["why"]


def test_a_store_that_hangs_is_asked_once_and_not_waited_for() -> None:
    objects = Strange()
    probe = StoreProbe(objects, "s3://bucket", seconds=0.1)
    begun = time.monotonic()
    assert [probe.facts()["reachable"] for _ in range(3)] == [False] * 3
    assert time.monotonic() - begun < 5
    assert objects.asked == 1
    objects.let.set()
    assert probe._asked is not None
    probe._asked.join(10)
    assert probe.facts()["reachable"] is True
