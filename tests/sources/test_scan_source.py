"""Powered-off disks as a source."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.sources.interface import Knowledge
from homeport.sources.scan import ScanSource

MiB = 1 << 20
BASE, POINT = PointId("0" * 16, 3), PointId("1" * 16, 1)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    data = random.Random(1).randbytes(MiB)
    raw = tmp_path / "disk0.raw"
    raw.write_bytes(bytes(MiB) + data + bytes(2 * MiB))
    qcow2 = tmp_path / "disk1.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    subprocess.run(["fallocate", "--dig-holes", str(raw)], check=True)
    return {"disk0": (raw, "raw"), "disk1": (qcow2, "qcow2")}


def test_both_formats_are_read_and_their_holes_known(images: dict[str, tuple[Path, str]]) -> None:
    expected = images["disk0"][0].read_bytes()
    with ScanSource(images) as source:
        view = source.begin_point(POINT, BASE)
        assert [disk.id for disk in view.disks] == ["disk0", "disk1"]
        for disk in view.disks:
            assert disk.size == 4 * MiB
            assert disk.changed.knowledge is Knowledge.UNKNOWN
            data = bytearray(disk.size)
            disk.read_into(0, memoryview(data))
            assert data == expected
            assert disk.allocated().intersect(Extents.of([(MiB, MiB)])).total == MiB
            assert disk.allocated().total <= 2 * MiB
        source.handed(POINT)
        source.commit(POINT)
        assert source.tracked() == {}


def test_extents_that_the_caller_knows_are_passed_on(images: dict[str, tuple[Path, str]]) -> None:
    known = Extents.of([(0, 65536)])
    with ScanSource(images, {"disk1": known}) as source:
        unknown, told = source.begin_point(POINT, BASE).disks
        assert unknown.changed.knowledge is Knowledge.UNKNOWN
        assert (told.changed.knowledge, told.changed.extents) == (Knowledge.EXTENTS, known)


def test_everything_is_read_at_a_first_copy(images: dict[str, tuple[Path, str]]) -> None:
    with ScanSource(images) as source:
        assert {disk.changed.knowledge for disk in source.live().disks} == {Knowledge.EVERYTHING}
