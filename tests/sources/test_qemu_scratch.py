"""Full scratch space breaks the view and nothing else."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from storage_daemon import MiB, StorageDaemon
from test_qemu_source import content, left_behind, point, source_of

from homeport.domain.extents import Extents
from homeport.sources import scratch
from homeport.sources.errors import ViewBroken
from homeport.sources.qemu import QemuSource


@contextmanager
def small_file_system(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes. Skips the test where mounting isn't allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip(f"can't mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(os.fsencode(folder), 2)


def overflow(daemon: StorageDaemon, source: QemuSource) -> None:
    """Overwrite all of both disks while a view is open whose scratch space can't take that."""
    before = {}
    source.track(point(0))
    for disk in ("disk0", "disk1"):
        before[disk] = random.Random(disk).randbytes(daemon.size)
        daemon.disk(disk).write(0, before[disk])
    view = source.begin_point(point(1), point(0))
    assert content(view) == before
    after = {}
    for disk in ("disk0", "disk1"):
        after[disk] = random.Random(disk + "later").randbytes(daemon.size)
        client = daemon.disk(disk)
        client.write(0, after[disk], fua=True)
        assert client.read(0, daemon.size) == after[disk]
    for of_disk in view.disks:
        with pytest.raises(ViewBroken):
            of_disk.read_into(0, memoryview(bytearray(4096)))
    source.abort(point(1))
    assert left_behind(daemon) == []
    view = source.begin_point(point(1), point(0))
    assert content(view) == after
    assert [of_disk.changed.extents for of_disk in view.disks] == [Extents.whole(daemon.size)] * 2
    source.handed(point(1))


@pytest.mark.qemu
def test_more_than_the_scratch_limit_breaks_the_view_and_no_write_fails(daemon: StorageDaemon) -> None:
    limit = 4 * MiB
    overflow(daemon, source_of(daemon, scratch_limit=limit))


@pytest.mark.qemu
def test_a_scratch_file_never_grows_beyond_its_share(daemon: StorageDaemon) -> None:
    source = source_of(daemon, scratch_limit=4 * MiB)
    source.track(point(0))
    source.begin_point(point(1), point(0))
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).write(0, random.Random(disk).randbytes(daemon.size))
    files = list((daemon.folder / "scratch").iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 4 * MiB
    assert sum(file.stat().st_blocks * 512 for file in files) <= 4 * MiB + 65536
    source.abort(point(1))


@pytest.mark.qemu
def test_a_full_file_system_below_the_scratch_breaks_the_view_and_no_write_fails(daemon: StorageDaemon) -> None:
    with small_file_system(daemon.folder / "small", 3 * MiB) as folder:
        overflow(daemon, source_of(daemon, scratch=folder / "scratch"))


@pytest.mark.qemu
def test_a_scratch_that_fits_holds_a_whole_disk(daemon: StorageDaemon) -> None:
    source = source_of(daemon, scratch_limit=2 * scratch.needed(daemon.size))
    source.track(point(0))
    before = {}
    for disk in ("disk0", "disk1"):
        before[disk] = random.Random(disk).randbytes(daemon.size)
        daemon.disk(disk).write(0, before[disk])
    view = source.begin_point(point(1), point(0))
    for disk in ("disk0", "disk1"):
        daemon.disk(disk).write(0, bytes(daemon.size))
    assert content(view) == before
    source.handed(point(1))


@pytest.mark.parametrize("size", [512, 65536, 5 * MiB + 512, 64 << 30, 64 << 40])
def test_an_empty_scratch_image_is_whole(tmp_path: Path, size: int) -> None:
    share = scratch.shares(1 << 30, {"disk0": size})["disk0"]
    path = scratch.create(tmp_path, "disk0", size, share)
    info = subprocess.run(["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True, text=True)
    assert f'"virtual-size": {size}' in info.stdout
    check = subprocess.run(["qemu-img", "check", "-q", str(path)], check=False, capture_output=True, text=True)
    assert check.returncode == 0, check.stderr + check.stdout
    assert path.stat().st_blocks * 512 <= 2 * MiB
    scratch.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_shared_evenly_and_none_gets_more_than_it_needs() -> None:
    shares = scratch.shares(10 << 30, {"disk0": 1 << 40, "disk1": 1 << 30, "disk2": 1 << 40})
    assert shares["disk1"] == scratch.needed(1 << 30)
    assert shares["disk0"] == shares["disk2"] > 4 << 30
    assert sum(shares.values()) <= 10 << 30
