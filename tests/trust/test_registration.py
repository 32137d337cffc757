"""A configuration server joins with a registration key; what is wrong with a key, a clock or a network is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from structlog.typing import EventDict

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role, ServerName
from homeport.servers.joining import IDENTITY, PENDING, join_vault
from homeport.trust import tls
from homeport.trust.certificates import Issuer, key_from_pem, make_request, make_root, new_key, to_pem
from homeport.trust.identity import Identity
from homeport.trust.registration import RegistrationKey
from homeport.vault import registration, servers
from tests.trust.world import InBetween, TlsVault


def refused(vault: TlsVault, key: str, state: Path, **more: object) -> str:
    """The code of the refusal."""
    with pytest.raises(HomeportError) as error:
        join_vault(key, state, **{"name": "cs-2", **more})  # type: ignore[arg-type]
    assert not Identity.exists(state / IDENTITY)
    return error.value.code


def events(log: list[EventDict]) -> set[str]:
    return {entry["event"] for entry in log if entry["event"].startswith("security.")}


def post(vault: TlsVault, key: str, name: str = "cs-2", time: datetime | None = None) -> httpx.Response:
    """A join as somebody sends it who does not look at the key himself."""
    body = {"key": key, "name": name, "csr": make_request(new_key(), name)}
    with httpx.Client(base_url=vault.url, verify=tls.client_context(vault.core.authority.pem)) as anyone:
        return anyone.post("/v1/join", json={**body, "time": (time or datetime.now(UTC)).isoformat()})


def test_joining(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    made = join_vault(vault.key(), tmp_path / "cs", name="cs-1", hosts=["cs.example"])
    assert made.who == ServerName(vault.core.secrets.vault_id, Role.CONFIGURATION_SERVER, "home", "cs-1")
    found = vault.server("cs-1")
    assert (found["state"], found["version"] is not None, found["last_contact"] is not None) == ("joined", True, True)
    assert timedelta(days=89) < made.not_after - datetime.now(UTC) <= timedelta(days=90)
    assert made.urls == (vault.url,)
    files = sorted((tmp_path / "cs" / IDENTITY).iterdir())
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []
    assert PENDING not in {file.name for file in files}
    assert {"security.registration-key-made", "security.server-joining", "security.server-joined"} <= events(log)
    secret = json.loads(vault.key())["secret"]
    assert secret not in repr(log)


def test_a_server_joins_from_the_moment_it_asks(vault: TlsVault) -> None:
    assert post(vault, vault.key(), "cs-1").status_code == 201
    assert vault.server("cs-1")["state"] == "joining"


def test_a_join_that_was_cut_off_goes_on_with_the_same_key(vault: TlsVault, tmp_path: Path) -> None:
    key, state = vault.key(), tmp_path / "cs"
    private = new_key()
    (state / IDENTITY).mkdir(parents=True)
    from homeport.trust.certificates import key_to_pem

    (state / IDENTITY / PENDING).write_text(key_to_pem(private))
    first = registration.join(vault.core, key, "cs-1", make_request(private, "cs-1"), datetime.now(UTC))
    made = join_vault(key, state, name="cs-1")  # the answer to the first request was lost
    assert made.chain.read_text().endswith(first["certificate"])
    assert key_from_pem(made.chain.read_text()).public_key() == private.public_key()
    assert join_vault(key, state, name="cs-1").serial == made.serial, "and once more, after it had succeeded"
    assert len(vault.server("cs-1")["certificates"]) == 1


def test_a_join_whose_private_key_is_lost_begins_anew(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    key = vault.key()
    lost = registration.join(vault.core, key, "cs-1", make_request(new_key(), "cs-1"), datetime.now(UTC))
    made = join_vault(key, tmp_path / "cs", name="cs-1")
    assert "security.registration-key-rebound" in events(log)
    by_serial = {each["serial"]: each["revoked"] for each in vault.server("cs-1")["certificates"]}
    assert by_serial.pop(made.serial) is None
    assert list(by_serial.values()) != [None], lost


def test_a_key_is_used_up_by_the_server_that_joined(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    key = vault.key()
    join_vault(key, tmp_path / "cs", name="cs-1")
    assert refused(vault, key, tmp_path / "thief") == "registration.used"
    assert refused(vault, key, tmp_path / "namesake", name="cs-1") == "registration.used"
    assert "security.registration-key-replayed" in events(log)
    assert [each["name"] for each in vault.servers()] == ["vault-1", "cs-1"]


def test_an_expired_key(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    key = vault.key()
    vault.later = timedelta(days=5, minutes=1)
    assert refused(vault, key, tmp_path / "cs", clock=vault.core.clock) == "registration.expired"
    assert "security.registration-key-refused" in events(log)
    vault.later = timedelta(days=4, hours=23)
    assert post(vault, key, time=vault.core.clock()).status_code == 201


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", "away"),
        ("expires", "2099-01-01T00:00:00+00:00"),
        ("secret", "00" * 32),
        ("replace", True),
        ("id", "ff"),
    ],
)
def test_a_changed_key(vault: TlsVault, tmp_path: Path, field: str, value: object, log: list[EventDict]) -> None:
    key = json.dumps({**json.loads(vault.key()), field: value})
    assert refused(vault, key, tmp_path / "cs") == "registration.tampered", "the server itself sees it"
    answer = post(vault, key)
    assert (answer.status_code, answer.json()["code"]) == (403, "registration.tampered")
    assert "security.registration-key-refused" in events(log)


def test_a_key_that_somebody_signed_himself(vault: TlsVault) -> None:
    forger = new_key()
    root = make_root(vault.core.secrets.vault_id, forger, datetime.now(UTC))
    real = RegistrationKey.parse(vault.key())
    fields = {name: getattr(real, name) for name in ("id", "vault", "site", "urls", "expires", "secret", "replace")}
    forged = RegistrationKey.make(Issuer(root, forger), authority=to_pem(root), **{**fields, "site": "away"})
    assert post(vault, forged.to_text()).json()["code"] == "registration.tampered"


def test_a_key_of_another_vault(vault: TlsVault, tmp_path: Path) -> None:
    other = TlsVault(tmp_path / "other")
    try:
        key = other.key(url=vault.url)
        assert refused(vault, key, tmp_path / "cs") == "tls.peer-unknown", "it believes its own vault alone"
        assert post(vault, key).json()["code"] == "registration.other-vault"
    finally:
        other.stop()


def test_what_is_no_key(vault: TlsVault, tmp_path: Path) -> None:
    for text in ("", "{}", "[]", vault.key()[:300]):
        assert refused(vault, text, tmp_path / "cs") == "registration.invalid"
    assert post(vault, "{}").json()["code"] == "registration.invalid"


def test_a_key_that_the_vault_forgot(vault: TlsVault, tmp_path: Path) -> None:
    key = vault.key()
    with vault.core.database.write() as session:
        session.delete(session.get_one(registration.RegistrationKeyRow, json.loads(key)["id"]))
    assert refused(vault, key, tmp_path / "cs") == "registration.unknown"


@pytest.mark.parametrize("minutes", [6, -6, 60 * 24 * 200, -60 * 24 * 200])
def test_clocks_that_differ(vault: TlsVault, tmp_path: Path, minutes: int, log: list[EventDict]) -> None:
    """Also by so much that the vault's certificate seems not to be valid."""
    off = timedelta(minutes=minutes)
    key = vault.key()
    with pytest.raises(HomeportError) as error:
        join_vault(key, tmp_path / "cs", name="cs-1", clock=lambda: datetime.now(UTC) + off)
    assert error.value.code == "join.clock-skew"
    shown = error.value.cause
    assert f"{datetime.now(UTC):%Y-%m-%dT}" in shown
    assert f"{datetime.now(UTC) + off:%Y-%m-%dT}" in shown
    answer = post(vault, key, time=datetime.now(UTC) + off)
    assert answer.json()["code"] == "join.clock-skew", "the vault looks too"
    assert "security.clock-refused" in events(log)
    join_vault(key, tmp_path / "cs", name="cs-1")


