"""A restore: whatever a point's layers are, the target holds the point, byte for byte; nothing is read or written that
needn't be; and whenever it dies, the next one ends it."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeport.bucket import restore_work, restoring
from homeport.bucket.holding import holding
from homeport.bucket.restore_journal import Journal
from homeport.bucket.restore_plan import Piece, Zeroes, plan
from homeport.bucket.restore_stamp import path_of
from homeport.bucket.restoring import CheckFailed, TargetBusy, TargetExists, TargetUnsuitable
from homeport.disks.errors import DiskInUse
from homeport.disks.fallocate import punch_hole
from homeport.disks.raw import RawImage
from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import Corrupt, MachineStore, MemoryObjects, StoreUnavailable
from tests.bucket.restores import DISK, ONE, TWO, Dying, Machine
from tests.store.stores import KEYS, T1, blocks, noise


@pytest.fixture
def folder() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="hp"))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def machine(folder: Path) -> Machine:
    """Point 1: 24 MiB with data here and there; point 2: some of it other, zeroed, new."""
    machine = Machine(folder)
    size = 24 * MiB
    machine.add([(0, blocks(1, 64)), (5 * MiB, blocks(2, 200)), (20 * MiB, blocks(3, 100))], size)
    machine.add([(BLOCK, blocks(9, 3)), (5 * MiB, bytes(20 * BLOCK)), (12 * MiB, blocks(8, 10))], size)
    return machine


def same(target: Path, content: bytes) -> bool:
    with target.open("rb") as file:
        return file.read() == content


# -- properties --------------------------------------------------------------------------------------------------------


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_history_is_restored_byte_for_byte_by_every_way(data: st.DataObject) -> None:
    """Overlays that cut frames, zeroes, disks that shrink and grow, also within a block."""
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    try:
        machine = Machine(folder)
        for number in range(data.draw(st.integers(1, 5))):
            size = data.draw(st.integers(1, 120)) * 8192 + data.draw(st.sampled_from((0, 512)))
            total = -(-size // BLOCK)
            writes = []
            for turn in range(data.draw(st.integers(0, 4))):
                first = data.draw(st.integers(0, total - 1))
                count = data.draw(st.integers(1, min(total - first, 40)))
                content = blocks(number * 10 + turn, count) if data.draw(st.integers(0, 3)) else bytes(count * BLOCK)
                writes.append((first * BLOCK, content[: size - first * BLOCK]))
            machine.add(writes, size)
        points = sorted(machine.contents)
        one, other = data.draw(st.sampled_from(points)), data.draw(st.sampled_from(points))
        target = folder / "image"
        assert machine.restore(one, target).way == "full"
        assert same(target, machine.contents[one])
        assert machine.restore(other, target, differences=True).way == "map"
        assert same(target, machine.contents[other])
        path_of(target).unlink()
        found = machine.restore(one, target, differences=True, check=True)
        assert (found.way, found.checked) == ("digests", True)
        assert same(target, machine.contents[one])
        # Over noise, as onto a device: every byte must be brought.
        target.write_bytes(noise(1, len(machine.contents[other])))
        with RawImage(target, writable=True) as image:
            store = MachineStore(machine.objects, KEYS)
            reader = store.open(other)
            parts = plan(reader, DISK, Extents.whole(image.size), zeroes=True)
            restore_work.Copy(store, reader, DISK, image).run(parts, lambda count: None)
        assert same(target, machine.contents[other])
        assert machine.store.leases() == []
    finally:
        shutil.rmtree(folder)


def test_each_stored_range_is_read_once_and_each_byte_told_once(machine: Machine) -> None:
    reader = machine.store.open(TWO)
    parts = list(plan(reader, DISK, Extents.whole(24 * MiB), zeroes=True))
    pieces = [part for part in parts if isinstance(part, Piece)]
    ranges = [found for piece in pieces for found in piece.ranges]
    zeroes = [(part.offset, part.offset + part.length) for part in parts if isinstance(part, Zeroes)]
    told = sorted(ranges + zeroes)
    assert [start for start, _ in told] == [0, *(end for _, end in told)][:-1]
    assert told[-1][1] == 24 * MiB
    reads = sorted((piece.info.segment, piece.offset, piece.offset + piece.length) for piece in pieces)
    assert len(reads) == 3, "neighbours are read at once; what lies between and is zeroes now isn't read"
    for (segment, _, end), (after, start, _) in itertools.pairwise(reads):
        assert segment != after or end <= start


# -- a new image -------------------------------------------------------------------------------------------------------


def test_zeroes_are_holes_and_nothing_is_left_beside_but_the_stamp(machine: Machine, folder: Path) -> None:
    found = machine.restore(TWO, folder / "image", check=True)
    assert found.checked
    assert found.written == machine.store.open(TWO).extents(DISK).total
    assert (folder / "image").stat().st_blocks * 512 <= found.written + MiB
    assert {path.name for path in folder.iterdir()} == {"spool", "image", "image.homeport.json"}
    with pytest.raises(TargetExists):
        machine.restore(ONE, folder / "image")
    assert same(folder / "image", machine.contents[TWO])
    machine.restore(ONE, folder / "image", overwrite=True)
    assert same(folder / "image", machine.contents[ONE])
    (folder / "link").symlink_to(folder / "nowhere")
    with pytest.raises(TargetExists):
        machine.restore(ONE, folder / "link")
    with pytest.raises(TargetUnsuitable):
        machine.restore(ONE, folder / "spool", overwrite=True)


@pytest.fixture
def dying(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A disk whose restore takes some eighty reads."""
    monkeypatch.setattr("homeport.bucket.restore_plan.READ_MOST", MiB // 2)
    machine = Machine(folder, Dying())
    machine.add([(0, noise(1, 20 * MiB))], 22 * MiB)
    return machine


def test_an_interrupted_restore_goes_on_where_it_was(dying: Machine, folder: Path) -> None:
    target, objects = folder / "image", dying.objects
    assert isinstance(objects, Dying)
    objects.left = 50
    with pytest.raises(StoreUnavailable):
        dying.restore(ONE, target)
    assert not target.exists()
    assert (folder / "image.partial").exists()
    done, objects.left, objects.reads = objects.reads, 1 << 60, 0
    found = dying.restore(ONE, target)
    assert found.way == "resumed"
    assert found.skipped > 10 * MiB
    assert done + objects.reads < 21 * MiB, "nothing is read twice"
    assert same(target, dying.contents[ONE])
    assert not list(folder.glob("image.partial*"))


def test_another_point_or_a_damaged_journal_begins_anew(dying: Machine, folder: Path) -> None:
    target, journal = folder / "image", folder / "image.partial-journal"
    assert isinstance(dying.objects, Dying)
    dying.add([(MiB, noise(5, MiB)), (4 * MiB, bytes(MiB))], 22 * MiB)
    dying.objects.left = 25
    with pytest.raises(StoreUnavailable):
        dying.restore(ONE, target)
    torn = journal.read_bytes()
    dying.objects.left = 1 << 60
    found = dying.restore(TWO, target)
    assert found.way == "full"
    assert same(target, dying.contents[TWO])
    dying.objects.left = 25
    target.unlink()
    with pytest.raises(StoreUnavailable):
        dying.restore(ONE, target)
    # A torn line doesn't count; the rest is done again.
    journal.write_bytes(journal.read_bytes()[:-9])
    dying.objects.left = 1 << 60
    dying.restore(ONE, target)
    assert same(target, dying.contents[ONE])
    # Who cuts the partial file takes what the journal says is there.
    target.unlink()
    dying.objects.left = 25
    with pytest.raises(StoreUnavailable):
        dying.restore(ONE, target)
    os.truncate(folder / "image.partial", MiB)
    dying.objects.left = 1 << 60
    assert dying.restore(ONE, target).way == "full"
    assert same(target, dying.contents[ONE])
    # A journal without its file is of no use.
    target.unlink()
    journal.write_bytes(torn)
    assert dying.restore(ONE, target).way == "full"
    assert same(target, dying.contents[ONE])


def test_a_restore_killed_at_any_moment_is_ended_by_the_next(dying: Machine, folder: Path) -> None:
    """A child process is killed outright, several times; the last one may end."""
    target = folder / "image"
    rolls = random.Random(7)
    for _ in range(4):
        delay = rolls.uniform(0.005, 0.12)
        pid = os.fork()
        if not pid:
            try:
                restore_work.CHECKPOINT = MiB
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills
                signal.setitimer(signal.ITIMER_REAL, delay)
                dying.restore(ONE, target)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        if target.exists():
            assert same(target, dying.contents[ONE])
    dying.restore(ONE, target, overwrite=True)
    assert same(target, dying.contents[ONE])


def test_what_the_journal_names_is_on_stable_storage_first(
    dying: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_work, "CHECKPOINT", 2 * MiB)
    monkeypatch.setattr(restore_work, "_LOOK", 0.001)
    happened: list[str] = []
    flush, add = RawImage.flush, Journal.add

    def flushed(self: RawImage) -> None:
        flush(self)
        happened.append("flush")

    def added(self: Journal, done: Extents) -> None:
        happened.append("add")
        add(self, done)

    monkeypatch.setattr(RawImage, "flush", flushed)
    monkeypatch.setattr(Journal, "add", added)
    dying.restore(ONE, folder / "image")
    assert "add" in happened
    assert all(happened[at - 1] == "flush" for at, what in enumerate(happened) if what == "add")


def test_two_restores_of_one_target_dont_meet(machine: Machine, folder: Path) -> None:
    with restoring._open_partial(folder / "image.partial"), pytest.raises(TargetBusy):
        machine.restore(ONE, folder / "image")
    machine.restore(ONE, folder / "image")


def test_a_target_that_appears_meanwhile_is_not_overwritten(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = restore_work.Copy.run

    def run(self: restore_work.Copy, *arguments: object) -> None:
        (folder / "image").write_text("precious")
        copy(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_work.Copy, "run", run)
    with pytest.raises(TargetExists):
        machine.restore(ONE, folder / "image")
    assert (folder / "image").read_text() == "precious"


def test_damage_names_disk_and_blocks_and_leaves_no_image(machine: Machine, folder: Path) -> None:
    (key,) = [key for key in machine.objects.objects if "/segment/" in key][:1]
    data = bytearray(machine.objects.objects[key])
    data[len(data) // 3] ^= 1
    machine.objects.objects[key] = bytes(data)
    with pytest.raises(Corrupt) as failed:
        machine.restore(ONE, folder / "image")
    assert failed.value.code == "store.corrupt-frame"
    assert failed.value.details["disk"] == DISK
    assert failed.value.details["blocks"]
    assert not (folder / "image").exists()
    del machine.objects.objects[key]
    with pytest.raises(Corrupt) as failed:
        machine.restore(ONE, folder / "image")
    assert failed.value.details["disk"] == DISK


def test_check_finds_what_the_storage_lost(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = RawImage.write

    def losing(self: RawImage, offset: int, data: bytes | bytearray | memoryview) -> None:
        write(self, offset, data)
        if offset <= 21 * MiB < offset + len(data):
            os.pwrite(self._descriptor, b"\x00lost", 21 * MiB + 77)

    monkeypatch.setattr(RawImage, "write", losing)
    with pytest.raises(CheckFailed) as failed:
        machine.restore(ONE, folder / "image", check=True)
    assert failed.value.details["blocks"] == [21 * MiB // BLOCK]
    assert not (folder / "image").exists()


# -- differences -------------------------------------------------------------------------------------------------------


class Written:
    """What is written to raw images, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[int, int]] = []
        write, zero = RawImage.write, RawImage.zero

        def counted(self_: RawImage, offset: int, data: bytes | bytearray | memoryview) -> None:
            self.ranges.append((offset, len(data)))
            write(self_, offset, data)

        def zeroed(self_: RawImage, offset: int, length: int) -> None:
            self.ranges.append((offset, length))
            zero(self_, offset, length)

        monkeypatch.setattr(RawImage, "write", counted)
        monkeypatch.setattr(RawImage, "zero", zeroed)

    def taken(self) -> Extents:
        found, self.ranges = Extents.of(self.ranges), []
        return found


def differ(one: bytes, other: bytes) -> Extents:
    size = max(len(one), len(other))
    changed = [
        (at, BLOCK)
        for at in range(0, size, BLOCK)
        if one[at : at + BLOCK].ljust(BLOCK, b"\0") != other[at : at + BLOCK].ljust(BLOCK, b"\0")
    ]
    return Extents.of(changed).clip(0, size)


def test_only_what_differs_is_written(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder / "image"
    machine.restore(ONE, target)
    written = Written(monkeypatch)
    found = machine.restore(TWO, target, differences=True)
    assert (found.way, found.why, found.compared) == ("map", "", 0)
    expected = differ(machine.contents[ONE], machine.contents[TWO])
    assert written.taken() == expected
    assert found.written + found.zeroed == expected.total
    assert found.skipped == 24 * MiB - expected.total
    assert same(target, machine.contents[TWO])
    # The target is changed by another hand: its stamp counts no more.
    with target.open("r+b") as file:
        file.seek(7 * MiB + 3)
        file.write(b"mine")
    found = machine.restore(TWO, target, differences=True)
    assert (found.way, bool(found.why)) == ("digests", True)
    assert written.taken() == Extents.of([(7 * MiB, BLOCK)])
    assert same(target, machine.contents[TWO])
    # Nothing to do: nothing is written.
    assert machine.restore(TWO, target, differences=True).way == "map"
    assert not written.taken()
    path_of(target).unlink()
    found = machine.restore(TWO, target, differences=True)
    assert (found.written, found.zeroed) == (0, 0)
    assert found.compared < 24 * MiB, "holes aren't read"
    assert not written.taken()


def test_a_block_of_which_only_a_part_is_allocated_is_compared_as_a_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, target = Machine(folder), folder / "image"
    machine.add([(3 * BLOCK, bytes(8192) + noise(1, 4096) + bytes(4096))], MiB)
    machine.restore(ONE, target)
    with target.open("r+b") as file:
        punch_hole(file.fileno(), 3 * BLOCK, 8192)
    written = Written(monkeypatch)
    assert machine.restore(ONE, target, differences=True).way == "digests"
    assert not written.taken()


@pytest.mark.parametrize(
    "change",
    [
        lambda stamp: stamp["held"].update(record_sha256="0" * 64),
        lambda stamp: stamp["held"].update(machine="another"),
        lambda stamp: stamp["held"].update(point=f"{T1}/99"),
        lambda stamp: stamp.update(boot="another"),
        lambda stamp: stamp.update(version=2),
        lambda stamp: stamp["file"].update(mtime_ns=1),
        lambda stamp: stamp.pop("held"),
    ],
)
def test_a_stamp_that_doesnt_fit_is_not_trusted(machine: Machine, folder: Path, change: object) -> None:
    target = folder / "image"
    machine.restore(ONE, target)
    stamp = json.loads(path_of(target).read_text())
    change(stamp)  # type: ignore[operator]
    path_of(target).write_text(json.dumps(stamp))
    found = machine.restore(TWO, target, differences=True)
    assert found.way == "digests"
    assert found.why
    assert same(target, machine.contents[TWO])
    assert machine.restore(ONE, target, differences=True).way == "map"


def test_a_write_right_after_the_restore_is_seen(machine: Machine, folder: Path) -> None:
    target = folder / "image"
    for _ in range(5):
        machine.restore(ONE, target, overwrite=True)
        with target.open("r+b") as file:
            file.write(b"mine")
        assert machine.restore(ONE, target, differences=True).way == "digests"
        assert same(target, machine.contents[ONE])


def test_a_target_that_was_being_changed_is_compared(dying: Machine, folder: Path) -> None:
    target = folder / "image"
    assert isinstance(dying.objects, Dying)
    dying.restore(ONE, target)
    dying.add([(at * MiB, noise(at + 50, BLOCK)) for at in range(20)], 23 * MiB)
    dying.objects.left = 0
    with pytest.raises(StoreUnavailable):
        dying.restore(TWO, target, differences=True)
    dying.objects.left = 1 << 60
    found = dying.restore(TWO, target, differences=True)
    assert found.way == "digests"
    assert "interrupted" in found.why
    assert same(target, dying.contents[TWO])


def test_a_target_in_use_is_left_alone(machine: Machine, folder: Path) -> None:
    target = folder / "image"
    machine.restore(ONE, target)
    with RawImage(target, writable=True), pytest.raises(DiskInUse):
        machine.restore(TWO, target, differences=True)
    assert same(target, machine.contents[ONE])


# -- block devices -----------------------------------------------------------------------------------------------------


@contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    made = subprocess.run(["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip("no loop devices here")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


@pytest.mark.skipif(shutil.which("losetup") is None or os.geteuid() != 0, reason="needs root and losetup")
def test_a_block_device_is_brought_to_a_point(machine: Machine, folder: Path) -> None:
    behind = folder / "behind"
    behind.write_bytes(noise(3, 25 * MiB))
    content, tail = machine.contents, noise(3, 25 * MiB)[24 * MiB :]
    with loop_device(behind) as device:
        with pytest.raises(TargetExists):
            machine.restore(ONE, device)
        found = machine.restore(ONE, device, overwrite=True, check=True)
        assert found.written + found.zeroed == 24 * MiB
        assert any("larger" in note for note in found.notes)
        assert same(device, content[ONE] + tail)
        found = machine.restore(TWO, device, differences=True)
        assert found.way == "digests"
        assert found.written + found.zeroed == differ(content[ONE], content[TWO]).total
        assert same(device, content[TWO] + tail)
        with pytest.raises(TargetUnsuitable):
            machine.restore(TWO, device, overwrite=True, format="vhd")
    os.truncate(behind, 23 * MiB)
    with loop_device(behind) as device, pytest.raises(TargetUnsuitable):
        machine.restore(TWO, device, overwrite=True)


# -- holding -----------------------------------------------------------------------------------------------------------


def test_the_point_is_held_while_it_is_read(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[list[PointId]] = []
    copy = restore_work.Copy.run

    def run(self: restore_work.Copy, *arguments: object) -> None:
        during.append([lease.point for lease in machine.store.leases()])
        assert machine.store.expire(T1, [1]).dropped == []
        copy(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_work.Copy, "run", run)
    machine.restore(ONE, folder / "image")
    assert during == [[ONE]]
    assert machine.store.leases() == []


def test_a_lease_is_renewed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.bucket.holding.SECONDS", 0.06)
    with holding(machine.store, ONE, "test") as refusal:
        assert refusal is None
        first = datetime.now(UTC) + timedelta(seconds=0.08)
        deadline = time.monotonic() + 60
        while not any(lease.expires > first for lease in machine.store.leases()):
            assert time.monotonic() < deadline, "it wasn't renewed"
            time.sleep(0.005)


class ReadOnly(MemoryObjects):
    closed = False

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        if self.closed:
            raise StoreUnavailable("read-only")
        super().put(key, data, if_absent=if_absent)


def test_a_store_that_can_only_be_read_is_restored_from_with_a_remark(folder: Path) -> None:
    objects = ReadOnly()
    machine = Machine(folder, objects)
    machine.add([(0, blocks(1, 5))], MiB)
    objects.closed = True
    found = machine.restore(ONE, folder / "image")
    assert "read-only" in found.notes[0]
    assert same(folder / "image", machine.contents[ONE])
