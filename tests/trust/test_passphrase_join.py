"""Process servers and master targets join their configuration server by passphrase, and nobody gets in between."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from structlog.typing import EventDict

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role, ServerName
from homeport.servers.join_passphrase import FILE, Guesses, JoinPassphrase, TooManyGuesses
from homeport.servers.joining import IDENTITY, join_configuration_server
from homeport.trust import proofs
from homeport.trust.asgi import MOST
from homeport.trust.identity import Identity
from homeport.trust.passphrases import new_passphrase
from homeport.trust.proofs import Prover, WeakParameters, derive
from tests.trust.world import InBetween, Site, TlsVault


def refused(home: Site, state: Path, **more: object) -> str:
    with pytest.raises(HomeportError) as error:
        home.join(state, **more)  # type: ignore[arg-type]
    assert not Identity.exists(state / IDENTITY)
    return error.value.code


def names(home: Site) -> set[str]:
    return {each["name"] for each in home.vault.servers()}


@pytest.mark.parametrize("role", [Role.PROCESS_SERVER, Role.MASTER_TARGET, Role.MOBILITY_SERVICE])
def test_joining(home: Site, tmp_path: Path, role: Role, log: list[EventDict]) -> None:
    made = home.join(tmp_path / "ps", role, name="x-1")
    assert made.who == ServerName(home.identity.vault, role, "home", "x-1")
    assert made.authority == home.vault.core.authority.pem
    assert home.vault.server("x-1")["state"] == "joined"
    assert home.join(tmp_path / "ps", role, name="x-1").serial == made.serial, "once more changes nothing"
    assert home.passphrase.text not in repr(log)
    with made.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert client.get("/v1/self").json()["peer"] == made.who.uri


def test_a_wrong_passphrase(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    assert refused(home, tmp_path / "ps", passphrase=new_passphrase()) == "join.passphrase-wrong"
    assert any(entry["event"] == "security.join-passphrase-refused" for entry in log)
    assert "ps-1" not in names(home)
    copied = home.passphrase.text.upper().replace("-", " ")
    home.join(tmp_path / "ps", passphrase=copied)


def test_a_passphrase_that_was_rotated(home: Site, tmp_path: Path) -> None:
    old = home.passphrase.text
    there = home.join(tmp_path / "ps")
    JoinPassphrase(home.state).rotate()  # as the command line does, in another process
    assert refused(home, tmp_path / "b", passphrase=old, name="ps-2") == "join.passphrase-wrong"
    home.join(tmp_path / "b", name="ps-2")
    with there.http_client(home.url, Role.CONFIGURATION_SERVER) as client:
        assert client.get("/v1/self").status_code == 200
    assert (home.state / FILE).stat().st_mode & 0o777 == 0o600


def test_wrong_guesses_must_wait_longer_each_time(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    for _ in range(Guesses.FREE):
        assert refused(home, tmp_path / "ps", passphrase="guess") == "join.passphrase-wrong"
    assert refused(home, tmp_path / "ps") == "join.too-many-guesses", "the right one too"
    assert any(entry["event"] == "security.join-passphrase-locked" for entry in log)
    home.now += Guesses.FIRST + 1
    home.join(tmp_path / "ps")


def test_how_long_guesses_must_wait() -> None:
    now = 0.0
    guesses = Guesses(lambda: now)
    waits = []
    for _ in range(12):
        guesses.check("a")
        guesses.wrong("a")
        guesses.check("b")
        try:
            guesses.check("a")
            waits.append(0.0)
        except TooManyGuesses as error:
            waits.append(float(error.details["seconds"]))
            now += waits[-1]
    assert waits == [0, 0, 0, 0, 30, 60, 120, 240, 480, 900, 900, 900]
    guesses.right("a")
    guesses.wrong("a")
    guesses.check("a")


def test_who_shows_nothing_sends_little(home: Site) -> None:
    """Refused by what it says of its length: nothing of the body is ever sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(home.url.rsplit(":", 1)[1])
    for told in ("Content-Length: 9000000000", "Transfer-Encoding: chunked", f"Content-Length: {MOST + 1}"):
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(f"POST /v1/join HTTP/1.1\r\nHost: x\r\n{told}\r\n\r\n".encode())
            answer = connection.recv(65536)
        assert b" 413 " in answer.split(b"\r\n")[0], told


