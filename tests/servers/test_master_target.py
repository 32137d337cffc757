"""The master target is killed with SIGKILL at every step; disks end as the point, and go back to what they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homeport.disks.errors import DiskInUse
from homeport.disks.images import open_image
from homeport.disks.qcow2 import Qcow2Image
from homeport.disks.raw import RawImage
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, KiB, MiB
from homeport.servers import master_target
from homeport.servers.master_target import DiskChanged, MasterTarget, NothingToRollBack, RetentionFull, stamp
from homeport.store import MachineStore
from tests.servers.bucket import KEYS, FolderObjects, read_point
from tests.servers.deaths import Steps, dies

T = "1" * 16
SIZE = 1 * MiB + 3 * BLOCK + 512
Content = dict[str, bytes]


class Original:
    """A powered-off machine whose disks equal point 0, and points 1 and 2 that it may be brought to."""

    def __init__(self, folder: Path, formats: dict[str, str]) -> None:
        self.folder = folder / "vm"
        self.folder.mkdir()
        self.retention = folder / "retention"
        self.objects = FolderObjects(folder / "store")
        self.disks = tuple(Disk(disk, SIZE, form, f"{disk}.{form}") for disk, form in formats.items())
        self.machine = Machine(KEYS.machine, "vm", self.disks)
        self.store = MachineStore(self.objects, KEYS)
        chance = np.random.default_rng(3)
        blank: Content = {disk: bytes(SIZE) for disk in formats}
        first = {disk: chance.bytes(SIZE // 2) + bytes(SIZE - SIZE // 2) for disk in formats}
        self.points = [PointId(T, number) for number in range(3)]
        self.contents = [first, self._changed(first, chance), self._changed(first, chance)]
        self.store.create_timeline(T)
        writer = self.store.writer(T, "test")
        before, parent = blank, None
        for point, content in zip(self.points, self.contents, strict=True):
            builder = writer.builder(point.number, folder / "spool", parent)
            for disk, data in content.items():
                for offset in range(0, SIZE, BLOCK):
                    if data[offset : offset + BLOCK] != before[disk][offset : offset + BLOCK]:
                        builder.write(disk, offset, data[offset : offset + BLOCK])
            spooled = builder.finish(instant=datetime.now(UTC), disks=dict.fromkeys(formats, SIZE))
            writer.publish(spooled)
            spooled.remove()
            before, parent = content, point
        assert read_point(self.store, self.points[2]) == self.contents[2]
        self.reset()
        self.fresh = self.folder.parent / "fresh"
        shutil.copytree(self.folder, self.fresh)

    @staticmethod
    def _changed(content: Content, chance: Any) -> Content:
        result = {}
        for disk, data in content.items():
            changed = bytearray(data)
            for number in chance.choice(SIZE // BLOCK, 8, replace=False).tolist():
                changed[number * BLOCK : (number + 1) * BLOCK] = chance.bytes(BLOCK) if number % 4 else bytes(BLOCK)
            changed[-100:] = chance.bytes(100)
            result[disk] = bytes(changed)
        return result

    def reset(self) -> None:
        """The disks as they were imported; nothing retained."""
        shutil.rmtree(self.retention, ignore_errors=True)
        if hasattr(self, "fresh"):
            shutil.rmtree(self.folder)
            shutil.copytree(self.fresh, self.folder)
            return
        for disk in self.disks:
            path = self.folder / disk.path
            path.touch()
            os.truncate(path, SIZE)
            if disk.format != "raw":
                subprocess.run(["qemu-img", "create", "-q", "-f", disk.format, path, str(SIZE)], check=True)
            with open_image(path, disk.format, writable=True) as image:
                image.write(0, self.contents[0][disk.id][: SIZE // 2])
                image.flush()

    def stamps(self) -> dict[str, list[int]]:
        return {disk.id: stamp(self.folder / disk.path) for disk in self.disks}

    def write(self, to: int, imported: dict[str, list[int]] | None = None) -> master_target.Written:
        store = MachineStore(self.objects, KEYS)
        return MasterTarget(self.retention).write_disks(
            self.folder,
            self.machine,
            store.open(self.points[0]),
            store.open(self.points[to]),
            lambda done, total: None,
            imported,
        )

    def roll_back(self) -> int:
        """As the work does it: nothing to roll back is fine."""
        try:
            return MasterTarget(self.retention).roll_back(self.folder, self.machine)
        except NothingToRollBack:
            return 0

    def content(self) -> Content:
        return {disk.id: self.image(disk) for disk in self.disks}

    def image(self, disk: Disk) -> bytes:
        with open_image(self.folder / disk.path, disk.format) as image:
            data = bytearray(SIZE)
            image.read_into(0, memoryview(data))
        return bytes(data)

    def let_go(self) -> None:
        """A killed process's qemu-nbd ends by itself, soon."""
        deadline = time.monotonic() + 10
        while True:
            try:
                for disk in self.disks:
                    open_image(self.folder / disk.path, disk.format, writable=True).close()
                return
            except DiskInUse:
                assert time.monotonic() < deadline
                time.sleep(0.01)


