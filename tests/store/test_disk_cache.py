"""The disk cache: sealed frames near by. It may be damaged, cut, full, shared or gone; a reader never notices."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.store import MachineStore, MemoryObjects, StoreError
from homeport.store.disk_cache import _HEADER, _MAGIC, FOLDER, CachedObjects, DiskCache
from homeport.store.errors import CorruptFrame
from homeport.store.read_ahead import FRAME
from tests.store.stores import KEYS, T1, noise
from tests.store.test_reading import DISK, CountingObjects, one_point

CONTENT = noise(5, 4 * FRAME)
POINT = PointId(T1, 1)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / FOLDER).rglob("*") if path.is_file() and path.name != "lock")


def reader_of(objects: MemoryObjects, folder: Path, limit: int = 64 * MiB) -> MachineStore:
    """A process's first look: nothing in memory."""
    return MachineStore(CachedObjects(objects, DiskCache(folder, limit), "memory:"), KEYS)


@pytest.fixture
def objects() -> CountingObjects:
    objects = CountingObjects()
    one_point(CONTENT, objects)
    objects.asked.clear()
    return objects


def read(objects: MemoryObjects, folder: Path) -> bytes:
    return reader_of(objects, folder).open(POINT).read(DISK, 0, len(CONTENT))


def test_what_was_fetched_is_not_fetched_again(objects: CountingObjects, tmp_path: Path) -> None:
    reader = reader_of(objects, tmp_path).open(POINT)
    assert reader.read(DISK, FRAME, 10) == CONTENT[FRAME : FRAME + 10]
    assert len(objects.asked) == 1
    assert reader_of(objects, tmp_path).open(POINT).read(DISK, FRAME + 20, 10) == CONTENT[FRAME + 20 : FRAME + 30]
    assert len(objects.asked) == 1
    # The rest is asked for around what is here.
    assert read(objects, tmp_path) == CONTENT
    assert len(objects.asked) == 3
    assert read(objects, tmp_path) == CONTENT
    assert len(objects.asked) == 3


def test_only_sealed_bytes_lie_there_for_this_user_alone(objects: CountingObjects, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    before = os.umask(0)
    try:
        assert read(objects, folder) == CONTENT
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / FOLDER).stat().st_mode) == 0o700
    assert len(files(folder)) == 4
    for path in files(folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(CONTENT[at : at + 64] in path.read_bytes() for at in range(0, len(CONTENT), FRAME // 4))


@pytest.mark.parametrize("how", ["flipped", "forged", "cut", "emptied", "longer", "swapped", "deleted", "unreadable"])
def test_damage_is_never_noticed_and_heals(objects: CountingObjects, tmp_path: Path, how: str) -> None:
    assert read(objects, tmp_path) == CONTENT
    first, second, *_ = files(tmp_path)
    data = bytearray(first.read_bytes())
    match how:
        case "flipped":
            data[-1] ^= 1
            first.write_bytes(data)
        case "forged":  # with a header that fits: only the frame's authentication can tell
            data[-1] ^= 1
            body = data[_HEADER.size :]
            first.write_bytes(_HEADER.pack(_MAGIC, len(body), crc32(body)) + body)
        case "cut":
            os.truncate(first, len(data) // 2)
        case "emptied":
            os.truncate(first, 0)
        case "longer":
            first.write_bytes(data + b"more")
        case "swapped":
            first.write_bytes(second.read_bytes())
        case "deleted":
            first.unlink()
        case "unreadable":
            first.unlink()
            first.mkdir()
    objects.asked.clear()
    assert read(objects, tmp_path) == CONTENT
    assert len(objects.asked) == 1
    objects.asked.clear()
    assert read(objects, tmp_path) == CONTENT
    # One that failed its authentication is fetched past the cache, and kept at the next time.
    assert len(objects.asked) == (1 if how in ("forged", "swapped", "unreadable") else 0)


def test_damage_in_the_store_itself_is_told(objects: CountingObjects, tmp_path: Path) -> None:
    key = next(key for key, _ in objects.list("") if "/segment/" in key)
    whole = objects.get(key)
    damaged = bytearray(whole)
    damaged[100] ^= 1
    objects.put(key, bytes(damaged), if_absent=False)
    with pytest.raises(CorruptFrame):
        read(objects, tmp_path)
    objects.put(key, whole, if_absent=False)
    assert read(objects, tmp_path) == CONTENT  # the damage wasn't kept


def test_it_is_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, MiB)
    now = time.time()
    for number in range(100):
        cache.put(f"{number}", memoryview(bytes([number]) * (64 << 10)))
        path = cache._file(f"{number}")
        if path.exists():
            os.utime(path, (now - 1000 + number, now - 1000 + number))
        dear = cache.get("0")
        assert dear is not None
        assert dear == bytes(64 << 10)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= MiB + 2 * (MiB // 16) + (64 << 10)
    assert cache.get("50") is None
    newest = cache.get("99")
    assert newest is not None
    assert newest == bytes([99]) * (64 << 10)
    # A smaller limit holds from the start; leftovers of the dead go.
    leftover = files(tmp_path)[0].parent / ".1-2-dead"
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    DiskCache(tmp_path, 256 << 10)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 256 << 10
    assert not leftover.exists()


def test_a_disk_that_fails_is_a_miss(objects: CountingObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = reader_of(objects, tmp_path)
    reader = store.open(POINT)
    monkeypatch.setattr(os, "writev", lambda file, parts: len(parts[0]))  # full
    assert reader.read(DISK, 0, len(CONTENT)) == CONTENT
    assert files(tmp_path) == []  # no torn file, nothing left aside
    monkeypatch.undo()
    shutil.rmtree(tmp_path / FOLDER)
    assert store.open(POINT).read(DISK, 0, len(CONTENT)) == CONTENT
    store = reader_of(objects, tmp_path)
    shutil.rmtree(tmp_path / FOLDER)  # under its feet
    assert store.open(POINT).read(DISK, 0, len(CONTENT)) == CONTENT


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).symlink_to("/")
    with pytest.raises(StoreError) as caught:
        DiskCache(tmp_path, MiB)
    assert caught.value.code == "store.cache-folder"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        DiskCache(tmp_path / "file", MiB)
    assert caught.value.code == "store.cache-folder"


def test_stores_that_share_a_folder_do_not_meet(objects: CountingObjects, tmp_path: Path) -> None:
    assert read(objects, tmp_path) == CONTENT
    asked = len(objects.asked)
    other = CachedObjects(objects, DiskCache(tmp_path, 64 * MiB), "elsewhere:")
    assert MachineStore(other, KEYS).open(POINT).read(DISK, 0, len(CONTENT)) == CONTENT
    assert len(objects.asked) == 2 * asked


PROCESS = """
import random, sys
from pathlib import Path
from homeport.store.disk_cache import DiskCache
cache, mine = DiskCache(Path(sys.argv[1]), 1 << 20), random.Random(sys.argv[2])
for _ in range(400):
    number = mine.randrange(60)
    found = cache.get(str(number))
    if found is None:
        cache.put(str(number), memoryview(bytes([number]) * 30000))
    elif found != bytes([number]) * 30000:
        sys.exit(f"{number} is torn")
    if mine.random() < 0.05:
        cache.drop(str(mine.randrange(60)))
"""


def test_processes_share_it_and_one_that_is_killed_harms_nobody(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), str(n)]) for n in range(3)]
    running[0].kill()
    assert [process.wait(60) for process in running][1:] == [0, 0]
    DiskCache(tmp_path, MiB)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= MiB
