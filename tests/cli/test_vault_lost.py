"""`homeport vault restore` and `rebuild`: a lost vault out of a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homeport.domain.machines import Disk, Machine
from homeport.domain.units import MiB
from homeport.store import vault_backups
from homeport.store.keys import VaultKey, machine_key, seal_vault
from homeport.store.local import LocalObjects
from homeport.store.timeline import MachineStore
from homeport.store.unlock import KeyFile
from homeport.vault import dump
from homeport.vault.database import Database, ItemRow, SiteRow
from tests.cli.conftest import Answer, Homeport
from tests.store.stores import MACHINE, T1, add_point, blocks

FILE = KeyFile(bytes(range(32)))
OLDER, NEWER = "20261119T040000Z-00000001", "20261120T040000Z-00000002"
POLICY = {
    "name": "gold",
    "rpo_threshold": 900,
    "retention": 86400,
    "app_consistent": 0,
    "interval": 15,
    "generated": False,
}


@pytest.fixture
def key() -> VaultKey:
    return VaultKey("4f" * 16, bytes(32))


@pytest.fixture
def store(tmp_path: Path, key: VaultKey) -> LocalObjects:
    """Of the site west: a machine with two points, described as when its protection began."""
    folder = tmp_path / "west" / ".homeport" / "store"
    folder.mkdir(parents=True)
    objects = LocalObjects(folder)
    seal_vault(objects, key, FILE)
    machine = MachineStore(objects, machine_key(objects, key, MACHINE, create=True))
    machine.create_timeline(T1)
    told = Machine(MACHINE, "web1", (Disk("disk0", 2 * MiB, "raw", "disk0.raw"),)).to_json()
    item = {"id": "i1", "name": "web1", "from": "east", "to": "west"}
    machine.describe({"machine": told, "item": item, "policy": POLICY})
    writer = machine.writer(T1, "east")
    point = add_point(writer, tmp_path / "spool", None, [("disk0", 0, blocks(1, 2))], {"disk0": 2 * MiB})
    add_point(writer, tmp_path / "spool", point, [("disk0", 0, blocks(2, 1))], {"disk0": 2 * MiB})
    (tmp_path / "key").write_text(FILE.to_text())
    return objects


def back_up(store: LocalObjects, key: VaultKey, folder: Path, id: str, *sites: str) -> None:
    database = Database(folder / f"{id}.db", lambda: None)
    with database.write() as session:
        session.add_all([SiteRow(name=name, provider="qemu", path=f"/{name}") for name in sites])
    with database.read() as session:
        vault_backups.write(store, key, id, dump.dump(session, key.id))
    database.close()


@pytest.fixture
def make(homeport: Homeport, store: LocalObjects, tmp_path: Path) -> Any:
    def run(how: str, *options: str) -> Answer:
        url = (tmp_path / "west" / ".homeport" / "store").as_uri()
        where = ["--state", str(tmp_path / "new"), "--key-file", str(tmp_path / "key")]
        return homeport("vault", how, "--store", url, *where, *options)

    return run


def rows(tmp_path: Path) -> dict[str, Any]:
    database = Database(tmp_path / "new" / "vault.db", lambda: None)
    try:
        with database.read() as session:
            items = [
                dump.row_to_json({"state": item.state, "key": item.machine_key}) for item in session.query(ItemRow)
            ]
            return {"sites": {site.name: site.path for site in session.query(SiteRow)}, "items": items}
    finally:
        database.close()


def test_the_newest_backup_is_taken_and_what_the_store_has_besides(
    make: Any, store: LocalObjects, key: VaultKey, tmp_path: Path
) -> None:
    back_up(store, key, tmp_path, OLDER, "east")
    back_up(store, key, tmp_path, NEWER, "east", "west")
    answer = make("restore", "--json")
    assert answer.status == 0, answer.out
    made = answer.json["restored"]
    assert (made["backup"], made["sites"], made["cut_off"]) == (NEWER, ["east", "west"], [])
    assert [(item["name"], item["state"], item["points"]) for item in made["items"]] == [("web1", "Protected", 2)]
    assert rows(tmp_path)["sites"] == {"east": "/east", "west": "/west"}


def test_another_backup_may_be_named(make: Any, store: LocalObjects, key: VaultKey, tmp_path: Path) -> None:
    back_up(store, key, tmp_path, OLDER, "north")
    back_up(store, key, tmp_path, NEWER, "south")
    assert "north" in make("restore", "--backup", OLDER, "--json").json["restored"]["sites"]


def test_a_store_without_a_backup_says_so_and_makes_nothing(make: Any, tmp_path: Path) -> None:
    answer = make("restore", "--json")
    assert answer.status == 1
    assert answer.json["error"]["code"] == "store.backup-not-found"
    assert "rebuild" in answer.json["error"]["remedy"]
    assert not (tmp_path / "new").exists()


def test_a_damaged_backup_is_named_and_no_older_one_is_taken_instead(
    make: Any, store: LocalObjects, key: VaultKey, tmp_path: Path
) -> None:
    back_up(store, key, tmp_path, OLDER, "east")
    store.put(f"vault-backups/{NEWER}", b"noise" * 100)
    answer = make("restore", "--json")
    assert answer.status == 1
    assert NEWER in answer.json["error"]["cause"]
    assert not (tmp_path / "new").exists()


def test_a_vault_is_rebuilt_from_points_alone(make: Any, store: LocalObjects, key: VaultKey, tmp_path: Path) -> None:
    answer = make("rebuild", "--json")
    assert answer.status == 0, answer.out
    made = answer.json["rebuilt"]
    assert [(item["id"], item["state"], item["points"]) for item in made["items"]] == [("i1", "Protected", 2)]
    assert [check for check in made["checks"] if "--site east=FOLDER" in check]
    found = rows(tmp_path)
    assert found["sites"]["west"] == str(tmp_path / "west"), "where its store lies now"
    assert not Path(found["sites"]["east"]).exists()
    assert found["items"][0]["key"] == machine_key(store, key, MACHINE).key.hex()


def test_a_site_that_moved_is_told(make: Any, tmp_path: Path) -> None:
    answer = make("rebuild", "--site", f"east={tmp_path}/elsewhere")
    assert answer.status == 0
    assert "web1" in answer.out
    assert "--site east" not in answer.out
    assert rows(tmp_path)["sites"]["east"] == f"{tmp_path}/elsewhere"
    assert make("rebuild", "--site", "east").status == 2


def test_stores_of_two_vaults_make_none(make: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    seal_vault(LocalObjects(tmp_path / "other"), VaultKey("5e" * 16, bytes(32)), FILE)
    answer = make("rebuild", "--store", str(tmp_path / "other"), "--json")
    assert (answer.status, answer.json["error"]["code"]) == (1, "store.other-vault")
    assert not (tmp_path / "new").exists()
