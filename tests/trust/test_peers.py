"""Between servers that have joined: who may ask whom for what, at each request, on connections that are open too."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from structlog.typing import EventDict

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role, ServerName
from homeport.servers.joining import (
    join_vault,
    read,
    sign_at_configuration_server,
    sign_at_vault,
    take_revocations,
)
from homeport.trust import tls
from homeport.trust.certificates import Issuer, make_request, make_root, new_key, read_request, to_pem
from homeport.trust.identity import Identity
from homeport.vault import servers
from tests.trust.world import Site, TlsVault


def events(log: list[EventDict]) -> set[str]:
    return {entry["event"] for entry in log if entry["event"].startswith("security.")}


def code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["code"])


@contextmanager
def refused(expected: str) -> Iterator[None]:
    """What a client raises who meets the wrong peer."""
    with pytest.raises(httpx.ConnectError) as error:
        yield
    found = tls.reason(error.value)
    assert found is not None
    assert found.code == expected


@pytest.fixture
def cs(vault: TlsVault, tmp_path: Path) -> Identity:
    """Of the configuration server of home."""
    return join_vault(vault.key(), tmp_path / "cs", name="cs-1")


@pytest.fixture
def client(vault: TlsVault, cs: Identity) -> Iterator[httpx.Client]:
    with cs.http_client(vault.url, Role.VAULT) as client:
        yield client


# ── who asks the vault for what ─────────────────────────────────────────────────────────────────────────────────────


def test_a_site_is_its_own_configuration_server_s(client: httpx.Client, log: list[EventDict]) -> None:
    assert client.get("/v1/agent/home/replications").status_code == 200
    for path in ("/v1/agent/away/replications", "/v1/agent/nowhere/replications"):
        answer = client.get(path)
        assert (answer.status_code, code(answer)) == (403, "server.not-its-own"), path
    claimed = [entry["claimed"] for entry in log if entry["event"] == "security.identity-claimed"]
    assert claimed[0] == "configuration-server of away"


@pytest.mark.parametrize("path", ["/v1/servers", "/v1/vault", "/v1/items", "/openapi.json", "/v1/agent/"])
def test_what_is_the_operators_is_no_server_s(client: httpx.Client, vault: TlsVault, path: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {vault.vault.token}"}):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, code(answer)) == (403, "server.not-its-own")


def test_operators_show_the_token(vault: TlsVault, log: list[EventDict]) -> None:
    assert vault.operator.get("/v1/servers").status_code == 200
    wrong = vault.operator.get("/v1/servers", headers={"Authorization": "Bearer x"})
    assert (wrong.status_code, code(wrong)) == (401, "vault.unauthorized")
    assert "security.token-refused" in events(log)


def test_the_token_is_no_server_s_certificate(vault: TlsVault, log: list[EventDict]) -> None:
    answer = vault.operator.get("/v1/agent/home/replications")
    assert (answer.status_code, code(answer)) == (401, "tls.peer-unknown")
    assert "security.peer-refused" in events(log)


def test_other_roles_do_not_act_for_the_site(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    made = home.join(tmp_path / "ps")
    with made.http_client(home.vault.url, Role.VAULT) as client:
        answer = client.get("/v1/agent/home/work")
    assert (answer.status_code, code(answer)) == (403, "server.not-its-own")
    assert "security.identity-claimed" in events(log)


@pytest.mark.parametrize("role", ["vault", "configuration-server", "king"])
def test_a_configuration_server_vouches_for_no_other_role(
    client: httpx.Client, role: str, log: list[EventDict]
) -> None:
    body = {"role": role, "name": "x", "csr": make_request(new_key(), "x")}
    answer = client.post("/v1/agent/home/certificates", json=body)
    assert (answer.status_code, code(answer)) == (403, "server.not-its-own")
    assert "security.identity-claimed" in events(log)


def test_a_configuration_server_renews_only_for_its_own(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    made = home.join(tmp_path / "ps")
    other = join_vault(home.vault.key("away"), tmp_path / "away", name="cs-away")
    body = {"role": "process-server", "name": "ps-1", "csr": make_request(new_key(), "ps-1"), "renews": made.serial}
    with other.http_client(home.vault.url, Role.VAULT) as client:
        assert code(client.post("/v1/agent/away/certificates", json=body)) == "server.not-its-own"
        told = {"name": "ps-1", "serial": made.serial}
        assert code(client.post("/v1/agent/away/servers", json=told)) == "server.not-its-own"
    body["renews"] = home.identity.serial
    assert code(home.client.post("/v1/agent/home/certificates", json=body)) == "server.not-its-own"
    assert "security.identity-claimed" in events(log)
    body["renews"] = made.serial
    assert home.client.post("/v1/agent/home/certificates", json=body).status_code == 200


# ── certificates that don't count ───────────────────────────────────────────────────────────────────────────────────


def test_a_certificate_of_another_authority(
    vault: TlsVault, cs: Identity, tmp_path: Path, log: list[EventDict]
) -> None:
    key, own = new_key(), new_key()
    root = make_root(cs.vault, key, datetime.now(UTC))
    made = Issuer(root, key).issue(read_request(make_request(own, "cs-1")), cs.who, datetime.now(UTC))
    forged = Identity.create(tmp_path / "forged", own, to_pem(made), to_pem(root))
    context = tls.client_context(vault.core.authority.pem, forged.chain)
    with httpx.Client(base_url=vault.url, verify=context) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/agent/home/self")
    assert "security.handshake-refused" in events(log)


def test_one_that_the_authority_signed_and_the_vault_has_no_record_of(
    vault: TlsVault, cs: Identity, tmp_path: Path, log: list[EventDict]
) -> None:
    """Somebody got at the authority's key, or the database went back in time without a restore."""
    key = new_key()
    made = vault.core.authority.issuer.issue(read_request(make_request(key, "cs-1")), cs.who, datetime.now(UTC))
    found = Identity.create(tmp_path / "x", key, to_pem(made), vault.core.authority.pem)
    with found.http_client(vault.url, Role.VAULT) as client:
        assert code(client.get("/v1/agent/home/self")) == "server.certificate-unknown"
    assert "security.peer-refused" in events(log)