def test_somebody_in_between(vault: TlsVault, tmp_path: Path, log: list[EventDict]) -> None:
    between = InBetween(vault.url, vault.identity.who, tmp_path)
    try:
        key = vault.key()
        assert refused(vault, key, tmp_path / "cs", urls=[between.url]) == "tls.peer-unknown"
        assert bytes(between.seen) == b"", "not a byte of the key reached him"
        assert "security.handshake-refused" in events(log)
        assert [each["name"] for each in vault.servers()] == ["vault-1"]
        join_vault(key, tmp_path / "cs", name="cs-1")
    finally:
        between.stop()


def test_another_server_of_the_vault_is_not_the_vault(vault: TlsVault, tmp_path: Path) -> None:
    """Its certificate is sound: what its URI says is looked at."""
    from tests.trust.world import Site

    site = Site(vault, "home", tmp_path / "home")
    try:
        assert refused(vault, vault.key("away"), tmp_path / "cs", urls=[site.url]) == "tls.wrong-peer"
    finally:
        site.stop()


def test_the_first_address_that_answers_is_taken(vault: TlsVault, tmp_path: Path) -> None:
    made = join_vault(vault.key(), tmp_path / "cs", name="cs-1", urls=["https://127.0.0.1:1", vault.url])
    assert made.urls == (vault.url, "https://127.0.0.1:1")
    assert refused(vault, vault.key("away"), tmp_path / "b", urls=["https://127.0.0.1:1"]) == "join.unreachable"
    assert refused(vault, vault.key("away"), tmp_path / "b", urls=["http://127.0.0.1:1"]) == "join.unreachable"


