"""Images of powered-off machines."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from disk_peers import ended, run, short_folder

from homeport.disks import raw
from homeport.disks.errors import DiskError, DiskInUse, DiskOutOfRange
from homeport.disks.images import open_image
from homeport.disks.nbd.export import FileExport
from homeport.disks.nbd.server import NbdServer
from homeport.domain.extents import Extents
from homeport.domain.units import KiB, MiB

FORMATS = [pytest.param("raw"), pytest.param("qcow2", marks=pytest.mark.qemu)]
SIZE = 20 * MiB + 3 * 512
"""No multiple of 16 KiB, nor of a page."""


def create(path: Path, format: str, size: int = SIZE, *options: str | Path) -> Path:
    run("qemu-img", "create", "-q", "-f", format, *options, path, str(size))
    if format == "raw":
        # qemu-img allocates the first page, for probing its alignment.
        os.truncate(path, 0)
        os.truncate(path, size)
    return path


def content(path: Path, format: str) -> bytes:
    """All bytes of an image, by QEMU's own means."""
    copy = path.with_suffix(".copy")
    run("qemu-img", "convert", "-f", format, "-O", "raw", path, copy)
    try:
        return copy.read_bytes()
    finally:
        copy.unlink()


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_and_zeroed_is_read_back_by_us_and_by_qemu(tmp_path, format):
    path = create(tmp_path / "disk", format)
    rng = random.Random(11)
    expected = bytearray(SIZE)
    with open_image(path, format, writable=True) as image:
        assert image.size == SIZE
        assert image.writable
        assert image.allocated() == Extents()
        for _ in range(25):
            offset = rng.randrange(SIZE)
            data = rng.randbytes(rng.randrange(min(2 * MiB, SIZE - offset)) + 1)
            image.write(offset, data)
            expected[offset : offset + len(data)] = data
            offset = rng.randrange(SIZE)
            length = rng.randrange(min(MiB, SIZE - offset) + 1)
            image.zero(offset, length)
            expected[offset : offset + length] = bytes(length)
        image.write(SIZE - 512, b"e" * 512)
        expected[SIZE - 512 :] = b"e" * 512
        image.flush()
        buffer = bytearray(SIZE)
        image.read_into(0, memoryview(buffer))
        assert buffer == expected
        allocated = image.allocated()
    assert content(path, format) == expected
    with open_image(path, format) as image:
        assert not image.writable
        assert image.allocated() == allocated
        image.read_into(0, memoryview(buffer))
        assert buffer == expected
    known = bytearray(SIZE)
    for offset, length in allocated:
        known[offset : offset + length] = expected[offset : offset + length]
    assert known == expected


@pytest.mark.parametrize("format", FORMATS)
def test_only_what_was_written_is_allocated_and_zeroing_gives_it_back(tmp_path, format):
    path = create(tmp_path / "disk", format, 64 * MiB)
    with open_image(path, format, writable=True) as image:
        image.write(MiB, b"x" * (64 * KiB))
        image.write(40 * MiB, b"x" * (128 * KiB))
        image.flush()
        assert image.allocated() == Extents.of([(MiB, 64 * KiB), (40 * MiB, 128 * KiB)])
        image.zero(40 * MiB, 64 * KiB)
        image.flush()
        assert image.allocated() == Extents.of([(MiB, 64 * KiB), (40 * MiB + 64 * KiB, 64 * KiB)])


@pytest.mark.parametrize("format", FORMATS)
def test_threads_read_at_once(tmp_path, format):
    path = create(tmp_path / "disk", format)
    data = random.Random(2).randbytes(16 * MiB)
    with open_image(path, format, writable=True) as image:
        image.write(0, data)

        def read(index: int) -> bool:
            buffer = bytearray(256 * KiB)
            image.read_into(index * 256 * KiB, memoryview(buffer))
            return buffer == data[index * 256 * KiB : (index + 1) * 256 * KiB]

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(read, range(64)))


@pytest.mark.parametrize("format", FORMATS)
def test_requests_beyond_the_end_are_refused(tmp_path, format):
    with open_image(create(tmp_path / "disk", format), format, writable=True) as image:
        for request in (
            lambda: image.read_into(SIZE, memoryview(bytearray(1))),
            lambda: image.write(SIZE - 1, b"ab"),
            lambda: image.zero(0, SIZE + 1),
            lambda: image.write(-1, b"a"),
        ):
            with pytest.raises(DiskOutOfRange):
                request()