def test_an_expired_one_is_refused_at_the_handshake(
    vault: TlsVault, cs: Identity, tmp_path: Path, log: list[EventDict]
) -> None:
    key = new_key()
    ago = datetime.now(UTC) - timedelta(days=91)
    made = vault.core.authority.issuer.issue(read_request(make_request(key, "cs-1")), cs.who, ago)
    found = Identity.create(tmp_path / "x", key, to_pem(made), vault.core.authority.pem)
    with found.http_client(vault.url, Role.VAULT) as client, refused("tls.certificate-expired"):
        client.get("/v1/agent/home/self")
    careless = tls.client_context(vault.core.authority.pem, found.chain)
    with httpx.Client(base_url=vault.url, verify=careless) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/agent/home/self")
    told = {entry["reason"] for entry in log if entry["event"] == "security.handshake-refused"}
    assert told == {"certificate has expired"}


def test_one_that_expires_while_a_connection_is_open(client: httpx.Client, vault: TlsVault) -> None:
    assert client.get("/v1/agent/home/self").status_code == 200
    vault.later = timedelta(days=91)
    answer = client.get("/v1/agent/home/self")
    assert (answer.status_code, code(answer)) == (403, "tls.certificate-expired")


@pytest.mark.parametrize("whole", [True, False])
def test_a_revoked_one_counts_no_more_from_the_next_request_on(
    client: httpx.Client, vault: TlsVault, cs: Identity, whole: bool, log: list[EventDict]
) -> None:
    assert client.get("/v1/agent/home/self").status_code == 200
    connections = len(log)
    body = {} if whole else {"serial": cs.serial}
    answer = vault.operator.post("/v1/servers/cs-1/revoke", json=body)
    assert answer.json()["server"]["state"] == ("revoked" if whole else "joined")
    answer = client.get("/v1/agent/home/self")  # on the connection that is open
    assert (answer.status_code, code(answer)) == (403, "tls.certificate-revoked")
    with cs.http_client(vault.url, Role.VAULT) as fresh:
        assert code(fresh.get("/v1/agent/home/self")) == "tls.certificate-revoked"
    assert {"security.certificate-revoked", "security.revoked-refused"} <= events(log[connections:])