def test_somebody_in_between(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    """He has a certificate of the right name, and passes on all that is sent: both sides see another channel."""
    between = InBetween(home.url, home.identity.who, tmp_path)
    try:
        assert refused(home, tmp_path / "ps", url=between.url) == "join.passphrase-wrong"
        assert b"/v1/join" in between.seen, "he was in between"
        assert home.passphrase.text.encode() not in between.seen
        assert any(entry["event"] == "security.join-passphrase-refused" for entry in log)
        assert "ps-1" not in names(home), "nothing was signed"
    finally:
        between.stop()


class Impostor:
    """Answers a join itself, with a certificate that some authority of its own signed; it knows no passphrase."""

    def __init__(self, folder: Path, vault: str, salt: str = "00" * 16) -> None:
        who = ServerName(vault, Role.CONFIGURATION_SERVER, "home", "x")
        self.between = InBetween("https://127.0.0.1:1", who, folder)
        self.between.stop()
        told = {"certificate": "", "authority": "", "vault": vault, "site": "home"}
        answers = {
            "GET": {"salt": salt, "site": "home", "vault": vault, "time": datetime.now(UTC).isoformat()},
            "POST": {"answer": told, "proof": Prover(b"guess", b"").answer("00", told)},
        }

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                text = json.dumps(answers[self.command]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = self.between.context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_an_impostor_can_not_prove_that_he_knows_the_passphrase(tmp_path: Path, log: list[EventDict]) -> None:
    impostor = Impostor(tmp_path, "ab" * 16)
    try:
        with pytest.raises(HomeportError) as error:
            join_configuration_server(impostor.url, new_passphrase(), Role.PROCESS_SERVER, tmp_path / "ps", name="ps-1")
        assert error.value.code == "join.peer-unproven"
        assert any(entry["event"] == "security.peer-unproven" for entry in log)
        assert not Identity.exists(tmp_path / "ps" / IDENTITY)
    finally:
        impostor.stop()


def test_an_impostor_who_wants_to_guess_cheaply(tmp_path: Path) -> None:
    impostor = Impostor(tmp_path, "ab" * 16, salt="00")
    try:
        with pytest.raises(WeakParameters):
            join_configuration_server(impostor.url, new_passphrase(), Role.PROCESS_SERVER, tmp_path / "ps", name="ps-1")
    finally:
        impostor.stop()


def test_a_proof_fits_one_channel_one_request_and_one_direction() -> None:
    key = derive("abc", bytes(16))
    here, there = Prover(key, b"a" * 32), Prover(key, b"b" * 32)
    body = {"name": "x", "csr": "y"}
    proof = here.request(body)
    assert here.is_request(proof, body)
    assert not there.is_request(proof, body)
    assert not here.is_request(proof, {**body, "name": "z"})
    assert not Prover(derive("abd", bytes(16)), b"a" * 32).is_request(proof, body)
    answer = here.answer(proof, body)
    assert here.is_answer(answer, proof, body)
    assert not here.is_request(answer, body)
    assert not here.is_answer(answer, here.request({}), body), "of another request"


def test_proofs_cost_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (proofs.N, proofs.R, proofs.P) == (1 << 15, 8, 1)
    expected = hashlib.scrypt(b"abcd", salt=bytes(16), n=1 << 15, r=8, p=1, maxmem=64 << 20, dklen=32)
    assert derive("AB-CD ", bytes(16)) == expected


@pytest.mark.parametrize("minutes", [6, -6])
def test_clocks_that_differ(home: Site, tmp_path: Path, minutes: int) -> None:
    off = timedelta(minutes=minutes)
    assert refused(home, tmp_path / "ps", clock=lambda: datetime.now(UTC) + off) == "join.clock-skew"


def test_the_configuration_server_looks_at_the_clock_too(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    times = iter([timedelta(0), timedelta(minutes=6)])  # right when it compares, wrong when it asks
    assert refused(home, tmp_path / "ps", clock=lambda: datetime.now(UTC) + next(times)) == "join.clock-skew"
    assert any(entry["event"] == "security.clock-refused" for entry in log)


def test_a_name_that_another_has(home: Site, tmp_path: Path, log: list[EventDict]) -> None:
    home.join(tmp_path / "ps")
    assert refused(home, tmp_path / "b") == "server.name-taken"
    assert refused(home, tmp_path / "b", name="cs-home") == "server.name-taken"
    assert refused(home, tmp_path / "b", role=Role.MASTER_TARGET) == "server.name-taken"
    assert [entry["claimed"] for entry in log if entry["event"] == "security.identity-claimed"] == [
        "process-server ps-1",
        "process-server cs-home",
        "master-target ps-1",
    ]
    assert refused(home, tmp_path / "b", name="a/b") == "server.name-invalid"


def test_the_vault_is_away(home: Site, tmp_path: Path) -> None:
    home.vault.serving.stop()
    assert refused(home, tmp_path / "ps") == "join.vault-silent"


def test_another_site_has_another_passphrase(vault: TlsVault, home: Site, tmp_path: Path) -> None:
    away = Site(vault, "away", tmp_path / "away")
    try:
        assert refused(home, tmp_path / "ps", passphrase=away.passphrase.text) == "join.passphrase-wrong"
        assert away.join(tmp_path / "ps", name="ps-2").site == "away"
    finally:
        away.stop()
