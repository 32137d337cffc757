"""A bucket in a folder: its system calls, what a power cut leaves of them, and what a folder can do to a store."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import AlreadyExists, LocalObjects, StoreError, StoreUnavailable, open_objects
from homeport.store.local import STAGING
from tests.store.powercut import Disk
from tests.store.stores import T1, add_point, noise, read_all, spool_point, store


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    disk.patch(monkeypatch)
    return disk


def file_on(disk: Disk, name: str, content: bytes) -> Path:
    """A flushed file, as a spool has it."""
    path = disk.root / name
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, content)
    os.fsync(fd)
    os.close(fd)
    return path


def test_the_system_calls_of_a_put(disk: Disk) -> None:
    """File, then its name, then its folder and every new folder above."""
    objects = LocalObjects(disk.root / "b")
    objects.put("first", b"1")
    disk.calls.clear()
    objects.put("x/y/key", b"2")
    staged = disk.calls[0][1]
    assert staged.startswith(f"b/{STAGING}/")
    assert disk.calls == [
        ("create", staged),
        ("write",),
        ("fsync", "file"),
        ("mkdir", "b/x"),
        ("mkdir", "b/x/y"),
        ("link", staged),
        *[("fsync", "folder")] * 3,
        ("unlink", staged),
    ]
    disk.calls.clear()
    with pytest.raises(AlreadyExists):
        objects.put("x/y/key", b"3")
    # Who finds it there may rely on it: the name is flushed, whoever gave it.
    assert [call[0] for call in disk.calls] == ["create", "write", "fsync", "fsync", "unlink"]
    assert objects.get("x/y/key") == b"2"
    disk.calls.clear()
    objects.put("x/y/key", b"4", if_absent=False)
    assert [call[0] for call in disk.calls] == ["create", "write", "fsync", "replace", "fsync"]


def test_the_system_calls_of_a_put_file(disk: Disk) -> None:
    """A link, nothing copied; what stands behind it was flushed by who made it."""
    path = file_on(disk, "spooled", b"whole")
    objects = LocalObjects(disk.root / "b")
    objects.put("x/first", b"1")
    disk.calls.clear()
    objects.put_file("x/key", path)
    assert disk.calls == [("link", "spooled"), ("fsync", "folder")]
    assert (disk.root / "b/x/key").samefile(path)
    with pytest.raises(AlreadyExists):
        objects.put_file("x/key", path)
    objects.put_file("x/first", path, if_absent=False)
    objects.put_file("x/key", path, if_absent=False)  # onto itself
    assert objects.get("x/first") == objects.get("x/key") == b"whole"
    assert os.listdir(disk.root / "b" / STAGING) == []


def test_a_file_of_another_file_system_is_copied_and_flushed(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_on(disk, "spooled", noise(1, 3 * MiB + 5))
    objects = LocalObjects(disk.root / "b")
    objects.put("x/first", b"1")
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if STAGING not in source.parts:
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    disk.calls.clear()
    objects.put_file("x/key", path)
    names = [call[0] for call in disk.calls]
    assert [name for name in names if name != "write"] == ["create", "fsync", "link", "fsync", "unlink"]
    assert names.index("fsync") > names.count("write") > 1
    assert objects.get("x/key") == path.read_bytes()
    with pytest.raises(AlreadyExists):
        objects.put_file("x/key", path)


class Died(BaseException):
    """The process, in the middle of a call."""


def histories(disk: Disk) -> Iterator[tuple[str, Callable[[LocalObjects], object], dict[str, bytes | None]]]:
    """What is done, and what it has made sure when it returns."""
    large = noise(2, 3 * BLOCK)
    spooled = file_on(disk, "spooled", b"spooled")
    yield "create", lambda o: o.put("m/a/1", b"one"), {"m/a/1": b"one"}
    yield "create beside", lambda o: o.put("m/a/2", large), {"m/a/2": large}
    yield "in a new folder", lambda o: o.put("m/b/c/1", b"deep"), {"m/b/c/1": b"deep"}
    yield "link", lambda o: o.put_file("n/1", spooled), {"n/1": b"spooled"}
    yield "replace", lambda o: o.put("m/a/1", b"newer", if_absent=False), {"m/a/1": b"newer"}
    yield "replace by link", lambda o: o.put_file("m/a/2", spooled, if_absent=False), {"m/a/2": b"spooled"}
    yield "delete", lambda o: o.delete("n/1"), {"n/1": None}


def test_whenever_the_power_goes_a_key_that_exists_is_whole_and_what_was_put_is_there(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before each system call of a history, and with each subset of what was not flushed."""
    ever: dict[str, set[bytes]] = {}
    sure: dict[str, bytes | None] = {}
    cuts = states = 0

    def cut() -> None:
        nonlocal cuts, states
        cuts += 1
        for tree in disk.after_power_cut():
            states += 1
            found = {
                path.removeprefix("b/"): content
                for path, content in tree.items()
                if path.startswith("b/") and STAGING not in path
            }
            for key, content in found.items():
                assert content in ever[key], f"{key} is torn"
            for key, wanted in sure.items():
                assert wanted is None or found.get(key) == wanted, f"{key} was put and is lost"

    for name in ("open", "write", "fsync", "link", "replace", "unlink", "mkdir"):
        real = getattr(os, name)

        def first(*arguments: object, _real: Callable[..., object] = real, **options: object) -> object:
            cut()
            return _real(*arguments, **options)

        monkeypatch.setattr(os, name, first)
    objects = LocalObjects(disk.root / "b")
    for _, act, makes_sure in histories(disk):
        for key, content in makes_sure.items():
            ever.setdefault(key, set())
            if content is not None:
                ever[key].add(content)
            if key in sure:
                sure.pop(key)  # while it is replaced: the old or the new
        act(objects)
        sure.update(makes_sure)
        cut()
    assert cuts > 50
    assert states > 500