def test_a_revoked_server_is_refused_whatever_it_shows(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    servers.revoke(home.vault.core, "ps-1")
    body = {"role": "process-server", "name": "ps-1", "csr": make_request(new_key(), "ps-1")}
    assert code(home.client.post("/v1/agent/home/certificates", json=body)) == "server.revoked"
    body["renews"] = made.serial
    assert code(home.client.post("/v1/agent/home/certificates", json=body)) == "server.revoked"


def test_the_servers_of_a_site_learn_who_is_revoked(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    gone, stays = home.join(tmp_path / "a"), home.join(tmp_path / "b", name="ps-2")
    with gone.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert client.get("/v1/self").status_code == 200
        answered: dict[str, object] = {}

        def poll() -> None:
            asked = {"wait": 30, "revocations": home.identity.revocations}
            answered.update(home.client.get("/v1/agent/home/work", params=asked, timeout=40).json())

        thread = threading.Thread(target=poll)
        thread.start()
        time.sleep(0.3)
        begun = time.monotonic()
        home.vault.operator.post("/v1/servers/ps-1/revoke", json={})
        thread.join(10)
        assert time.monotonic() - begun < 20, "the long poll ended at once"
        assert answered["revocations"] == servers.revocation_number(home.vault.core)
        assert take_revocations(home.identity, home.client)
        assert not take_revocations(home.identity, home.client)
        answer = client.get("/v1/self")  # on the connection that is open
        assert (answer.status_code, code(answer)) == (403, "tls.certificate-revoked")
    with stays.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert take_revocations(stays, client)
        assert gone.serial in stays.revoked
    assert "security.revoked-refused" in events(log)


def test_a_server_does_not_talk_to_one_that_is_revoked(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    servers.revoke(home.vault.core, "cs-home")
    made.take_revocations(servers.revocations(home.vault.core))
    with made.http_client(home.url, Role.CONFIGURATION_SERVER) as client, refused("tls.certificate-revoked"):
        client.get("/v1/self")


# ── whom a server talks to ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_believes_the_role_and_the_site(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    made = home.join(tmp_path / "ps")
    for url, role, site in (
        (home.vault.url, Role.CONFIGURATION_SERVER, None),
        (home.url, Role.VAULT, None),
        (home.url, Role.CONFIGURATION_SERVER, "away"),
        (home.url, Role.PROCESS_SERVER, None),
    ):
        with made.http_client(url, role, site) as client, refused("tls.wrong-peer"):
            client.get("/v1/self")
    assert "security.peer-refused" in events(log)
    connection = made.http_connection("127.0.0.1", int(home.url.rsplit(":", 1)[1]), Role.VAULT)
    with pytest.raises(ssl.SSLCertVerificationError) as error:
        connection.request("GET", "/v1/self")
    found = tls.reason(error.value)
    assert found is not None
    assert found.code == "tls.wrong-peer"


def test_another_vault_s_servers_are_strangers(home: Site, tmp_path: Path) -> None:
    other = TlsVault(tmp_path / "other")
    try:
        stranger = join_vault(other.key(), tmp_path / "stranger", name="cs-home")
        with stranger.http_client(home.vault.url, Role.VAULT) as client, refused("tls.peer-unknown"):
            client.get("/v1/agent/home/self")
        trusting = tls.client_context(home.vault.core.authority.pem, stranger.chain)
        with httpx.Client(base_url=home.url, verify=trusting) as client, pytest.raises(httpx.TransportError):
            client.get("/v1/self")
    finally:
        other.stop()


@pytest.mark.parametrize("path", ["/v1/self", "/v1/revocations", "/openapi.json"])
def test_without_a_certificate_only_the_join_is_open(home: Site, path: str, log: list[EventDict]) -> None:
    with httpx.Client(base_url=home.url, verify=tls.client_context(home.identity.authority)) as anyone:
        assert code(anyone.get(path)) == "tls.peer-unknown"
        assert anyone.get("/v1/join").status_code == 200
    assert "security.peer-refused" in events(log)


def test_older_tls_is_refused(home: Site, log: list[EventDict]) -> None:
    for url in (home.vault.url, home.url):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 10) as plain,
            pytest.raises(ssl.SSLError),
        ):
            old.wrap_socket(plain)
    assert [entry["reason"] for entry in log if entry["event"] == "security.handshake-refused"] == (
        ["UNSUPPORTED_PROTOCOL"] * 2
    )


def test_a_server_of_older_tls_is_refused(cs: Identity) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cs.chain)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = socket.socketpair()

    def serve() -> None:
        with near, pytest.raises(ssl.SSLError):
            context.wrap_socket(near, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    with far, pytest.raises(ssl.SSLError):
        cs.client_context().wrap_socket(far)
    thread.join()


# ── renewal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_configuration_server_renews_while_it_works(client: httpx.Client, vault: TlsVault, cs: Identity) -> None:
    before = cs.serial
    sign = sign_at_vault(client, "home")
    assert not cs.renew_if_due(sign)
    assert cs.renew_if_due(sign, cs.not_after - timedelta(days=29))
    assert cs.serial != before
    assert client.get("/v1/agent/home/self").json()["serial"] == before, "the open connection goes on"
    with cs.http_client(vault.url, Role.VAULT) as fresh:
        assert fresh.get("/v1/agent/home/self").json()["serial"] == cs.serial


def test_the_others_renew_through_their_configuration_server(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    before, end = made.serial, made.not_after
    home.vault.core.certificate_life = timedelta(days=120)
    with made.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert made.renew_if_due(sign_at_configuration_server(client), end - timedelta(days=29))
    assert made.not_after > end
    with made.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert read(client.get("/v1/self"))["peer"] == made.who.uri
    assert [each["serial"] for each in home.vault.server("ps-1")["certificates"]] == [before, made.serial]
    assert Identity.open(made.folder).serial == made.serial


def test_a_listener_shows_the_renewed_certificate_and_open_connections_go_on(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    with made.http_client(home.url, Role.CONFIGURATION_SERVER) as client:
        assert client.get("/v1/self").status_code == 200
        due = home.identity.not_after - timedelta(days=29)
        assert home.identity.renew_if_due(sign_at_vault(home.client, "home"), due)
        assert client.get("/v1/self").status_code == 200
    plain = socket.create_connection(("127.0.0.1", int(home.url.rsplit(":", 1)[1])), 10)
    with made.client_context(Role.CONFIGURATION_SERVER).wrap_socket(plain) as shown:
        assert tls.peer(shown).serial == home.identity.serial
    home.join(tmp_path / "b", name="ps-2")


def test_an_expired_certificate_can_not_be_renewed(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    home.vault.later = timedelta(days=91)
    with made.http_client(home.url, Role.CONFIGURATION_SERVER) as client, pytest.raises(HomeportError) as error:
        made.renew_if_due(sign_at_configuration_server(client), home.vault.core.clock())
    assert error.value.code == "tls.certificate-expired"


def test_the_vault_renews_its_own(vault: TlsVault, cs: Identity) -> None:
    from homeport.vault.keeping import Keeping

    before = vault.identity.serial
    Keeping(vault.core)._renew()
    assert vault.identity.serial == before
    vault.later = timedelta(days=61)
    Keeping(vault.core)._renew()
    assert vault.identity.serial != before
    assert Identity.open(vault.state / "identity").serial == vault.identity.serial
    assert ServerName.parse(vault.identity.who.uri).role is Role.VAULT
