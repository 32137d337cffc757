"""How servers join: a configuration server its vault, by registration key; all others their configuration server, by
join passphrase. Both know each other, or nothing is believed, before anything is signed.

For the server that joins: :func:`join_vault`, :func:`join_configuration_server`. Afterwards, for the one that runs:
:func:`sign_at_vault` or :func:`sign_at_configuration_server` (what ``Identity.renew_if_due`` wants), and
:func:`take_revocations`. The other side, at a configuration server, is join_service.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.domain.servers import JOIN_BY_PASSPHRASE, Role, check_name
from homeport.servers.join_passphrase import WrongJoinPassphrase
from homeport.trust import security, tls
from homeport.trust.certificates import (
    CertificateInvalid,
    PrivateKey,
    from_pem,
    issued_by,
    key_from_pem,
    key_to_pem,
    make_request,
    new_key,
    peer_of_der,
)
from homeport.trust.clocks import compare_clocks
from homeport.trust.identity import Identity
from homeport.trust.private import write_private
from homeport.trust.proofs import Prover, derive
from homeport.trust.registration import RegistrationKey
from homeport.trust.security import Event

Json = dict[str, Any]
Answer = TypeVar("Answer")

IDENTITY = "identity"
"""Folder in a server's state folder."""
PENDING = "joining.pem"
"""Private key of a join that has not ended: a join that is begun again goes on with it."""
CONNECT = 20.0
"""Seconds."""
_NO_ANSWER = (OSError, http.client.HTTPException)


class Unreachable(HomeportError):
    code = "join.unreachable"
    remedy = "Check address, port and network, and that it runs there; then join again. Nothing is used up."


class JoinedAlready(HomeportError):
    code = "join.already"
    remedy = "Name another state folder; or, to join anew, `homeport server remove NAME` and move this folder away."


class PeerUnproven(HomeportError):
    code = "join.peer-unproven"
    remedy = (
        "It does not know this passphrase: check the passphrase and the address. If both are right, somebody sits "
        "between the two: join over a network that you trust."
    )


class BadAnswer(HomeportError):
    code = "join.bad-answer"
    remedy = "Check the address: what answers there is not what this server should join."


def _now() -> datetime:
    return datetime.now(UTC)


# ── a configuration server joins its vault ──────────────────────────────────────────────────────────────────────────


def join_vault(
    key: str,
    state: Path,
    *,
    name: str | None = None,
    urls: Sequence[str] = (),
    hosts: Sequence[str] = (),
    clock: Callable[[], datetime] = _now,
    restores: str | None = None,
) -> Identity:
    """Join with the text of a registration key; answers the identity, which lies in ``state/identity``.

    ``name``: of this server (default: the machine's); ``urls``: of the vault, in place of those in the key;
    ``hosts``: names and addresses that its certificate shall bear; ``restores``: it is a lost one that is restored,
    from the "vault" or a "file": then its name is the lost one's, and it is refused while that one is still heard of.
    May be run again until it succeeds. Raises KeyInvalid, KeyTampered, ClockSkew, PeerUnknown (it is not the vault that
    answers), WrongPeer, :class:`Unreachable`, :class:`JoinedAlready`, and what the vault refuses.
    """
    found = RegistrationKey.parse(key)
    if name is not None or restores is None:
        name = check_name(name or _own_name())
    folder = state / IDENTITY
    if Identity.exists(folder):
        there = Identity.open(folder)
        if (there.vault, there.role, there.site, there.name) != (
            found.vault,
            Role.CONFIGURATION_SERVER,
            found.site,
            name or there.name,
        ):
            raise JoinedAlready(f"In {state} is the identity of {there.who.uri}.")
        _greet_vault(there)
        return there
    private = _pending(folder)
    body = {"key": key, "name": name or "", "csr": make_request(private, name or _own_name(), hosts)}
    if restores is not None:
        body["restores"] = restores
    url, answer = _at_first(urls or found.urls, lambda each: _join_vault_at(each, found, body, clock))
    made = _keep(folder, private, answer, [url, *(other for other in urls or found.urls if other != url)])
    if (made.vault, made.role, made.site) != (found.vault, Role.CONFIGURATION_SERVER, found.site):
        raise BadAnswer(f"The vault answered with a certificate for {made.who.uri}.")
    _greet_vault(made)
    return made


def _join_vault_at(url: str, key: RegistrationKey, body: Json, clock: Callable[[], datetime]) -> Json:
    def checked(connection: ssl.SSLSocket | ssl.SSLObject) -> None:
        peer = tls.peer(connection)
        tls.check(peer, vault=key.vault, roles={Role.VAULT}, at=peer.not_before)  # its dates: once clocks agree

    with _connection(url, tls.joining_context(key.authority, checked)) as connection:
        vaults = _ask(connection, "GET", "/v1/authority")
        compare_clocks("the vault", _instant(vaults.get("time")), "this server", clock())
        tls.check(_peer(connection), vault=key.vault, roles={Role.VAULT}, at=clock())
        answer = _ask(connection, "POST", "/v1/join", {**body, "time": clock().isoformat()})
    if answer.get("authority") != key.authority:
        raise BadAnswer("The vault answered with another authority than that of the registration key.")
    return answer


