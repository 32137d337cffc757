"""The tracker's bitmaps, and the block graph they lie in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storage_daemon import StorageDaemon, storage_daemon

from homeport.domain.points import PointId
from homeport.qemu.bitmaps import Bitmap, bitmaps, known_to_all, new_incarnation, start_tracking, stop_tracking
from homeport.qemu.errors import FilterMissing
from homeport.qemu.graph import DiskNode, disks, nodes, switch
from homeport.qemu.qmp import Qmp

A, B = PointId("a" * 16, 1), PointId("b" * 16, 0)


@pytest.fixture
def daemon() -> Iterator[StorageDaemon]:
    with storage_daemon() as running:
        yield running


@pytest.mark.qemu
def test_disks_are_found_in_order_with_size_and_format(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        assert disks(qmp) == [DiskNode("disk0", daemon.size, "raw"), DiskNode("disk1", daemon.size, "qcow2")]


@pytest.mark.qemu
def test_a_machine_without_filters_is_refused_and_its_disks_named(daemon: StorageDaemon) -> None:
    daemon.stop()
    daemon.start(filters=False)
    with Qmp.connect(daemon.qmp) as qmp, pytest.raises(FilterMissing, match="disk0, disk1"):
        disks(qmp)


@pytest.mark.qemu
def test_tracking_starts_on_all_disks_with_one_incarnation(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        incarnation = start_tracking(qmp, A)
        daemon.disk("disk1").write(0, b"x" * 16385)
        found = bitmaps(qmp)
        assert found["disk0"] == [Bitmap("disk0", A, incarnation, recording=True)]
        assert found["disk1"] == [Bitmap("disk1", A, incarnation, recording=True, persistent=True, count=32768)]
        assert start_tracking(qmp, A) == incarnation
        assert bitmaps(qmp)["disk1"][0].count == 32768
        assert start_tracking(qmp, B) != incarnation
        assert [[bitmap.point for bitmap in of_disk] for of_disk in bitmaps(qmp).values()] == [[B], [B]]
        stop_tracking(qmp)
        stop_tracking(qmp)
        assert bitmaps(qmp) == {"disk0": [], "disk1": []}


@pytest.mark.qemu
def test_bitmaps_of_others_are_left_alone(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        qmp.execute("block-dirty-bitmap-add", {"node": "disk0-format", "name": "backup-of-somebody"})
        start_tracking(qmp, A)
        stop_tracking(qmp)
        left = nodes(qmp)["disk0-format"]["dirty-bitmaps"]
        assert [bitmap["name"] for bitmap in left] == ["backup-of-somebody"]


@pytest.mark.qemu
def test_an_inconsistent_bitmap_after_a_crash_is_seen_and_replaced(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        start_tracking(qmp, A)
    daemon.stop()
    daemon.start()
    daemon.kill()
    daemon.start()
    with Qmp.connect(daemon.qmp) as qmp:
        (broken,) = bitmaps(qmp)["disk1"]
        assert broken.inconsistent
        assert not broken.recording
        start_tracking(qmp, A)
        assert known_to_all(bitmaps(qmp).values()).keys() == {A}


@pytest.mark.qemu
def test_switching_a_filter_keeps_its_options(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        before = nodes(qmp)["disk1"]
        switch(qmp, nodes(qmp), {"disk0": "disk0-format", "disk1": "disk1-format"})
        after = nodes(qmp)["disk1"]
        for option in ("ro", "cache", "detect_zeroes"):
            assert after[option] == before[option]
        start_tracking(qmp, A)
        client = daemon.disk("disk1")
        client.write(0, b"x" * 65536)
        client.trim(0, 65536)
        assert client.read(0, 65536) == bytes(65536), "the filter passes discards no more"


def test_a_point_is_known_only_where_all_disks_agree_and_record() -> None:
    same = Bitmap("disk0", A, "11111111", recording=True)
    assert known_to_all([[same], [same]]) == {A: "11111111"}
    assert known_to_all([[same], [Bitmap("disk1", A, "22222222", recording=True)]]) == {}
    assert known_to_all([[same], []]) == {}
    assert known_to_all([[Bitmap("disk0", A, "11111111", recording=False)]]) == {}
    assert known_to_all([[Bitmap("disk0", A, "11111111", recording=False, inconsistent=True)]]) == {}
    newest = Bitmap("disk0", PointId("0" * 16, 1), "33333333", recording=True)
    old = Bitmap("disk0", A, "11111111", recording=False)
    assert list(known_to_all([[newest, old]])) == [A, newest.point]


def test_an_incarnation_is_fresh() -> None:
    assert len({new_incarnation() for _ in range(100)}) == 100
    assert len(new_incarnation()) == 8
