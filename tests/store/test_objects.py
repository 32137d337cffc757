"""The bucket: every kind keeps the same contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from homeport.domain.units import MiB
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.remote_objects import RemoteObjects
from homeport.store import (
    AlreadyExists,
    LocalObjects,
    MachineKey,
    MemoryObjects,
    NotFound,
    Objects,
    StoreError,
    StoreUnavailable,
    VaultKey,
    WrongKey,
    machine_key,
    machines,
)
from homeport.store.errors import StoreUnsuitable
from homeport.store.probe import probe
from tests.store.servers import Azurite, Moto, open_azure, open_s3
from tests.store.stores import MACHINE, noise


@pytest.fixture(params=["memory", "local", "s3", "azure", "gateway"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    """Every kind of storage there is a server of."""
    match request.param:
        case "memory":
            yield MemoryObjects()
        case "local":
            yield LocalObjects(tmp_path / "a" / "bucket")
        case "s3":
            moto: Moto = request.getfixturevalue("moto")
            yield open_s3(moto, request.getfixturevalue("credentials"))
        case "azure":
            azurite: Azurite = request.getfixturevalue("azurite")
            yield open_azure(azurite, request.getfixturevalue("credentials"))
        case _:
            gateway = ObjectGateway(MemoryObjects(), "token")
            gateway.start()
            yield RemoteObjects(gateway.url, "token")
            gateway.close()


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


def test_a_file_is_put_like_its_content(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(noise(1, 3 * MiB + 7))
    objects.put_file("m/segment", path)
    assert objects.get("m/segment") == path.read_bytes()
    assert objects.size("m/segment") == 3 * MiB + 7
    with pytest.raises(AlreadyExists):
        objects.put_file("m/segment", tmp_path / "spooled")
    other = tmp_path / "other"
    other.write_bytes(b"")
    with pytest.raises(AlreadyExists):
        objects.put_file("m/segment", other)
    objects.put_file("m/segment", other, if_absent=False)
    assert objects.get("m/segment") == b""
    with pytest.raises(StoreUnavailable):
        objects.put_file("m/none", tmp_path / "none")
    with pytest.raises(NotFound):
        objects.get("m/none")


def test_a_large_segment_is_one_put(objects: Objects) -> None:
    data = noise(2, 33 * MiB)
    objects.put("m/segment", memoryview(data))
    assert objects.get_range("m/segment", 32 * MiB, 2 * MiB) == data[32 * MiB :]
    assert objects.get("m/segment") == data


def test_a_list_of_many_pages_is_whole_and_in_order(objects: Objects) -> None:
    keys = [f"m/{kind}/{number:04d}" for kind in ("point", "segment", "seg.x", "seg-x") for number in range(9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: objects.put(key, key.encode()), reversed(keys)))
    objects.put("m0", b"")
    assert list(objects.list("m/")) == [(key, len(key)) for key in sorted(keys)]
    assert [key for key, _ in objects.list("m/seg.x/")] == [key for key in keys if "seg.x" in key]


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


def test_a_storage_that_lists_folder_by_folder_is_refused() -> None:
    class Folders(MemoryObjects):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            return iter(sorted(super().list(prefix), key=lambda entry: entry[0].split("/")))

    with pytest.raises(StoreUnsuitable, match="order"):
        probe(Folders())


def test_a_storage_that_lets_two_create_at_once_is_refused() -> None:
    class Racing(MemoryObjects):
        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            if key.endswith("/raced"):
                self.objects[key] = bytes(data)
            else:
                super().put(key, data, if_absent=if_absent)

    objects = Racing()
    with pytest.raises(StoreUnsuitable, match="at once"):
        probe(objects)
    assert objects.objects == {}


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