def test_a_folder_of_another_server(vault: TlsVault, tmp_path: Path) -> None:
    join_vault(vault.key(), tmp_path / "cs", name="cs-1")
    for key, name in ((vault.key("away"), "cs-1"), (vault.key(replace=True), "cs-2")):
        with pytest.raises(HomeportError) as error:
            join_vault(key, tmp_path / "cs", name=name)
        assert error.value.code == "join.already"


def test_a_site_has_one_configuration_server(vault: TlsVault, tmp_path: Path) -> None:
    old = join_vault(vault.key(), tmp_path / "cs", name="cs-1")
    assert refused(vault, vault.key(), tmp_path / "b") == "server.site-taken"
    assert refused(vault, vault.key(), tmp_path / "b", name="cs-1") == "server.site-taken"
    assert refused(vault, vault.key("away"), tmp_path / "b", name="cs-1") == "server.name-taken"
    new = join_vault(vault.key(replace=True), tmp_path / "b", name="cs-2")
    assert [each["name"] for each in vault.servers()] == ["vault-1", "cs-2"]
    with old.http_client(vault.url, Role.VAULT) as client:
        assert client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"
    with new.http_client(vault.url, Role.VAULT) as client:
        assert client.get("/v1/agent/home/self").status_code == 200


def test_one_that_is_replaced_works_until_its_successor_has_joined(vault: TlsVault, tmp_path: Path) -> None:
    old = join_vault(vault.key(), tmp_path / "cs", name="cs-1")
    with old.http_client(vault.url, Role.VAULT) as client:
        assert post(vault, vault.key(replace=True), "cs-1").status_code == 201
        assert client.get("/v1/agent/home/self").status_code == 200
        join_vault(vault.key(replace=True), tmp_path / "b", name="cs-1")
        assert client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"


def test_a_key_needs_a_site_and_an_address(vault: TlsVault) -> None:
    with pytest.raises(HomeportError) as error:
        registration.make(vault.core, "nowhere", [])
    assert error.value.code == "site.not-found"
    with vault.core.database.write() as session:
        session.delete(session.get_one(servers.SettingRow, servers.URLS))
    with pytest.raises(HomeportError) as error:
        registration.make(vault.core, "home", [])
    assert error.value.code == "registration.no-address"


def test_a_key_is_kept_nowhere(vault: TlsVault) -> None:
    asked = {"json": {"site": "home"}, "headers": {"Idempotency-Key": "the-same"}}
    made = [vault.operator.post("/v1/registration-keys", **asked).json() for _ in range(2)]  # type: ignore[arg-type]
    assert made[0]["id"] != made[1]["id"]
    secret = json.loads(made[0]["key"])["secret"]
    assert secret.encode() not in b"".join(file.read_bytes() for file in vault.state.glob("vault.db*"))


def test_what_shows_nothing_can_send_little(vault: TlsVault) -> None:
    with httpx.Client(base_url=vault.url, verify=tls.client_context(vault.core.authority.pem)) as anyone:
        assert anyone.post("/v1/join", content=b"x" * 70_000).status_code == 413
        assert anyone.post("/v1/join", content=iter([b"x" * 70_000])).status_code == 413
        assert anyone.post("/v1/join", content=b"{}").status_code == 422
