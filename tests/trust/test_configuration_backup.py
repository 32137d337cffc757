"""A configuration server that was lost is restored from what the vault, or a file, keeps of it."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers import configuration_backup
from homeport.servers.configuration_backup import Schedule, back_up, restore, take_up
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.joining import join_vault
from homeport.servers.machine_owners import Owner
from homeport.servers.relay import Relay
from homeport.servers.serve.settings import check_config
from homeport.servers.serve.store_choice import StoreChoice
from homeport.servers.work.errors import StaleWork
from homeport.servers.work.kinds import Duty, Part
from homeport.servers.work.site_context import Fences
from homeport.trust.identity import Identity
from homeport.vault import configuration_backups
from homeport.vault.database import ItemRow, PolicyRow, SettingRow, SiteRow, WorkRow
from tests.trust.world import Site, TlsVault

PROCESS_SERVER = {"executor": "x", "gateway": None, "version": "1", "facts": {}}


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(HomeportError) as error:
        act()
    return error.value.code


@pytest.fixture(autouse=True)
def up_for_a_minute(vault: TlsVault) -> None:
    """A vault that began just now does not know yet who is there, and lets nobody be restored."""
    vault.core.liveness._since -= 60


@pytest.fixture
def lived(home: Site, tmp_path: Path) -> Site:
    """The configuration server of home, with two process servers; item-1 is with the second, though the first has
    less to do."""
    relay = Relay(home.state)
    for name in ("ps-1", "ps-2"):
        relay.hello(name, Duty.PROCESS_SERVER, PROCESS_SERVER)
    part = Part(Duty.PROCESS_SERVER, "replicate")
    relay._server_for(part, {"item": "item-1", "process_server": "ps-2"})
    (tmp_path / "site").mkdir()
    take_up(home.state, tmp_path / "site" / ".homeport", settings(tmp_path))
    Fences(tmp_path / "site" / ".homeport" / "fences").check({"item": "item-1", "fence": 7})
    return home


def settings(folder: Path) -> dict[str, str]:
    return {"folder": str(folder / "site"), "store": "", "vault": "", "listen": "0.0.0.0:443"}


def lose(site: Site, tmp_path: Path) -> None:
    site.stop()
    shutil.rmtree(site.state)
    shutil.rmtree(tmp_path / "site")


def make_item(vault: TlsVault, fence: int) -> None:
    with vault.core.database.write() as session:
        session.add(PolicyRow(name="gold", rpo_threshold=1, retention=1, app_consistent=0, interval=1, generated=False))
        session.flush()
        session.add(
            ItemRow(id="item-1", name="web", machine="m", description={}, machine_key="", home="home", away="away",
                    policy="gold", active_site="home", store_site="away", timeline="t1", lineage=[], fence=fence)
        )  # fmt: skip


def open_work(vault: TlsVault, fence: int, state: str = "queued") -> None:
    with vault.core.database.write() as session:
        session.add(
            WorkRow(id=f"w{fence}", key=f"k{fence}", site="home", kind="fence", state=state,
                    params={"item": "item-1", "fence": fence})
        )  # fmt: skip


@pytest.mark.parametrize("source", ["vault", "file"])
def test_what_a_restored_server_knows(vault: TlsVault, lived: Site, tmp_path: Path, source: str) -> None:
    passphrase, old = lived.passphrase.text, lived.identity
    made = back_up(lived.state)
    file = tmp_path / "cs.backup"
    file.write_text(json.dumps(made))
    lose(lived, tmp_path)
    new = tmp_path / "new"
    told = restore(vault.key(replace=True), new, file=file if source == "file" else None)
    assert (told.identity.name, told.identity.role, told.identity.site) == (
        "cs-home",
        Role.CONFIGURATION_SERVER,
        "home",
    )
    assert (told.servers, told.items, told.settings) == (["ps-1", "ps-2"], 1, settings(tmp_path))
    assert JoinPassphrase(new).text == passphrase
    relay = Relay(new)
    assert [(each["name"], each["state"]) for each in relay.servers()] == [("ps-1", "away"), ("ps-2", "away")]
    relay.hello("ps-1", Duty.PROCESS_SERVER, PROCESS_SERVER)
    found = relay._server_for(Part(Duty.PROCESS_SERVER, "replicate"), {"item": "item-1"}, resumes=True)
    assert found is not None
    assert found.name == "ps-2", "where the item was, though only the other one is back"
    assert vault.server("cs-home")["state"] == "joined"
    assert old.serial != told.identity.serial
    with pytest.raises(StaleWork):
        take_up(new, tmp_path / "site2" / ".homeport", settings(tmp_path))
        Fences(tmp_path / "site2" / ".homeport" / "fences").check({"item": "item-1", "fence": 6})


def test_the_lost_one_counts_for_nothing_any_more(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    back_up(lived.state)
    assert lived.client.get("/v1/agent/home/self").status_code == 200
    told = restore(vault.key(replace=True), tmp_path / "new")
    assert lived.client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"
    with told.identity.http_client(vault.url, Role.VAULT) as client:
        assert client.get("/v1/agent/home/self").status_code == 200


def test_beside_one_that_is_there_none_is_restored(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    back_up(lived.state)
    key, new = vault.key(replace=True), tmp_path / "new"
    with vault.core.liveness.poll("home"):
        assert code_of(lambda: restore(key, new)) == "configuration-server.still-there"
        assert not Identity.exists(new / "identity")
        assert lived.client.get("/v1/agent/home/self").status_code == 200, "nothing has changed for it"
        refused = code_of(lambda: take_up(new, tmp_path / "site" / ".homeport", {}))
        assert refused == "configuration-server.restore-not-ended"
    assert code_of(lambda: restore(key, new)) == "configuration-server.still-there", "a moment ago it was"
    vault.core.liveness._sites["home"].last = time.monotonic() - vault.core.timeouts.gone - 1
    assert restore(key, new).identity.name == "cs-home"


def test_one_that_was_revoked_is_not_waited_for(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    back_up(lived.state)
    with vault.core.liveness.poll("home"):
        assert vault.operator.post("/v1/servers/cs-home/revoke", json={}).status_code == 200
        assert restore(vault.key(replace=True), tmp_path / "new").identity.name == "cs-home"


def test_what_authorises_a_restore(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    back_up(lived.state)
    new = tmp_path / "new"
    assert code_of(lambda: restore(vault.key(), new)) == "server.site-taken", "a key that replaces nobody"
    assert code_of(lambda: restore(vault.key("away", replace=True), new)) == "configuration-server.no-backup"
    assert not Identity.exists(new / "identity")
    other = join_vault(vault.key("away"), tmp_path / "cs-away", name="cs-away")
    with other.http_client(vault.url, Role.VAULT) as client:
        answer = client.post("/v1/agent/home/configuration-backups/restore", json={"backup": None})
        assert answer.json()["code"] == "server.not-its-own"
    assert (
        httpx.post(f"{vault.url}/v1/agent/home/configuration-backups/restore", json={}, verify=False).status_code == 401
    )


def test_a_backup_that_somebody_changed(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    made = back_up(lived.state)
    assert lived.passphrase.text not in json.dumps(made)
    file = tmp_path / "cs.backup"
    file.write_text(json.dumps({**made, "created": "2020-01-01T00:00:00+00:00"}))
    key, new = vault.key(replace=True), tmp_path / "new"
    assert code_of(lambda: restore(key, new, file=file)) == "configuration-server.backup-unreadable"
    assert restore(key, new).servers == ["ps-1", "ps-2"], "it goes on where it was, with another backup"
    assert code_of(lambda: restore(vault.key(replace=True), new)) == "join.already"
    file.write_text(json.dumps({**made, "site": "away"}))
    assert code_of(lambda: restore(key, tmp_path / "b", file=file)) == "configuration-server.backup-file-invalid"
    file.write_text("no backup")
    assert code_of(lambda: restore(key, tmp_path / "b", file=file)) == "configuration-server.backup-file-invalid"


def owner(relay: Relay, vm: str = "web") -> Owner:
    return dict(relay._owners.each())[vm]


def test_whose_a_machine_is_counts_again_after_a_restore(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    """Of an item that is paused, too, of which nobody tells; and above what a mobility service was told since."""
    relay = Relay(lived.state)
    part = Part(Duty.PROCESS_SERVER, "replicate")
    relay._server_for(part, {"item": "item-1", "vm": "web", "process_server": "ps-2"})
    before = owner(relay)
    back_up(lived.state)
    relay._server_for(part, {"item": "item-1", "vm": "web", "process_server": "ps-1"})
    later = owner(relay)
    lose(lived, tmp_path)
    restore(vault.key(replace=True), tmp_path / "new")
    found = owner(Relay(tmp_path / "new"))
    assert (found.item, found.process_server) == ("item-1", "ps-2"), "as of the backup, as the item itself"
    assert found.fence > later.fence > before.fence


@pytest.mark.parametrize("told", ["s3://points", None])
def test_a_restored_server_knows_its_sites_store_though_the_vault_is_away(
    vault: TlsVault, lived: Site, tmp_path: Path, told: str | None
) -> None:
    """Else it would tell the others that it lies in the site's own folder, and they would open another one there."""
    back_up(lived.state)
    with vault.core.database.write() as session:
        session.get_one(SiteRow, "home").store = told
    lose(lived, tmp_path)
    new = tmp_path / "new"
    restore(vault.key(replace=True), new)
    chosen = StoreChoice(check_config(Role.CONFIGURATION_SERVER, {"folder": "/srv/site", "state": str(new)}))
    assert (chosen.known, chosen.named()) == (True, told)