@pytest.fixture(params=[{"disk0": "raw", "disk1": "raw"}, {"disk0": "qcow2"}], ids=["raw", "qcow2"])
def original(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Original:
    monkeypatch.setattr(master_target, "PIECE", 32 * KiB)
    monkeypatch.setattr(master_target, "BATCH", 64 * KiB)
    return Original(tmp_path, request.param)


def mortal(work: Callable[[], Any], steps: Steps) -> None:
    """``work``, with a step before, in and after everything that changes a disk or the retention drive."""

    def half_image(original: Any, image: Any, offset: int, data: memoryview) -> None:
        original(image, offset, data[: len(data) // 2])

    def half_file(original: Any, file: int, content: Any, offset: int) -> None:
        original(file, memoryview(content)[: len(content) // 2], offset)

    def rmtree(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            path.unlink()
        folder.rmdir()

    master_target.shutil = SimpleNamespace(rmtree=rmtree, disk_usage=shutil.disk_usage)  # type: ignore
    for image in (RawImage, Qcow2Image):
        steps.within(image, "write", half_image)
        steps.around(image, "flush")
    steps.within(master_target, "write_all", half_file)
    steps.around(master_target, "write_durably")
    steps.around(os, "fdatasync")
    steps.around(Path, "unlink")
    steps.around(Path, "rmdir")
    work()


def mortal_write(original: Original, to: int, imported: dict[str, list[int]] | None, steps: Steps) -> None:
    mortal(partial(original.write, to, imported), steps)


def mortal_roll_back(original: Original, steps: Steps) -> None:
    mortal(original.roll_back, steps)


@pytest.mark.qemu
@pytest.mark.slow
def test_killed_at_any_step_disks_reach_the_point_and_go_back_exactly(original: Original) -> None:
    stride = 2 if original.disks[0].format == "raw" else 5  # qcow2 starts a qemu-nbd each time
    fatal, killed = 1, True
    while killed:
        original.reset()
        imported = original.stamps() if fatal % 2 else None
        killed = dies(partial(mortal_write, original, 1, imported), fatal)
        original.let_go()
        if fatal % 4 < 2:  # rolled back as it lies
            original.roll_back()
            assert original.content() == original.contents[0], fatal
        original.write(1, imported)
        assert original.content() == original.contents[1], fatal
        original.roll_back()
        assert original.content() == original.contents[0], fatal
        fatal += stride
    assert fatal > 60


@pytest.mark.qemu
@pytest.mark.slow
def test_a_roll_back_killed_at_any_step_is_finished_by_the_next(original: Original) -> None:
    stride = 2 if original.disks[0].format == "raw" else 5
    original.write(1)
    written = original.content()
    kept = original.folder.parent / "kept"
    for name in ("vm", "retention"):
        shutil.copytree(original.folder.parent / name, kept / name)
    fatal, killed = 1, True
    while killed:
        for name in ("vm", "retention"):
            shutil.rmtree(original.folder.parent / name, ignore_errors=True)
            shutil.copytree(kept / name, original.folder.parent / name)
        assert fatal > 1 or original.content() == written
        killed = dies(partial(mortal_roll_back, original), fatal)
        original.let_go()
        if fatal % 2:
            original.roll_back()
            assert original.content() == original.contents[0], fatal
        original.write(2)  # what the killed one left must not be taken for bytes of this way
        assert original.content() == original.contents[2], fatal
        original.roll_back()
        assert original.content() == original.contents[0], fatal
        fatal += stride
    assert fatal > 30


@pytest.mark.qemu
@pytest.mark.slow
def test_another_target_between_two_runs_starts_from_the_originals_bytes(original: Original) -> None:
    stride = 7 if original.disks[0].format == "raw" else 23
    fatal, killed = 1, True
    while killed:
        original.reset()
        original.write(2)
        killed = dies(partial(mortal_write, original, 1, None), fatal)  # rolls back first
        original.let_go()
        original.write(1)
        assert original.content() == original.contents[1], fatal
        original.roll_back()
        assert original.content() == original.contents[0], fatal
        fatal += stride


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Original:
    monkeypatch.setattr(master_target, "PIECE", 32 * KiB)
    monkeypatch.setattr(master_target, "BATCH", 64 * KiB)
    return Original(tmp_path, {"disk0": "raw"})


def test_bytes_left_by_an_interrupted_discard_are_not_given_back_later(raw: Original) -> None:
    raw.write(1)
    (raw.retention / KEYS.machine / "plan.json").unlink()  # as far as a discard got: the failback was committed
    path = raw.folder / "disk0.raw"
    path.write_bytes(raw.contents[2]["disk0"])  # the machine has lived since
    raw.write(1)
    assert raw.content() == raw.contents[1]
    raw.roll_back()
    assert raw.content() == raw.contents[2]


def test_a_disk_that_was_written_since_the_import_is_brought_to_the_point_and_back_all_the_same(raw: Original) -> None:
    imported = raw.stamps()
    path = raw.folder / "disk0.raw"
    data = bytearray(path.read_bytes())
    data[:] = bytes(each ^ 1 for each in data)  # also where the two points agree
    path.write_bytes(data)
    os.utime(path, ns=(0, imported["disk0"][1] + 1))
    raw.write(1, imported)
    assert raw.content() == raw.contents[1]
    raw.roll_back()
    assert raw.content() == {"disk0": bytes(data)}


def test_only_what_differs_is_written_and_kept(raw: Original) -> None:
    before, after = raw.contents[0]["disk0"], raw.contents[1]["disk0"]
    differing = [n for n in range(0, SIZE, BLOCK) if before[n : n + BLOCK] != after[n : n + BLOCK]]
    wanted = sum(min(BLOCK, SIZE - n) for n in differing)
    written = raw.write(1, raw.stamps())
    assert (written.written, written.retained) == (wanted, wanted)
    again = raw.write(1, raw.stamps())
    assert (again.written, again.retained) == (0, wanted)


def test_an_original_that_ran_in_between_is_compared_in_full(raw: Original) -> None:
    raw.write(1)
    MasterTarget(raw.retention).note_start(KEYS.machine)
    path = raw.folder / "disk0.raw"
    data = bytearray(path.read_bytes())
    data[5 * BLOCK : 6 * BLOCK] = os.urandom(BLOCK)
    path.write_bytes(data)
    raw.roll_back()
    raw.write(1, raw.stamps())  # the stamps say nothing any more
    assert raw.content() == raw.contents[1]


def test_a_torn_journal_line_is_no_line(raw: Original) -> None:
    raw.write(1)
    journal = raw.retention / KEYS.machine / "disk0.journal"
    whole = journal.read_bytes()
    lines = [line for line in whole.split(b"\n") if line]
    assert len(lines) > 2
    all_of_it = master_target._journal(journal)
    for cut in range(1, len(lines[-1]) + 1):
        journal.write_bytes(whole[: -1 - cut])
        torn = master_target._journal(journal)
        offset, length = map(int, lines[-1].split()[:2])
        assert not torn.intersect(all_of_it.intersect(master_target.Extents.of([(offset, length)])))
        # What is written behind a torn line counts.
        with journal.open("ab") as file:
            file.write(b"\n" + master_target._line(offset, length))
        assert master_target._journal(journal) == all_of_it


def test_a_disk_that_has_grown_since_keeps_what_lies_beyond_the_point(tmp_path: Path) -> None:
    original = Original(tmp_path, {"disk0": "raw", "disk1": "raw"})
    added = os.urandom(5 * BLOCK + 512)
    with (original.folder / "disk1.raw").open("ab") as image:
        image.write(added)
    grown = Disk("disk1", SIZE + len(added), "raw", "disk1.raw")
    original.machine = Machine(KEYS.machine, "vm", (original.disks[0], grown))
    original.write(1)
    assert (original.folder / "disk0.raw").read_bytes() == original.contents[1]["disk0"]
    assert (original.folder / "disk1.raw").read_bytes() == original.contents[1]["disk1"] + added


def test_a_disk_that_is_smaller_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    original = Original(tmp_path, {"disk0": "raw", "disk1": "raw"})
    before = original.content()
    smaller = Disk("disk1", SIZE - 512, "raw", "disk1.raw")
    original.machine = Machine(KEYS.machine, "vm", (original.disks[0], smaller))
    with pytest.raises(DiskChanged):
        original.write(1)
    original.machine = Machine(KEYS.machine, "vm", (original.disks[0], Disk("disk7", SIZE, "raw", "disk1.raw")))
    with pytest.raises(DiskChanged):
        original.write(1)
    original.machine = Machine(KEYS.machine, "vm", original.disks)
    assert original.content() == before


def test_another_base_is_refused_while_a_failback_is_unfinished(raw: Original) -> None:
    raw.write(1)
    raw.points[0] = raw.points[2]
    with pytest.raises(HomeportError) as refused:
        raw.write(1)
    assert refused.value.code == "failback.retention-in-use"


def test_nothing_is_overwritten_where_the_retention_drive_is_full(raw: Original, monkeypatch: Any) -> None:
    before = raw.content()
    usage = shutil.disk_usage(raw.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RetentionFull):
        raw.write(1)
    assert raw.content() == before


def test_a_running_machines_disk_is_not_touched(raw: Original) -> None:
    with open_image(raw.folder / "disk0.raw", "raw", writable=True), pytest.raises(DiskInUse):
        raw.write(1)
    assert raw.content() == raw.contents[0]