def test_who_finds_a_key_there_can_rely_on_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who linked it died before the folder was flushed."""
    fsync, flushes = os.fsync, 0

    def die(fd: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes > allowed:
            raise Died
        fsync(fd)

    objects = LocalObjects(disk.root / "b")
    objects.put("other", b"0")
    with monkeypatch.context() as patched:
        allowed = 1
        patched.setattr(os, "fsync", die)
        with pytest.raises(Died):
            objects.put("m/key", b"1")
    assert any("b/m/key" not in tree for tree in disk.after_power_cut())
    with pytest.raises(AlreadyExists):
        LocalObjects(disk.root / "b").put("m/key", b"2")
    assert all(tree.get("b/m/key") == b"1" for tree in disk.after_power_cut())


def test_the_kernel_sees_the_same_calls(tmp_path: Path) -> None:
    """As strace tells, where there is one and it may trace."""
    strace = shutil.which("strace")
    if strace is None or subprocess.call([strace, "-o", os.devnull, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("no strace here, or it may not trace")
    program = (
        "import sys; from pathlib import Path; from homeport.store.local import LocalObjects\n"
        "o = LocalObjects(sys.argv[1]); o.put('x/0', b'0'); o.put('x/key', b'content')"
    )
    log = tmp_path / "strace"
    calls = "trace=open,openat,write,fsync,fdatasync,link,linkat,unlink,unlinkat,rename,renameat,renameat2,close"
    subprocess.run(
        [
            *(strace, "-f", "-qq", "--seccomp-bpf", "-y", "-s", "200", "-e", calls, "-o", str(log)),
            *(sys.executable, "-c", program, str(tmp_path / "bucket")),
        ],
        check=True,
    )
    lines = [line for line in log.read_text().splitlines() if str(tmp_path / "bucket") in line]
    lines = lines[next(n for n, line in enumerate(lines) if "content" in line) - 1 :]
    seen = [re.sub(r"^\d+\s+", "", line).split("(")[0] for line in lines]
    assert seen == ["openat", "write", "fsync", "close", "link", "openat", "fsync", "close", "unlink"], lines
    assert STAGING in lines[2]  # the file
    assert lines[4].split('"')[3].endswith("/x/key")
    assert "bucket/x>" in lines[6]  # the folder


def test_what_a_dead_put_left_is_not_listed_and_goes_in_time(tmp_path: Path) -> None:
    staging = tmp_path / STAGING
    staging.mkdir()
    for name, age in (("old", 100_000), ("young", 10)):
        (staging / name).write_bytes(b"half")
        stamp = (staging / name).stat().st_mtime - age
        os.utime(staging / name, (stamp, stamp))
    objects = LocalObjects(tmp_path)
    objects.put("key", b"1")
    assert list(objects.list("")) == [("key", 1)]
    assert [path.name for path in staging.iterdir()] == ["young"]


def test_a_missing_folder_is_no_empty_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        open_objects((tmp_path / "nowhere").as_uri())
    with pytest.raises(StoreError) as raised:
        open_objects("ftp://bucket")
    assert raised.value.code == "store.unsupported-url"
    path = tmp_path / "some where"
    objects = open_objects(path.as_uri(), create=True)
    objects.put("a", b"1")
    assert open_objects(path.as_uri()).get("a") == b"1"
    path.rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        objects.get("a")
    with pytest.raises(StoreUnavailable):
        list(objects.list(""))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_store_is_said_so_and_goes_on_once_there_is_space(small_disk: Path, tmp_path: Path) -> None:
    objects = LocalObjects(small_disk / "bucket")
    found = store(objects)
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    size = {"disk0": 4 * MiB}
    first = add_point(writer, tmp_path / "spool", None, [("disk0", 0, noise(1, MiB))], size)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MiB))
    before = read_all(found, first)
    spooled = spool_point(writer, 2, tmp_path / "spool", first, [("disk0", MiB, noise(2, 2 * MiB))], size)
    with pytest.raises(StoreUnavailable) as raised:
        writer.publish(spooled)
    assert raised.value.code == "store.full"
    assert [info.id for info in found.points(T1)] == [first]
    assert read_all(found, first) == before
    assert found.verify(deep=True).ok
    ballast.unlink()
    writer.publish(spooled)
    assert found.open(PointId(T1, 2)).read("disk0", MiB, 2 * MiB) == noise(2, 2 * MiB)


def test_a_full_spool_is_said_so_and_the_builder_gives_up(small_disk: Path) -> None:
    found = store()
    found.create_timeline(T1)
    builder = found.writer(T1, "one").builder(1, small_disk / "spool", None)
    with pytest.raises(StoreUnavailable) as raised:
        for number in range(8):
            builder.write("disk0", number * MiB, noise(number, MiB))
    assert raised.value.code == "store.full"
    with pytest.raises(StoreError):
        builder.write("disk0", 0, bytes(BLOCK))
    builder.discard()
    assert list((small_disk / "spool").iterdir()) == []


def test_a_full_disk_stops_a_point_on_its_way_into_the_folder_and_nothing_stays(small_disk: Path) -> None:
    objects = LocalObjects(small_disk / "bucket")
    found = store(objects)
    found.create_timeline(T1)
    builder = found.writer(T1, "one").builder(1, objects.scratch(), None, upload=True)
    with pytest.raises(StoreUnavailable) as raised:
        for number in range(8):
            builder.write("disk0", number * MiB, noise(number, MiB))
    assert raised.value.code == "store.full"
    builder.discard()
    assert not builder.path.exists()
    assert not [key for key, _ in objects.list("") if "/segment/" in key]
    assert objects.free() > 3 * MiB