def test_a_backup_of_an_earlier_version_is_restored_without_whose_machines_are(
    vault: TlsVault, lived: Site, tmp_path: Path
) -> None:
    content = configuration_backup.collect(lived.state)
    assert content.pop("sources") == {}
    lived.client.post("/v1/agent/home/configuration-backups", json={"content": content})
    restore(vault.key(replace=True), tmp_path / "new")
    assert not Relay(tmp_path / "new")._owners


def test_fences_never_go_back_and_let_through_what_still_waits(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    make_item(vault, fence=12)
    back_up(lived.state)
    lose(lived, tmp_path)
    restore(vault.key(replace=True), tmp_path / "new")
    folder = tmp_path / "again" / ".homeport"
    take_up(tmp_path / "new", folder, settings(tmp_path))
    fences = Fences(folder / "fences")
    assert fences.known() == {"item-1": 12}, "of the backup it is 7"
    fences.check({"item": "item-1", "fence": 20})
    take_up(tmp_path / "new", folder, settings(tmp_path))
    assert fences.known() == {"item-1": 20}, "one that is higher stays"

    open_work(vault, 9)
    open_work(vault, 11)
    open_work(vault, 8, "done")
    assert configuration_backups.read(vault.core, "home", None)["fences"] == {"item-1": 9}


def test_backups_are_made_by_themselves(vault: TlsVault, lived: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(lived.state, "home", lived.client)
    assert schedule.last() is None

    def kept() -> list[dict[str, Any]]:
        with vault.core.database.read() as session:
            row = session.get(SettingRow, "configuration-backups:home")
            return [] if row is None else list(row.value["backups"])

    schedule.tend()
    schedule.tend()
    assert len(kept()) == 1
    Relay(lived.state).hello("ps-2", Duty.PROCESS_SERVER, PROCESS_SERVER)
    schedule.tend()
    assert len(kept()) == 1, "that a server was heard of is no change"
    Relay(lived.state).hello("ps-3", Duty.PROCESS_SERVER, PROCESS_SERVER)
    schedule.tend()
    assert len(kept()) == 2
    lived.passphrase.rotate()
    schedule.tend()
    assert len(kept()) == 3
    assert Schedule(lived.state, "home", lived.client).last() == schedule.last(), "it outlasts the process"
    monkeypatch.setattr(configuration_backup, "EVERY", configuration_backup.timedelta(0))
    for _ in range(6):
        schedule.tend()
    assert len(kept()) == configuration_backups.KEEP
    assert kept() == sorted(kept(), key=lambda one: one["created"])


def test_backups_are_listed_with_their_schedule(vault: TlsVault, lived: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(server: str | None = None) -> dict[str, Any]:
        params = {"server": server} if server else {}
        found: dict[str, Any] = vault.operator.get("/v1/configuration-backups", params=params).json()
        return found

    empty = listed()
    assert (empty["backups"], empty["keep"]) == ([], configuration_backups.KEEP)
    (due,) = empty["schedules"]
    assert (due["server"], due["last"], due["due"], due["overdue"]) == ("cs-home", None, None, True)
    schedule = Schedule(lived.state, "home", lived.client)
    schedule.tend()
    made = back_up(lived.state)
    monkeypatch.setattr(configuration_backup, "EVERY", timedelta(0))
    schedule.tend()
    found = listed()["backups"]
    assert [each["reason"] for each in found] == ["scheduled", "asked", "changed"], "the newest first"
    assert {(each["site"], each["server"], each["version"]) for each in found} == {("home", "cs-home", __version__)}
    assert found[1]["created"] == made["created"]
    assert found[1]["size"] == len(base64.b64decode(made["sealed"]))
    monkeypatch.undo()
    made = back_up(lived.state)
    (due,) = listed("cs-home")["schedules"]
    assert (due["every"], due["last"], due["overdue"]) == (86400, made["created"], False)
    assert datetime.fromisoformat(due["due"]) - datetime.fromisoformat(made["created"]) == timedelta(days=1)
    vault.later = timedelta(days=2, hours=1)
    assert listed()["schedules"][0]["overdue"]
    assert listed("nobody")["code"] == "server.not-found"
    assert listed("vault-1")["backups"] == []


def test_a_server_that_does_not_say_why_is_listed_and_restored(vault: TlsVault, lived: Site, tmp_path: Path) -> None:
    """As one of an earlier version."""
    lived.client.post(
        "/v1/agent/home/configuration-backups", json={"content": configuration_backup.collect(lived.state)}
    )
    (found,) = configuration_backups.listed(vault.core)["backups"]
    assert found["reason"] is None
    assert restore(vault.key(replace=True), tmp_path / "new").servers == ["ps-1", "ps-2"]


def test_a_vault_that_is_away_gets_it_later(vault: TlsVault, lived: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with httpx.Client(base_url="https://127.0.0.1:1") as nobody:
        schedule = Schedule(lived.state, "home", nobody)
        schedule.tend()
        assert schedule.last() is None
        schedule._vault = lived.client
        schedule.tend()
        assert schedule.last() is None, "not at once again"
        schedule._not_before = 0
        schedule.tend()
        assert schedule.last() is not None