@pytest.mark.parametrize("format", FORMATS)
def test_a_read_only_image_can_not_be_written(tmp_path, format):
    path = create(tmp_path / "disk", format)
    with open_image(path, format) as image, pytest.raises((DiskError, OSError)):
        image.write(0, b"x")
    assert content(path, format) == bytes(SIZE)


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_that_is_not_there_is_named(tmp_path, format):
    with pytest.raises(DiskError, match="nowhere") as caught:
        open_image(tmp_path / "nowhere", format)
    assert caught.value.code == "disk.open-failed"


def test_a_format_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(DiskError) as caught:
        open_image(tmp_path / "disk", "vdi")
    assert caught.value.code == "disk.format"


@pytest.mark.qemu
def test_what_is_no_qcow2_is_refused_with_qemus_reason_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DiskError, match="qcow2"):
        open_image(path, "qcow2")
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def qemu_holding(path: Path, format: str, read_only: bool) -> Iterator[None]:
    """A QEMU process that holds the image as a running machine does."""
    process = subprocess.Popen(
        ["qemu-io", "-f", format, *(["-r"] if read_only else []), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process, ended(process):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        while b"MiB" not in process.stdout.readline():
            assert process.poll() is None
        yield


@pytest.mark.qemu
@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("writable", [False, True])
def test_an_image_that_a_qemu_writes_to_is_in_use(tmp_path, format, writable):
    path = create(tmp_path / "disk", format)
    with qemu_holding(path, format, read_only=False):
        with pytest.raises(DiskInUse) as caught:
            open_image(path, format, writable=writable)
        assert caught.value.code == "disk.in-use"
        assert "Shut down" in caught.value.remedy
    with open_image(path, format, writable=writable) as image:
        assert image.size == SIZE


@pytest.mark.qemu
@pytest.mark.parametrize("format", ["qcow2"])  # for raw ones QEMU's readers allow a writer beside them
def test_an_image_that_a_qemu_reads_can_be_read_and_not_written(tmp_path, format):
    path = create(tmp_path / "disk", format)
    with qemu_holding(path, format, read_only=True):
        with pytest.raises(DiskInUse):
            open_image(path, format, writable=True)
        with open_image(path, format) as image:
            assert image.size == SIZE


@pytest.mark.qemu
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_qemu_can_not_write_to_an_image_that_we_hold_and_can_as_soon_as_we_let_go(tmp_path, format):
    path = create(tmp_path / "disk", format)
    write = ["qemu-io", "-f", format, "-c", "write -P 1 0 512", str(path)]
    for writable in (False, True):
        with open_image(path, format, writable=writable):
            held = subprocess.run(write, capture_output=True, text=True, check=False, timeout=60)
            assert held.returncode != 0
            assert "lock" in held.stderr
        run(*write)


@pytest.mark.parametrize("format", FORMATS)
def test_readers_share_an_image_and_a_writer_does_not(tmp_path, format):
    path = create(tmp_path / "disk", format)
    with open_image(path, format), open_image(path, format), pytest.raises(DiskInUse):
        open_image(path, format, writable=True)
    with open_image(path, format, writable=True):
        with pytest.raises(DiskInUse):
            open_image(path, format)
        with pytest.raises(DiskInUse):
            open_image(path, format, writable=True)


@pytest.mark.qemu
def test_a_backing_chain_is_read_as_one_disk_and_never_written(tmp_path):
    base = create(tmp_path / "base.raw", "raw")
    with open_image(base, "raw", writable=True) as image:
        image.write(0, b"b" * (2 * MiB))
    middle = create(tmp_path / "middle.qcow2", "qcow2", SIZE, "-b", base, "-F", "raw")
    top = create(tmp_path / "top.qcow2", "qcow2", SIZE, "-b", middle, "-F", "qcow2")
    with open_image(middle, "qcow2", writable=True) as image:
        image.write(MiB, b"m" * MiB)
    with open_image(top, "qcow2", writable=True) as image:
        image.write(10 * MiB, b"t" * MiB)
        image.zero(0, 512 * KiB)
    expected = bytearray(SIZE)
    expected[512 * KiB : MiB] = b"b" * (512 * KiB)
    expected[MiB : 2 * MiB] = b"m" * MiB
    expected[10 * MiB : 11 * MiB] = b"t" * MiB
    with open_image(top, "qcow2") as image:
        buffer = bytearray(SIZE)
        image.read_into(0, memoryview(buffer))
        assert buffer == expected
        assert image.allocated() == Extents.of([(512 * KiB, MiB + 512 * KiB), (10 * MiB, MiB)])
    assert base.read_bytes()[: 2 * MiB] == b"b" * (2 * MiB)


@pytest.mark.qemu
def test_an_overlay_on_a_point_that_is_served_is_read_as_one_disk(tmp_path):
    with short_folder() as folder:
        base = create(tmp_path / "base.raw", "raw")
        with open_image(base, "raw", writable=True) as image:
            image.write(5 * MiB, b"p" * MiB)
        export = FileExport(base)
        with NbdServer({"disk0": export}) as server:
            server.serve_unix(folder / "nbd")
            uri = f"nbd+unix:///disk0?socket={folder / 'nbd'}"
            top = create(tmp_path / "top.qcow2", "qcow2", SIZE, "-b", uri, "-F", "raw")
            with open_image(top, "qcow2", writable=True) as image:
                image.write(0, b"t" * 512)
                image.flush()
                assert image.allocated() == Extents.of([(0, 64 * KiB), (5 * MiB, MiB)])
                buffer = bytearray(6 * MiB)
                image.read_into(0, memoryview(buffer))
                assert buffer == b"t" * 512 + bytes(5 * MiB - 512) + b"p" * MiB
        export.close()
        with pytest.raises(DiskError) as caught:
            open_image(top, "qcow2")
        assert caught.value.code == "disk.open-failed"


KILLED = """
import sys, pathlib, threading
from homeport.disks.images import open_image
image = open_image(pathlib.Path(sys.argv[1]), "qcow2", writable=True)
image.write(0, b"durable")
image.flush()
print(image._server.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.qemu
def test_qemu_nbd_ends_when_we_are_killed_and_lets_go_of_the_image(tmp_path):
    path = create(tmp_path / "disk", "qcow2")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env=environment)
    with process, ended(process):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        descriptor = os.pidfd_open(child)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    try:
        assert select.select([descriptor], [], [], 20)[0], "qemu-nbd outlived us"
    finally:
        os.close(descriptor)
    assert list(tmp_path.iterdir()) == [path]
    with open_image(path, "qcow2", writable=True) as image:
        buffer = bytearray(7)
        image.read_into(0, memoryview(buffer))
        assert buffer == b"durable"


@pytest.mark.qemu
def test_a_killed_qemu_nbd_is_an_error_and_no_hang(tmp_path):
    path = create(tmp_path / "disk", "qcow2")
    image = open_image(path, "qcow2", writable=True)
    os.kill(image._server.pid, signal.SIGKILL)
    with pytest.raises(DiskError):
        image.flush()
    with pytest.raises(DiskError, match="not closed cleanly"):
        image.close()
    image.close()
    with open_image(path, "qcow2", writable=True) as again:
        assert again.size == SIZE


@pytest.mark.qemu
def test_an_image_is_free_when_close_returns(tmp_path):
    path = create(tmp_path / "disk", "qcow2")
    for number in range(10):
        with open_image(path, "qcow2", writable=True) as image:
            image.write(number * 512, bytes([number + 1]) * 512)
    assert content(path, "qcow2")[:5120] == b"".join(bytes([number + 1]) * 512 for number in range(10))


@pytest.mark.parametrize("possible", [0, 1])
def test_raw_zeroes_are_written_where_the_file_system_can_not_make_holes(tmp_path, monkeypatch, possible):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (3 * MiB))
    refuse: Callable[[int, int, int], bool] = lambda descriptor, offset, length: False  # noqa: E731
    monkeypatch.setattr(raw, "punch_hole", refuse)
    if not possible:
        monkeypatch.setattr(raw, "zero_range", refuse)
    with open_image(path, "raw", writable=True) as image:
        image.zero(100, 2 * MiB)
    assert path.read_bytes() == b"x" * 100 + bytes(2 * MiB) + b"x" * (MiB - 100)


def test_a_flush_that_failed_stays_failed(tmp_path, monkeypatch):
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB))
    with open_image(path, "raw", writable=True) as image:
        with monkeypatch.context() as patched:

            def fail(descriptor: int) -> None:
                raise OSError(5, "Input/output error")

            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(DiskError) as caught:
                image.flush()
            assert caught.value.code == "disk.write-failed"
        with pytest.raises(DiskError):
            image.flush()


def test_a_raw_image_cut_short_while_open_is_an_error_and_not_zeroes(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MiB)
    with open_image(path, "raw") as image:
        os.truncate(path, 1000)
        with pytest.raises(DiskError) as caught:
            image.read_into(0, memoryview(bytearray(2000)))
        assert caught.value.code == "disk.truncated"


@pytest.mark.qemu
def test_opening_in_a_thread_that_ends_keeps_the_image_open(tmp_path):
    path = create(tmp_path / "disk", "qcow2")
    opened = []
    thread = threading.Thread(target=lambda: opened.append(open_image(path, "qcow2")))
    thread.start()
    thread.join()
    with opened[0] as image:
        buffer = bytearray(b"x")
        image.read_into(0, memoryview(buffer))
        assert buffer == b"\0"