def _greet_vault(identity: Identity) -> None:
    """The first word with the new certificate ends the join, at the vault too."""
    _at_first(identity.urls, lambda url: _greet(identity, url, Role.VAULT, f"/v1/agent/{identity.site}/self"))


# ── the others join their configuration server ──────────────────────────────────────────────────────────────────────


def join_configuration_server(
    url: str,
    passphrase: str,
    role: Role,
    state: Path,
    *,
    name: str | None = None,
    hosts: Sequence[str] = (),
    clock: Callable[[], datetime] = _now,
) -> Identity:
    """Join the configuration server at ``url`` in a ``role`` that does so; answers the identity, which lies in
    ``state/identity``. May be run again until it succeeds. Raises WrongJoinPassphrase, ClockSkew,
    :class:`PeerUnproven`, :class:`Unreachable`, :class:`JoinedAlready`, TooManyGuesses, and what the vault refuses."""
    if role not in JOIN_BY_PASSPHRASE:
        raise ValueError(f"a {role} does not join by passphrase")
    name = check_name(name or _own_name())
    folder = state / IDENTITY
    if Identity.exists(folder):
        there = Identity.open(folder)
        if (there.role, there.name) != (role, name):
            raise JoinedAlready(f"In {state} is the identity of {there.who.uri}.")
        _greet(there, url, Role.CONFIGURATION_SERVER, "/v1/self")
        return there
    private = _pending(folder)
    body = {"name": name, "role": str(role), "csr": make_request(private, name, hosts), "version": __version__}
    answer = _prove(url, passphrase, body, clock)
    made = _keep(folder, private, answer, [url])
    if (made.role, made.name) != (role, name):
        raise BadAnswer(f"The configuration server answered with a certificate for {made.who.uri}.")
    _greet(made, url, Role.CONFIGURATION_SERVER, "/v1/self")
    return made


def _prove(url: str, passphrase: str, body: Json, clock: Callable[[], datetime]) -> Json:
    """The configuration server's answer, proven to be its own (proofs.py)."""
    with _connection(url, tls.client_context(None)) as connection:
        channel = hashlib.sha256(_certificate(connection)).digest()
        greeting = _ask(connection, "GET", "/v1/join")
        compare_clocks("the configuration server", _instant(greeting.get("time")), "this server", clock())
        try:
            prover = Prover(derive(passphrase, bytes.fromhex(greeting["salt"])), channel)
        except (KeyError, ValueError, TypeError) as error:
            raise BadAnswer(f"What answers at {url} is no configuration server.") from error
        body = {**body, "time": clock().isoformat()}
        proof = prover.request(body)
        told = _ask(connection, "POST", "/v1/join", {"request": body, "proof": proof})
        answer, shown = told.get("answer"), told.get("proof")
        proven = (
            isinstance(answer, dict) and isinstance(shown, str) and prover.is_answer(shown, proof, answer)
        ) and _is_its_own(connection, answer)
        if not proven:
            security.record(Event.PEER_UNPROVEN, url=url, channel=channel.hex())
            raise PeerUnproven(f"What answers at {url} could not prove that it knows the join passphrase.")
    assert isinstance(answer, dict)
    return answer


def _is_its_own(connection: http.client.HTTPSConnection, answer: Json) -> bool:
    """Whether the certificate of the connection is one of the authority that the answer names, and of the server that
    it should be."""
    try:
        from cryptography.x509 import load_der_x509_certificate

        shown = _certificate(connection)
        peer = peer_of_der(shown)
        issued = issued_by(load_der_x509_certificate(shown), from_pem(answer["authority"]))
    except (CertificateInvalid, KeyError, ValueError):
        return False
    return issued and (peer.who.role, peer.who.vault, peer.who.site) == (
        Role.CONFIGURATION_SERVER,
        answer.get("vault"),
        answer.get("site"),
    )


# ── while a server runs ─────────────────────────────────────────────────────────────────────────────────────────────


def sign_at_vault(client: httpx.Client, site: str) -> Callable[[str], str]:
    """For a configuration server: ``identity.renew_if_due(sign_at_vault(client, identity.site))``."""

    def sign(request: str) -> str:
        return str(read(client.post(f"/v1/agent/{site}/renewal", json={"csr": request}))["certificate"])

    return sign


def sign_at_configuration_server(client: httpx.Client) -> Callable[[str], str]:
    """For all others; ``client``: of its identity, to its configuration server."""

    def sign(request: str) -> str:
        return str(read(client.post("/v1/renewal", json={"csr": request}))["certificate"])

    return sign


def take_revocations(identity: Identity, client: httpx.Client, path: str | None = None) -> bool:
    """Fetch the list of revoked certificates and take it in. ``path``: default: that of who is asked: the vault by a
    configuration server, which all others ask. Answers whether there was something new."""
    if path is None:
        own = identity.role is Role.CONFIGURATION_SERVER
        path = f"/v1/agent/{identity.site}/revocations" if own else "/v1/revocations"
    return identity.take_revocations(str(read(client.get(path))["list"]))


