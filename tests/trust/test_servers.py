"""What the vault knows of its servers: revoked and removed in order, kept through a restore."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from structlog.typing import EventDict

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.domain.states import Direction, State
from homeport.servers.joining import join_vault
from homeport.trust.certificates import Issuer, from_pem, key_from_pem
from homeport.vault import dump, removal, servers
from homeport.vault.app import create_vault
from homeport.vault.authority import SETTING, Authority
from homeport.vault.database import CertificateRow, Database, ItemRow, PolicyRow, ServerRow, SettingRow
from homeport.vault.restore import Identity as VaultIdentity
from homeport.vault.restore import restore_vault
from tests.trust.world import Site, TlsVault


def refused(vault: TlsVault, name: str, *, force: bool = False) -> str:
    with pytest.raises(HomeportError) as error:
        removal.remove(vault.core, name, force=force)
    return error.value.code


def protect(vault: TlsVault) -> None:
    """An item from home to away."""
    with vault.core.database.write() as session:
        session.add(
            PolicyRow(name="gold", rpo_threshold=900, retention=86400, app_consistent=0, interval=5, generated=False)
        )
        session.flush()
        session.add(
            ItemRow(
                id="i1", name="web", machine="m1", description={}, machine_key="11" * 32, home="home", away="away",
                policy="gold", state=State.PROTECTED, direction=Direction.FORWARD, active_site="home",
                store_site="away", timeline="1" * 16, lineage=["1" * 16],
            )
        )  # fmt: skip


def test_servers_are_removed_in_the_order_of_dependency(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    vault = home.vault
    home.join(tmp_path / "ps")
    home.join(tmp_path / "mt", Role.MASTER_TARGET, name="mt-1")
    assert refused(vault, "cs-home") == "server.has-dependents"
    assert refused(vault, "nobody") == "server.not-found"
    for name in ("ps-1", "mt-1", "cs-home"):
        assert [each["name"] for each in removal.remove(vault.core, name)["removed"]] == [name]
    assert [each["name"] for each in vault.servers()] == ["vault-1"]
    assert refused(vault, "ps-1") == "server.not-found"
    assert home.client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"
    assert sum(entry["event"] == "security.server-removed" for entry in log) == 3


def test_a_site_goes_after_its_servers(home: Site) -> None:
    operator = home.vault.operator
    refusal = operator.delete("/v1/sites/home")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "site.has-servers")
    assert operator.delete("/v1/servers/cs-home").status_code == 200
    assert operator.delete("/v1/sites/home").status_code == 200


def test_force_removes_what_depends_on_it_too(home: Site, tmp_path: Path) -> None:
    vault = home.vault
    protect(vault)
    assert refused(vault, "cs-home") == "server.in-use"
    made = home.join(tmp_path / "ps")
    removed = removal.remove(vault.core, "cs-home", force=True)["removed"]
    assert [each["name"] for each in removed] == ["ps-1", "cs-home"]
    home.identity.take_revocations(servers.revocations(vault.core))
    assert {made.serial, home.identity.serial} <= home.identity.revoked


def test_a_name_is_free_once_its_server_is_removed(home: Site, tmp_path: Path) -> None:
    first = home.join(tmp_path / "ps")
    servers.revoke(home.vault.core, "ps-1")
    with pytest.raises(HomeportError) as error:
        home.join(tmp_path / "b")
    assert error.value.code == "server.revoked"
    removal.remove(home.vault.core, "ps-1")
    second = home.join(tmp_path / "b")
    by_serial = {each["serial"]: each["revoked"] is not None for each in home.vault.server("ps-1")["certificates"]}
    assert by_serial == {first.serial: True, second.serial: False}


def test_a_certificate_that_is_not_the_server_s(home: Site, tmp_path: Path) -> None:
    home.join(tmp_path / "ps")
    with pytest.raises(HomeportError) as error:
        servers.revoke(home.vault.core, "ps-1", home.identity.serial)
    assert error.value.code == "server.certificate-unknown"
    assert home.vault.server("cs-home")["certificates"][0]["revoked"] is None


def test_the_list(home: Site, tmp_path: Path) -> None:
    vault = home.vault
    home.join(tmp_path / "ps")
    found = vault.operator.get("/v1/servers").json()
    assert [(each["name"], each["role"], each["site"], each["upgrade_step"]) for each in found["servers"]] == [
        ("vault-1", "vault", None, 1),
        ("cs-home", "configuration-server", "home", 2),
        ("ps-1", "process-server", "home", 3),
    ]
    assert {each["version"] for each in found["servers"]} == {found["version"]} == {__version__}
    assert found["upgrade"] == []
    assert [each["warnings"] for each in found["servers"]] == [[], [], []]
    with vault.core.database.write() as session:
        session.execute(update(ServerRow).where(ServerRow.name != "vault-1").values(version="0.0.1"))
    assert servers.listed(vault.core)["upgrade"] == ["cs-home"]
    home.client.get("/v1/agent/home/self")
    assert servers.listed(vault.core)["upgrade"] == ["ps-1"], "a server tells its version with each request"


def test_what_expires_is_warned_of(home: Site) -> None:
    vault = home.vault
    vault.later = timedelta(days=59)
    assert vault.server("cs-home")["warnings"] == []
    vault.later = timedelta(days=61)
    assert "expires" in vault.server("cs-home")["warnings"][0]
    vault.later = timedelta(days=91)
    assert "expired" in vault.server("cs-home")["warnings"][0]


def test_last_contact_is_kept(home: Site) -> None:
    before = home.vault.server("cs-home")["last_contact"]
    home.vault.later = timedelta(minutes=3)
    home.client.get("/v1/agent/home/replications")
    after = home.vault.server("cs-home")["last_contact"]
    assert datetime.fromisoformat(after) - datetime.fromisoformat(before) > timedelta(minutes=2)


# ── the authority ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_authority_is_made_once_and_its_key_is_sealed(vault: TlsVault) -> None:
    again = Authority.open(vault.core.database, vault.core.secrets)
    assert again.pem == vault.core.authority.pem
    assert again.issuer.key.private_numbers() == vault.core.authority.issuer.key.private_numbers()
    with vault.core.database.read() as session:
        content = dump.dump(session, vault.core.secrets.vault_id).decode()
    secret = vault.core.authority.issuer.key.private_numbers().private_value
    for hidden in ("PRIVATE KEY", f"{secret:x}", base64.b64encode(secret.to_bytes(32, "big")).decode()):
        assert hidden not in content
    for file in ("authority.pem", "vault.db", "identity/identity.pem"):
        assert (vault.state / file).stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE" not in (vault.state / file).read_bytes() or file == "identity/identity.pem"


def test_another_vault_s_key_opens_nothing(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    core, before = vault.core, vault.core.authority.pem
    core.secrets.vault_key = "00" * 32
    assert Authority.open(core.database, core.secrets).pem != before
    assert any(entry["event"] == "security.authority-made" for entry in log), "nobody is left to wonder"


def test_a_restored_vault_keeps_its_authority_and_knows_who_is_revoked(
    vault: TlsVault, tmp_path: Path, log: list[EventDict]
) -> None:
    home = join_vault(vault.key(), tmp_path / "cs", name="cs-1")
    away = join_vault(vault.key("away"), tmp_path / "cs2", name="cs-2")
    servers.revoke(vault.core, "cs-2")
    unused = vault.key(replace=True)
    with vault.core.database.read() as session:
        backup = dump.parse(dump.dump(session, vault.core.secrets.vault_id))
    before = vault.core.authority
    with home.http_client(vault.url, Role.VAULT) as client:  # after the backup
        from homeport.servers.joining import sign_at_vault

        assert home.renew_if_due(sign_at_vault(client, "home"), home.not_after - timedelta(days=29))
    late = join_vault(vault.key(replace=True), tmp_path / "late", name="cs-late")
    who = VaultIdentity(vault.core.secrets.vault_id, vault.core.secrets.vault_key, None)
    vault.stop()
    restore_vault(tmp_path / "restored", who, backup, [])
    restored = TlsVault(tmp_path / "restored")
    try:
        assert restored.core.authority.pem == before.pem
        assert isinstance(restored.core.authority.issuer, Issuer)
        with home.http_client(restored.url, Role.VAULT) as client:
            answer = client.get("/v1/agent/home/self").json()
            assert answer["serial"] == home.serial, "a certificate that the backup knows nothing of"
        assert home.serial in {each["serial"] for each in restored.server("cs-1")["certificates"]}
        with away.http_client(restored.url, Role.VAULT) as client:
            assert client.get("/v1/agent/away/self").json()["code"] == "tls.certificate-revoked"
        with late.http_client(restored.url, Role.VAULT) as client:
            assert client.get("/v1/agent/home/self").json()["code"] == "server.certificate-unknown"
        with pytest.raises(HomeportError) as error:
            join_vault(unused, tmp_path / "x", name="cs-3", urls=[restored.url])
        assert error.value.code == "registration.unknown", "whether it was used since, nobody knows"
        servers.revoke(restored.core, "cs-1", home.serial)
        with home.http_client(restored.url, Role.VAULT) as client:
            assert client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"
    finally:
        restored.stop()
    vault.vault = create_vault(tmp_path / "unused")  # what the fixture closes


def test_a_vault_of_the_schema_before_gets_an_authority(tmp_path: Path) -> None:
    """And so does every other that has none."""
    made = create_vault(tmp_path / "state")
    with made.core.database.write() as session:
        session.delete(session.get_one(SettingRow, SETTING))
    made.close()
    again = create_vault(tmp_path / "state")
    assert again.core.authority.pem != made.core.authority.pem
    again.close()


def test_instances_share_it(vault: TlsVault, tmp_path: Path) -> None:
    database = Database(vault.state / "vault.db", lambda: None)
    try:
        assert Authority.open(database, vault.core.secrets).fingerprint == vault.core.authority.fingerprint
    finally:
        database.close()


def test_an_instance_s_certificate_is_kept_while_it_fits(vault: TlsVault) -> None:
    same = servers.own_identity(vault.core, "vault-1", [vault.url], [])
    assert same.serial == vault.identity.serial
    other = servers.own_identity(vault.core, "vault-2", ["https://vault.example"], ["vault.example"])
    assert (other.name, other.serial != same.serial) == ("vault-2", True)
    assert servers.known_urls(vault.core) == ["https://vault.example"]
    assert json.loads(vault.operator.get("/v1/authority").text)["fingerprint"] == vault.core.authority.fingerprint
    assert key_from_pem(other.chain.read_text()).public_key() == from_pem(other.chain.read_text()).public_key()
    with vault.core.database.read() as session:
        assert session.get_one(CertificateRow, other.serial).server == "vault-2"
