"""Backups in a bucket: written once, read back, opened by the vault's key alone, so many kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homeport.bucket import inventory
from homeport.servers import vault_backup
from homeport.store import AlreadyExists, Corrupt, LocalObjects, VaultKey, names, vault_backups
from homeport.store.compression import compress
from homeport.store.errors import Locked

KEY = VaultKey("11111111-2222-3333-4444-555555555555", bytes(range(32)))
IDS = [f"202611{day:02}T040000Z-0000000{day}" for day in range(1, 6)]


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    (tmp_path / "store").mkdir()
    return LocalObjects(tmp_path / "store")


def test_what_was_written_is_read(objects: LocalObjects) -> None:
    content = b"line of a dump\n" * 10_000
    vault_backups.write(objects, KEY, IDS[0], content)
    assert vault_backups.read(objects, KEY, IDS[0]) == content
    assert objects.size(f"vault-backups/{IDS[0]}") < len(content) / 10
    [found] = vault_backups.listed(objects)
    assert (found.id, found.created.isoformat()) == (IDS[0], "2026-11-01T04:00:00+00:00")
    assert b"line of a dump" not in objects.get(f"vault-backups/{IDS[0]}")


def test_the_same_again_is_nothing_and_another_is_refused(objects: LocalObjects) -> None:
    first = vault_backups.write(objects, KEY, IDS[0], b"one")
    before = objects.get(f"vault-backups/{IDS[0]}")
    assert vault_backups.write(objects, KEY, IDS[0], b"one") == first
    assert objects.get(f"vault-backups/{IDS[0]}") == before
    with pytest.raises(AlreadyExists):
        vault_backups.write(objects, KEY, IDS[0], b"another")


def test_the_newest_are_kept(objects: LocalObjects) -> None:
    for id in IDS:
        vault_backups.write(objects, KEY, id, id.encode())
    assert vault_backups.prune(objects, 2) == IDS[:3]
    assert [backup.id for backup in vault_backups.listed(objects)] == IDS[3:]
    assert vault_backups.prune(objects, 0) == IDS[3:4], "one stays whatever is asked"


def test_what_the_storage_holds_on_to_goes_another_time(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    for id in IDS[:3]:
        vault_backups.write(objects, KEY, id, id.encode())
    delete = objects.delete

    def refuse(key: str) -> None:
        if key.endswith(IDS[0]):
            raise Locked("kept until tomorrow")
        delete(key)

    monkeypatch.setattr(objects, "delete", refuse)
    assert vault_backups.prune(objects, 1) == IDS[1:2]
    assert [backup.id for backup in vault_backups.listed(objects)] == [IDS[0], IDS[2]]


def test_damage_another_place_and_another_key_are_noticed(objects: LocalObjects, tmp_path: Path) -> None:
    vault_backups.write(objects, KEY, IDS[0], b"content")
    data = objects.get(f"vault-backups/{IDS[0]}")
    objects.put(f"vault-backups/{IDS[1]}", data)
    for spoiled in (data[:-1], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        objects.put(f"vault-backups/{IDS[2]}", spoiled, if_absent=False)
        with pytest.raises(Corrupt):
            vault_backups.read(objects, KEY, IDS[2])
    with pytest.raises(Corrupt):
        vault_backups.read(objects, KEY, IDS[1])
    with pytest.raises(Corrupt):
        vault_backups.read(objects, VaultKey(KEY.id, os.urandom(32)), IDS[0])
    with pytest.raises(Corrupt):
        vault_backups.read(objects, VaultKey("another vault", KEY.key), IDS[0])


@pytest.mark.parametrize("id", ["../vault/0000000001.json", "20261101T040000Z", "", IDS[0]])
def test_what_is_not_there_is_told(objects: LocalObjects, id: str) -> None:
    with pytest.raises(vault_backups.BackupNotFound):
        vault_backups.read(objects, KEY, id)


def test_a_site_asked_twice_stores_it_once_and_answers_the_same(objects: LocalObjects) -> None:
    import base64
    import hashlib

    params = {"backup": IDS[4], "content": base64.b64encode(compress(b"rows")).decode(), "keep": 1}
    vault_backups.write(objects, KEY, IDS[0], b"older")
    answers = [vault_backup.store_backup(objects, KEY, params) for _ in range(2)]
    assert answers == [{"sha256": hashlib.sha256(b"rows").hexdigest()}] * 2
    assert [backup["id"] for backup in vault_backup.list_backups(objects)["backups"]] == [IDS[4]]


def test_a_bucket_tells_backups_from_what_it_does_not_know() -> None:
    assert inventory.place_of(names.vault_backup(IDS[0])) == (None, None, "vault-backup")
