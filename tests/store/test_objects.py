"""The bucket: both kinds keep the same contract; a local folder survives what a folder can."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import (
    AlreadyExists,
    Corrupt,
    LocalObjects,
    MachineKey,
    MemoryObjects,
    NotFound,
    Objects,
    StoreError,
    StoreUnavailable,
    VaultKey,
    WrongKey,
    local,
    machine_key,
    machines,
    open_objects,
    open_vault,
    probe,
    seal_vault,
)
from homeport.store.errors import StoreUnsuitable
from homeport.store.local import STAGING
from tests.store.stores import MACHINE, T1, add_point, noise, read_all, spool_point, store


@pytest.fixture(params=["memory", "local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return MemoryObjects() if request.param == "memory" else LocalObjects(tmp_path / "a" / "bucket")


def test_put_get_list_delete(objects: Objects) -> None:
    assert list(objects.list("")) == []
    for key in ("m/2/b", "m/10/a", "m/1", "n", "m.x"):
        objects.put(key, key.encode() * 3)
    objects.put("empty", b"")
    assert list(objects.list("m/")) == [("m/1", 9), ("m/10/a", 18), ("m/2/b", 15)]
    assert [key for key, _ in objects.list("")] == ["empty", "m.x", "m/1", "m/10/a", "m/2/b", "n"]
    assert list(objects.list("nothing/")) == []
    assert objects.get("m/1") == b"m/1m/1m/1"
    assert objects.get_range("m/1", 2, 3) == b"1m/"
    assert objects.get_range("m/1", 7, 100) == b"/1"
    assert objects.get_range("m/1", 100, 5) == b""
    assert objects.get_range("m/1", 0, 0) == b""
    assert objects.size("m/1") == 9
    assert objects.size("empty") == 0
    with pytest.raises(AlreadyExists):
        objects.put("m/1", b"other")
    assert objects.get("m/1") == b"m/1m/1m/1"
    objects.put("m/1", memoryview(b"other"), if_absent=False)
    assert objects.get("m/1") == b"other"
    objects.delete("m/1")
    objects.delete("m/1")
    for ask in (objects.get, objects.size, lambda key: objects.get_range(key, 0, 1)):
        with pytest.raises(NotFound):
            ask("m/1")


def test_of_many_that_create_a_key_one_succeeds(objects: Objects) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        try:
            objects.put("the/key", bytes([number]) * 1000)
        except AlreadyExists:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("the/key") == bytes(won) * 1000


def test_a_suitable_storage_passes_the_probe_and_keeps_nothing_of_it(objects: Objects) -> None:
    probe(objects)
    assert list(objects.list("")) == []


def test_a_storage_that_overwrites_is_refused() -> None:
    class Overwriting(MemoryObjects):
        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            super().put(key, data, if_absent=False)

    with pytest.raises(StoreUnsuitable, match="overwrites"):
        probe(Overwriting())


def test_a_put_is_flushed_before_its_key_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then (after the link) its folder and every new folder above."""
    objects = LocalObjects(tmp_path / "bucket")
    objects.put("first", b"1")
    flushed: list[tuple[Path, bool]] = []
    key = tmp_path / "bucket" / "x" / "y" / "key"
    monkeypatch.setattr(local, "fsync_path", lambda path: flushed.append((path, key.exists())))
    objects.put("x/y/key", b"2")
    (staged, visible), *folders = flushed
    assert staged.parent.name == STAGING
    assert not visible
    bucket = tmp_path / "bucket"
    assert {path for path, _ in folders} == {bucket / "x" / "y", bucket / "x", bucket}
    assert all(seen for _, seen in folders)
    flushed.clear()
    with pytest.raises(AlreadyExists):
        objects.put("x/y/key", b"3")
    assert (bucket / "x" / "y", True) in flushed  # who finds it there may rely on it
    assert list((bucket / STAGING).iterdir()) == []


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
        open_objects("s3://bucket")
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


def test_the_passphrase_opens_the_vault_and_no_other_does(objects: Objects) -> None:
    vault = VaultKey.create()
    seal_vault(objects, vault, "right")
    before = objects.get("vault.json")
    seal_vault(objects, vault, "right")
    assert objects.get("vault.json") == before
    assert open_vault(objects, "right") == vault
    with pytest.raises(WrongKey) as raised:
        open_vault(objects, "wrong")
    assert raised.value.code == "store.wrong-passphrase"
    with pytest.raises(StoreError) as other:
        seal_vault(objects, VaultKey.create(), "right")
    assert other.value.code == "store.other-vault"
    seal_vault(objects, vault, "newer")
    assert open_vault(objects, "newer") == vault
    objects.put("vault.json", before.replace(b'"passes": 3', b'"passes": 2'), if_absent=False)
    with pytest.raises(Corrupt):
        open_vault(objects, "right")
    with pytest.raises(NotFound) as missing:
        open_vault(MemoryObjects(), "right")
    assert missing.value.code == "store.no-vault"


def test_a_machines_key_is_made_once_and_the_same_at_every_site() -> None:
    vault = VaultKey("a vault", bytes(range(32)))
    home, away = MemoryObjects(), MemoryObjects()
    with pytest.raises(NotFound):
        machine_key(home, vault, MACHINE)
    key = machine_key(home, vault, MACHINE, create=True)
    assert machine_key(home, vault, MACHINE, create=True) == key == machine_key(away, vault, MACHINE, create=key)
    assert machines(away) == [MACHINE]
    with pytest.raises(WrongKey):
        machine_key(home, VaultKey("a vault", bytes(32)), MACHINE)
    with pytest.raises(StoreError) as raised:
        machine_key(home, vault, MACHINE, create=MachineKey("a vault", MACHINE, bytes(32)))
    assert raised.value.code == "store.other-key"
