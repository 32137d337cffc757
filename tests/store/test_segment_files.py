"""A point's segments on their way into a folder: whole, or not there, whenever the power goes and whatever fails."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, KiB, MiB
from homeport.store import LocalObjects, PointBuilder, StoreUnavailable, block_digests
from homeport.store.intake import take_in
from homeport.store.local import STAGING
from homeport.store.names import Segment
from homeport.store.segment import SegmentFile, pack_frame
from homeport.store.writer import Writer
from tests.store.powercut import Disk as PowerDisk
from tests.store.stores import KEYS, MACHINE, NOW, T1, noise, store

DISK = "disk0"
SEGMENTS = f"machines/{MACHINE}/t/{T1}/segment/"


class Source:
    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.size = len(content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]


def a_writer(folder: Path) -> Writer:
    machine = store(LocalObjects(folder))
    machine.create_timeline(T1)
    return machine.writer(T1, "test")


def begun(writer: Writer) -> PointBuilder:
    """A builder in the store's own scratch folder, as an import has it."""
    objects = writer._store.objects
    assert isinstance(objects, LocalObjects)
    return writer.builder(1, objects.scratch(), None, upload=True)


def test_whenever_the_power_goes_a_segment_that_has_a_key_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before each system call of a point's building, with each subset of what was not flushed."""
    monkeypatch.setattr("homeport.store.segment.TARGET", 100 * KiB)
    root = tmp_path / "disk"
    root.mkdir()
    disk = PowerDisk(root)
    disk.patch(monkeypatch)
    writer = a_writer(root / "b")
    for change in disk.changes:
        change.sure = True
    one = threading.RLock()
    seen: set[tuple[str, bytes]] = set()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        cuts += 1
        for tree in disk.after_power_cut():
            seen.update((path, data) for path, data in tree.items() if "/segment/" in path and STAGING not in path)

    for name in ("open", "write", "pwrite", "fsync", "link", "replace", "unlink", "mkdir"):
        real = getattr(os, name)

        def first(*arguments: object, _real: Callable[..., object] = real, **options: object) -> object:
            with one:
                cut()
                return _real(*arguments, **options)

        monkeypatch.setattr(os, name, first)
    builder = begun(writer)
    for number in range(11):
        builder.write(DISK, number * BLOCK, noise(number, BLOCK))
    built = builder.finish_uploaded(instant=NOW, disks={DISK: 11 * BLOCK})
    cut()
    names = {f"b/{segment.key(MACHINE)}" for segment, _ in built.segments}
    assert len(names) == 2
    assert cuts > 15
    assert seen == {(name, (root / name).read_bytes()) for name in names}  # whole, or not there


@pytest.mark.parametrize("failure", ["no space", "broken", "broken when flushed"])
def test_what_couldnt_be_written_leaves_nothing(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever meets the error, at the latest the point's end does; no segment gets a key, no file stays."""
    monkeypatch.setattr("homeport.store.segment.TARGET", MiB)
    writer = a_writer(tmp_path / "b")
    builder = begun(writer)
    pwrite, fsync = os.pwrite, os.fsync
    left = 150_000
    one = threading.Lock()

    def write(fd: int, data: memoryview, offset: int) -> int:
        nonlocal left
        if failure == "broken when flushed":
            return pwrite(fd, data, offset)
        with one:
            if left < len(data) and failure == "broken":
                raise OSError(errno.EIO, "Input/output error")
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = pwrite(fd, data[:left], offset)  # at the end a part of it, and not whole pages
            left -= done
            return done

    def flush(fd: int) -> None:
        if failure == "broken when flushed" and re.search(r"/\d{10}-\d{10}$", os.readlink(f"/proc/self/fd/{fd}")):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", flush)
    content = noise(7, 4 * MiB)
    with pytest.raises(StoreUnavailable) as raised:
        take_in(builder, KEYS, DISK, Source(content), Extents.whole(len(content)), threads=2)
        builder.finish_uploaded(instant=NOW, disks={DISK: len(content)})
    assert raised.value.code == ("store.full" if failure == "no space" else "store.unavailable")
    builder.discard()
    assert not builder.path.exists()
    assert not list(writer._store.objects.list(SEGMENTS))


def test_whoever_writes_after_another_threads_error_hears_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several threads any may be the one whose error is told: a full cache is waited for, other errors are not."""
    builder = begun(a_writer(tmp_path / "b"))

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as raised:
            builder.write(DISK, 0, noise(1, BLOCK))
        assert raised.value.code == "store.full"
    builder.discard()


def test_a_segment_that_lacks_a_frame_is_never_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be about to, while the one whose write failed tells of it."""
    file = SegmentFile(tmp_path, KEYS, Segment(T1, 1, 1))
    content = memoryview(noise(1, BLOCK))
    frame = pack_frame(0, content, block_digests(KEYS, content).tobytes())
    file.append(DISK, [frame])
    with monkeypatch.context() as broken:

        def fail(fd: int, data: memoryview, offset: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="Input/output"):
            file.append(DISK, [frame])
    file.append(DISK, [frame])
    with pytest.raises(OSError, match="Input/output"):
        file.finish()
    file.close()
