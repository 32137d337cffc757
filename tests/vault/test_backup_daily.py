"""The vault backs itself up each day and when it is asked; sites that fail are told, and tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_sites import FakeSite, World
from sqlalchemy import select
from vault_process import LocalVault

from homeport.domain.errors import HomeportError
from homeport.servers import vault_backup
from homeport.store import LocalObjects, VaultKey, vault_backups
from homeport.vault import backup, dump
from homeport.vault.core import Core
from homeport.vault.database import SettingRow, SiteRow, WorkRow

Json = dict[str, Any]


def give_store(site: FakeSite, folder: Path, key: VaultKey) -> LocalObjects:
    """The site's backups lie in a real store."""
    folder.mkdir()
    objects = LocalObjects(folder)
    site.do_store_vault_backup = lambda params: vault_backup.store_backup(objects, key, params)
    site.do_list_vault_backups = lambda params: vault_backup.list_backups(objects)
    return objects


@pytest.fixture
def key(vault: LocalVault) -> VaultKey:
    secrets = vault.vault.core.secrets
    return VaultKey(secrets.vault_id, bytes.fromhex(secrets.vault_key))


@pytest.fixture
def stores(world: World, key: VaultKey, tmp_path: Path) -> dict[str, LocalObjects]:
    return {name: give_store(site, tmp_path / name, key) for name, site in world.sites.items()}


@pytest.fixture
def core(vault: LocalVault) -> Core:
    return vault.vault.core


def ids(objects: LocalObjects) -> list[str]:
    return [found.id for found in vault_backups.listed(objects)]


def due(core: Core) -> dict[str, datetime]:
    with core.database.read() as session:
        sites = session.get_one(SettingRow, backup.SETTING).value["sites"]
    return {site: datetime.fromisoformat(entry["due"]) for site, entry in sites.items()}


def long_ago(core: Core) -> None:
    """The sites were added yesterday."""
    with core.database.write() as session:
        for site in session.scalars(select(SiteRow)):
            site.created -= timedelta(days=1)


def test_what_was_asked_for_lies_in_all_stores(
    world: World, core: Core, key: VaultKey, stores: dict[str, LocalObjects]
) -> None:
    world.protected()
    made = world.call("POST", "/vault/backups", {}, status=201)["backup"]
    assert made["sites"] == {"east": {"error": None}, "west": {"error": None}}
    for objects in stores.values():
        found = dump.parse(vault_backups.read(objects, key, made["id"]))
        assert [row["name"] for row in found.rows["items"]] == ["web"]
        assert [row["state"] for row in found.rows["items"]] == ["Protected"]
    listed = world.call("GET", "/vault/backups")
    assert [(each["id"], each["sites"]) for each in listed["backups"]] == [(made["id"], ["east", "west"])]
    with core.database.read() as session:
        kinds = set(session.scalars(select(WorkRow.kind)))
    assert backup.STORE not in kinds, "its content is not carried about in the queue"
    assert all(at > datetime.now(UTC) + timedelta(hours=23) for at in due(core).values())


def test_one_site_may_be_named_and_fewer_be_kept(world: World, stores: dict[str, LocalObjects]) -> None:
    made = [
        world.call("POST", "/vault/backups", {"sites": ["west"], "keep": 2}, status=201)["backup"]["id"]
        for _ in range(3)
    ]
    assert ids(stores["east"]) == []
    assert len(ids(stores["west"])) == 2
    assert set(ids(stores["west"])) <= set(made)
    assert world.call("GET", "/vault/backups")["keep"] == 2
    assert world.call("POST", "/vault/backups", {"sites": ["nowhere"]}, status=404)["code"] == "site.not-found"


def test_it_is_made_when_it_is_due_and_once(world: World, core: Core, stores: dict[str, LocalObjects]) -> None:
    backup.back_up_due(core)
    assert [ids(objects) for objects in stores.values()] == [[], []], "the sites were added just now"
    long_ago(core)
    backup.back_up_due(core)
    backup.back_up_due(core)
    assert [len(ids(objects)) for objects in stores.values()] == [1, 1]