def read(answer: httpx.Response) -> Json:
    """The JSON of an answer; raises the HomeportError that it brings."""
    try:
        data = answer.json()
    except ValueError as error:
        raise BadAnswer(f"{answer.url} answered with {answer.status_code} and no JSON.") from error
    return _no_problem(answer.status_code, data, str(answer.url))


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _connection(url: str, context: ssl.SSLContext) -> Any:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise Unreachable(f"{url!r} is no address: https://HOST:PORT is one.")
    connection = http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=CONNECT, context=context)
    connection.auto_open = 0  # what was proven holds for this connection, for no other
    try:
        try:
            connection.connect()
            yield connection
        except _NO_ANSWER as error:
            found = tls.reason(error)
            if found is not None:
                security.record(Event.HANDSHAKE_REFUSED, url=url, code=found.code, reason=found.cause)
                raise found from error
            raise Unreachable(f"{url} doesn't answer ({error or type(error).__name__}).") from error
    finally:
        connection.close()


def _ask(connection: http.client.HTTPSConnection, method: str, path: str, body: Json | None = None) -> Json:
    text = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"} if text is not None else {}
    connection.request(method, path, text, headers)
    response = connection.getresponse()
    try:
        data = json.loads(response.read(1 << 20))
    except ValueError as error:
        raise BadAnswer(f"{connection.host}:{connection.port} answered with {response.status} and no JSON.") from error
    return _no_problem(response.status, data, f"{connection.host}:{connection.port}")


def _no_problem(status: int, data: Any, whose: str) -> Json:
    if not isinstance(data, dict):
        raise BadAnswer(f"{whose} answered with {status} and something else than an object.")
    if status >= 400:
        if {"code", "cause"} <= data.keys():
            raise HomeportError.from_json(data)
        raise BadAnswer(f"{whose} answered with {status}.")
    return data


def _greet(identity: Identity, url: str, role: Role, path: str) -> None:
    _call(identity, url, role, "GET", path)


def call_vault(identity: Identity, urls: Sequence[str], method: str, path: str, body: Json | None = None) -> Json:
    """One request of a configuration server to its vault, at the first of ``urls`` that is there. Raises
    :class:`Unreachable`, and what the vault refuses."""
    return _at_first(urls, lambda url: _call(identity, url, Role.VAULT, method, path, body))[1]


def _call(identity: Identity, url: str, role: Role, method: str, path: str, body: Json | None = None) -> Json:
    site = None if role is Role.VAULT else identity.site
    try:
        with identity.http_client(url, role, site, timeout=CONNECT) as client:
            return read(client.request(method, path, json=body))
    except httpx.TransportError as error:
        found = tls.reason(error)
        if found is not None:
            raise found from error
        raise Unreachable(f"{url} doesn't answer ({error or type(error).__name__}).") from error


def _at_first(urls: Sequence[str], ask: Callable[[str], Answer]) -> tuple[str, Answer]:
    """The answer of the first that is there. Whoever is there and refuses, or is refused, ends it."""
    last: Unreachable | None = None
    for url in urls:
        try:
            return url, ask(url)
        except Unreachable as error:
            last = error
    raise last or Unreachable("There is no address to join at.")


def _certificate(connection: http.client.HTTPSConnection) -> bytes:
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    return sock.getpeercert(binary_form=True) or b""


def _peer(connection: http.client.HTTPSConnection) -> Any:
    return peer_of_der(_certificate(connection))


def _instant(text: Any) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise BadAnswer("What answers does not tell its time.") from error
    if found.tzinfo is None:
        raise BadAnswer("What answers does not tell its time zone.")
    return found


# ── what lies in the folder ─────────────────────────────────────────────────────────────────────────────────────────


def _pending(folder: Path) -> PrivateKey:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / PENDING
    if path.exists():
        return key_from_pem(path.read_text())
    key = new_key()
    write_private(path, key_to_pem(key))
    return key


def _keep(folder: Path, key: PrivateKey, answer: Json, urls: Sequence[str]) -> Identity:
    try:
        made = Identity.create(folder, key, str(answer["certificate"]), str(answer["authority"]), urls)
        made.take_revocations(str(answer["revocations"]))
    except (KeyError, CertificateInvalid) as error:
        raise BadAnswer(f"The answer to the join lacks something: {error}.") from error
    (folder / PENDING).unlink(missing_ok=True)
    return made


def _own_name() -> str:
    return socket.gethostname().split(".")[0]


__all__ = [
    "IDENTITY",
    "BadAnswer",
    "JoinedAlready",
    "PeerUnproven",
    "Unreachable",
    "WrongJoinPassphrase",
    "call_vault",
    "join_configuration_server",
    "join_vault",
    "read",
    "sign_at_configuration_server",
    "sign_at_vault",
    "take_revocations",
]
