"""A powered-off machine's disks become the base of a timeline, however often and wherever the import is killed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from homeport.disks.images import open_image
from homeport.domain.extents import Extents
from homeport.domain.machines import Disk, Machine
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.imports import import_base
from homeport.sources.interface import Changed, Knowledge
from homeport.sources.scan import ImageView
from homeport.store import MachineStore, block_digests
from homeport.store.builder import PointBuilder
from homeport.store.spool import SpooledPoint
from homeport.store.timeline import MachineStore as Store
from homeport.store.writer import Writer
from tests.servers.bucket import KEYS, FolderObjects, read_point
from tests.servers.deaths import Steps, dies

T1, T2 = "1" * 16, "2" * 16
SIZE = 1 * MiB + 512
MACHINE = Machine(
    KEYS.machine, "vm", (Disk("disk0", SIZE, "raw", "disk0.raw"), Disk("disk1", SIZE, "raw", "disk1.raw"))
)


class Powered:
    """The machine that is off, and its site's store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = FolderObjects(folder / "store")
        for disk in MACHINE.disks:
            with (folder / disk.path).open("wb") as file:
                file.write(os.urandom(SIZE // 2))
                file.truncate(SIZE)

    @property
    def store(self) -> MachineStore:
        return MachineStore(self.objects, KEYS)

    def content(self) -> dict[str, bytes]:
        return {disk.id: (self.folder / disk.path).read_bytes() for disk in MACHINE.disks}

    def bring_in(self, timeline: str, parent: PointId | None = None, disks: int = 2) -> tuple[PointId, int]:
        views = []
        images = []
        for disk in MACHINE.disks[:disks]:
            images.append(open_image(self.folder / disk.path, disk.format))
            views.append((ImageView(disk.id, images[-1], Changed(Knowledge.UNKNOWN)), Extents.whole(SIZE)))
        try:
            info, differing = import_base(
                self.store, KEYS, timeline, parent, None, MACHINE, views, self.folder / "spool", "test",
                lambda done, total: None,
            )  # fmt: skip
        finally:
            for image in images:
                image.close()
        return info.id, differing

    def right(self, point: PointId) -> None:
        assert read_point(self.store, point) == self.content()
        reader = self.store.open(point)
        keys = [key for key, _ in self.objects.list("") if f"{point.timeline}/digests/" in key]
        assert len(keys) == 2
        for disk, data in self.content().items():
            assert (reader.digests(disk).blocks(0) == block_digests(KEYS, data)).all()
        assert not self.store.verify(deep=True).problems
        spool = self.folder / "spool"
        assert not spool.exists() or not list(spool.iterdir())


@pytest.fixture
def powered(tmp_path: Path) -> Powered:
    return Powered(tmp_path)


def test_without_a_parent_all_that_is_not_zero_is_taken(powered: Powered) -> None:
    point, differing = powered.bring_in(T1)
    assert point == PointId(T1, 0)
    assert differing == 2 * -(-(SIZE // 2) // BLOCK) * BLOCK
    powered.right(point)
    assert powered.store.timeline(T1).parent is None


def test_with_a_parent_only_what_differs_from_it_is_taken(powered: Powered) -> None:
    parent, _ = powered.bring_in(T1)
    path = powered.folder / "disk0.raw"
    data = bytearray(path.read_bytes())
    data[7 * BLOCK : 9 * BLOCK] = os.urandom(2 * BLOCK)
    data[20 * BLOCK : 21 * BLOCK] = bytes(BLOCK)
    data[-1] = 7
    path.write_bytes(data)
    point, differing = powered.bring_in(T2, parent)
    assert point == PointId(T2, 0)
    assert differing == 3 * BLOCK + 512
    powered.right(point)
    assert powered.store.timeline(T2).parent == parent


def test_a_disk_that_the_parent_lacks_is_taken_whole(powered: Powered) -> None:
    parent, _ = powered.bring_in(T1, disks=1)
    point, differing = powered.bring_in(T2, parent)
    assert differing == -(-(SIZE // 2) // BLOCK) * BLOCK
    powered.right(point)


def test_asked_again_it_is_there_already(powered: Powered) -> None:
    first = powered.bring_in(T1)
    put = powered.objects.sent
    assert powered.bring_in(T1) == first
    assert powered.objects.sent == put


def test_killed_at_any_step_it_is_done_by_the_next_call(tmp_path: Path) -> None:
    """Every other time somebody writes to the disks in between: the point is then what they hold."""

    def work(powered: Powered, timeline: str, parent: PointId, steps: Steps) -> None:
        steps.around(FolderObjects, "put")
        steps.around(PointBuilder, "finish")
        steps.around(Writer, "publish")
        steps.around(SpooledPoint, "remove")
        steps.around(Store, "create_timeline")
        powered.bring_in(timeline, parent)

    fatal, killed, changed = 1, True, True
    while killed:
        (tmp_path / str(fatal)).mkdir()
        powered = Powered(tmp_path / str(fatal))
        parent, _ = powered.bring_in(T1)
        path = powered.folder / "disk1.raw"
        path.write_bytes(os.urandom(SIZE))
        held = powered.content()
        killed = dies(partial(work, powered, T2, parent), fatal)
        published = any(info.id.number == 0 for info in powered.store.points(T2)) if _exists(powered) else False
        if changed and not published:
            path.write_bytes(os.urandom(SIZE))
        point, _ = powered.bring_in(T2, parent)
        assert point == PointId(T2, 0)
        assert read_point(powered.store, point) == (powered.content() if changed and not published else held), fatal
        powered.right(point)
        fatal += 1
        changed = not changed
    assert fatal > 10


def _exists(powered: Powered) -> bool:
    return T2 in powered.store.timeline_ids()


def test_the_map_of_digests_is_the_views_own(powered: Powered, monkeypatch: pytest.MonkeyPatch) -> None:
    maps: dict[str, np.ndarray] = {}
    finish = PointBuilder.finish

    def spying(self: PointBuilder, **named: object) -> SpooledPoint:
        maps.update(named["digest_maps"])  # type: ignore[call-overload]
        return finish(self, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(PointBuilder, "finish", spying)
    parent, _ = powered.bring_in(T1)
    (powered.folder / "disk0.raw").write_bytes(os.urandom(SIZE))
    powered.bring_in(T2, parent)
    for disk, data in powered.content().items():
        assert (maps[disk] == block_digests(KEYS, data)).all()