def test_a_site_that_fails_is_tried_again_within_hours_and_alone(
    world: World, core: Core, stores: dict[str, LocalObjects]
) -> None:
    long_ago(core)
    world.east.fail["store-vault-backup"] = 1
    backup.back_up_due(core)
    assert [len(ids(objects)) for objects in stores.values()] == [0, 1]
    assert due(core)["east"] < datetime.now(UTC) + timedelta(hours=2)
    with core.database.write() as session:
        setting = session.get_one(SettingRow, backup.SETTING)
        assert setting.value["sites"]["east"]["error"]["code"] == "fake.store-vault-backup"
        past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
        sites = {**setting.value["sites"], "east": {**setting.value["sites"]["east"], "due": past}}
        setting.value = {**setting.value, "sites": sites}
    backup.back_up_due(core)
    assert [len(ids(objects)) for objects in stores.values()] == [1, 1]


def test_a_site_that_is_gone_is_not_waited_for(world: World, stores: dict[str, LocalObjects]) -> None:
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    made = world.call("POST", "/vault/backups", {}, status=201)["backup"]
    assert made["sites"]["west"]["error"] is None
    assert made["sites"]["east"]["error"]["code"] == "site.unreachable"
    listed = world.call("GET", "/vault/backups")
    assert [each["sites"] for each in listed["backups"]] == [["west"]]
    assert listed["sites"]["east"]["error"]["code"] == "site.unreachable"


def test_a_site_that_reads_something_else_back_has_none(world: World, stores: dict[str, LocalObjects]) -> None:
    world.west.do_store_vault_backup = lambda params: {"sha256": "0" * 64}
    made = world.call("POST", "/vault/backups", {}, status=201)["backup"]
    assert made["sites"]["west"]["error"]["code"] == "vault.backup-damaged"


def test_a_backup_that_no_site_took_is_an_error(world: World, stores: dict[str, LocalObjects]) -> None:
    for site in world.sites.values():
        site.fail["store-vault-backup"] = 1
    refused = world.call("POST", "/vault/backups", {}, status=502)
    assert refused["code"] == "vault.backup-failed"
    assert set(refused["details"]["sites"]) == {"east", "west"}


def test_what_a_killed_vault_left_in_the_queue_is_cleared(
    world: World, core: Core, stores: dict[str, LocalObjects]
) -> None:
    with core.database.write() as session:
        old = datetime.now(UTC) - timedelta(hours=5)
        session.add(
            WorkRow(id="old", key="old", site="east", kind=backup.STORE, params={}, state="withdrawn", created=old)
        )
    long_ago(core)
    backup.back_up_due(core)
    with core.database.read() as session:
        assert session.get(WorkRow, "old") is None


def test_an_item_is_described_beside_its_points_and_again_when_it_changed(world: World) -> None:
    world.protected()
    id = world.item()["id"]
    world.until(lambda: id in world.west.told, 30)
    told = world.west.told[id]
    assert (told["item"]["name"], told["site"], told["row"]["state"]) == ("web", "west", "Protected")
    assert [site["path"] for site in told["sites"]] == ["/east", "/west"]
    assert "machine_key" not in told["row"]
    assert id not in world.east.told, "east holds none of its points"
    world.run("failover")
    world.until(lambda: world.west.told[id]["row"]["state"] == "FailoverCommitPending", 30)
    assert world.west.told[id]["row"]["failover_point"]


def test_a_description_never_stands_in_the_way_of_an_operation(world: World, core: Core) -> None:
    """It carries the fence as it is, so that nothing that was asked before it is refused because of it."""
    world.protected()
    id = world.item()["id"]
    world.until(lambda: id in world.west.told, 30)
    described = [params["fence"] for kind, params in world.west.calls if kind == "describe"]
    calls = world.west.calls + world.east.calls
    assert set(described) <= {params["fence"] for kind, params in calls if "fence" in params and kind != "describe"}


def test_errors_are_told_with_their_remedy(core: Core) -> None:
    with pytest.raises(HomeportError) as refused:
        backup.back_up(core, ["nowhere"])
    assert refused.value.remedy
