"""A vault restored from its backup: jobs are cut off where one can go on, and nothing of the old vault counts."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_sites import World
from postgres import Postgres
from sqlalchemy import select
from vault_process import LocalVault

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation, transition
from homeport.domain.states import State
from homeport.vault import dump
from homeport.vault.database import ItemRow, JobRow, TaskRow
from homeport.vault.dump import Dump
from homeport.vault.engines import address_of
from homeport.vault.restore import Identity, StateNotEmpty, rebuild_vault, restore_vault

Json = dict[str, Any]


class Taken:
    """A backup as it lies in a store, and whose it is."""

    def __init__(self, vault: LocalVault) -> None:
        core = vault.vault.core
        with core.database.read() as session:
            self.content: Dump = dump.parse(dump.dump(session, core.secrets.vault_id))
        self.who = Identity(core.secrets.vault_id, core.secrets.vault_key, "the vault's file")


@contextmanager
def in_place_of(vault: LocalVault, world: World, state: Path, database: str | None = None) -> Iterator[LocalVault]:
    """The restored vault runs, and both sites' servers dial it."""
    vault.stop()
    restored = LocalVault(state, vault.timeouts, database=database)
    restored.start()
    try:
        moved(world, restored)
        yield restored
    finally:
        restored.stop()
        vault.start()  # as the fixtures left it


def moved(world: World, vault: LocalVault) -> None:
    """Both sites' servers dial the other vault from now on."""
    for site in world.sites.values():
        site.die()
        site.join()
    world.client.close()
    fresh = World(vault.url, vault.vault.token)
    world.url, world.token, world.client = fresh.url, fresh.token, fresh.client
    for site in world.sites.values():
        site.begin()


def test_a_restored_vault_fails_an_item_over_and_sites_refuse_the_old_one(
    vault: LocalVault, world: World, tmp_path: Path
) -> None:
    world.protected()
    world.more_points(2)
    old_fence = max(world.west._fences.values())
    taken = Taken(vault)
    made = restore_vault(tmp_path / "new", taken.who, taken.content, [])
    assert made.failed == []
    with in_place_of(vault, world, tmp_path / "new") as restored:
        assert restored.vault.token != vault.vault.token
        assert restored.vault.core.secrets.vault_key == taken.who.key
        assert restored.vault.core.secrets.passphrase_confirmed
        id = world.item()["id"]
        world.until(lambda: min(world.west._fences[id], world.east._fences[id]) > old_fence + 1_000_000)
        world.until(lambda: len(world.points()) >= 3)
        world.run("failover")
        world.expect("FailoverCommitPending", active_site="west")


def test_a_vault_that_was_restored_twice_counts_on(vault: LocalVault, world: World, tmp_path: Path) -> None:
    world.protected()
    taken = Taken(vault)
    fences = []
    for name in ("one", "two"):
        restore_vault(tmp_path / name, taken.who, taken.content, [])
        fences.append(fences_of(tmp_path / name))
        time.sleep(0.002)
    assert 1_700_000_000_000 < fences[0] < fences[1]


def fences_of(state: Path) -> int:
    connection = sqlite3.connect(state / "vault.db")
    try:
        return int(connection.execute("select fence from items").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("operation", [Operation.FAILOVER, Operation.TEST_FAILOVER, Operation.POINT, Operation.DISABLE])
def test_a_job_that_ran_is_shown_as_failed(
    vault: LocalVault, world: World, tmp_path: Path, operation: Operation
) -> None:
    world.protected()
    core = vault.vault.core
    with core.database.write() as session:
        item = session.scalars(select(ItemRow)).one()
        job = JobRow(
            id="cut", kind=str(operation), item=item.id, item_name=item.name, params={}, before=item.state,
            direction=item.direction, state="running",
        )  # fmt: skip
        session.add(job)
        session.flush()
        session.add(TaskRow(job="cut", name="one", number=0, title="One"))
        item.job = "cut"
        item.state = transition(operation, State.PROTECTED).during or State.PROTECTED
    taken = Taken(vault)
    with core.database.write() as session:
        item = session.scalars(select(ItemRow)).one()
        item.job, item.state = None, State.PROTECTED
        session.get_one(JobRow, "cut").state = "failed"
    made = restore_vault(tmp_path / "new", taken.who, taken.content, [])
    assert made.failed == ["web"]
    with in_place_of(vault, world, tmp_path / "new"):
        found = world.call("GET", "/jobs/cut")
        assert (found["state"], found["error"]["code"]) == ("failed", "vault.restored")
        assert [task["state"] for task in found["tasks"]] == ["failed"]
        world.expect(str(transition(operation, State.PROTECTED).failed), job=None)
        if operation is Operation.FAILOVER:
            assert set(found["allowed"]) == {"cancel", "restart"}
            begun = world.call("POST", "/jobs/cut/cancel", {}, status=202)["job"]
            assert world.wait(begun["id"] if isinstance(begun, dict) else begun)["state"] == "succeeded"
            world.expect("Protected")


def test_the_new_folder_is_private_and_whole(vault: LocalVault, world: World, tmp_path: Path) -> None:
    taken = Taken(vault)
    restore_vault(tmp_path / "new", taken.who, taken.content, [])
    for name in ("vault.db", "vault-key.json", "token"):
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o600
    assert json.loads((tmp_path / "new" / "vault-key.json").read_text()) == {
        "id": taken.who.vault,
        "key": taken.who.key,
    }
    assert not (tmp_path / "new" / "passphrase").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(vault: LocalVault, world: World, tmp_path: Path) -> None:
    taken = Taken(vault)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "anything").touch()
    with pytest.raises(StateNotEmpty):
        restore_vault(tmp_path / "full", taken.who, taken.content, [])
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["anything"]
    broken = Dump(taken.content.vault, taken.content.created, taken.content.schema, {"items": [{"id": "i"}]})
    with pytest.raises(Exception):  # noqa: B017
        restore_vault(tmp_path / "broken", taken.who, broken, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "state"]


def test_a_backup_of_another_vault_is_refused(vault: LocalVault, world: World, tmp_path: Path) -> None:
    taken = Taken(vault)
    with pytest.raises(HomeportError) as refused:
        restore_vault(tmp_path / "new", Identity("another", taken.who.key, None), taken.content, [])
    assert refused.value.code == "store.other-vault"
    assert not (tmp_path / "new").exists()


def test_it_can_be_restored_into_postgresql_and_there_only_once(
    vault: LocalVault, world: World, tmp_path: Path, postgres: Postgres
) -> None:
    world.protected()
    taken = Taken(vault)
    database = postgres.database()
    restore_vault(tmp_path / "new", taken.who, taken.content, [], database=address_of(database))
    assert not (tmp_path / "new" / "vault.db").exists()
    with pytest.raises(StateNotEmpty):
        rebuild_vault(tmp_path / "other", taken.who, [], database=address_of(database))
    assert not (tmp_path / "other").exists()
    with in_place_of(vault, world, tmp_path / "new", database):
        world.until(lambda: len(world.points()) > 0)
        world.run("failover")
        world.expect("FailoverCommitPending")
