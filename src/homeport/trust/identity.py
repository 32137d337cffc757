"""A server's identity: its private key, its certificate, the vault's authority; and TLS with these.

    identity = Identity.open(state / "identity")
    with identity.http_client("https://vault:443", role=Role.VAULT) as client: …
    server = tls_server(app, identity, require_client=True, sockets…)         # asgi.py

``identity.pem``    private key and certificate, in one file so that both change at once (0600)
``authority.pem``   the vault's authority
``revoked.json``    {"number", "serials"}: what is known to be revoked; a serial never leaves it
``joined.json``     {"urls"}: where this server joined: the vault's, or its configuration server's
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role, ServerName, expires_soon, renewal_due
from homeport.trust import security, tls
from homeport.trust.certificates import (
    CertificateInvalid,
    Peer,
    PrivateKey,
    fingerprint,
    from_pem,
    issued_by,
    key_from_pem,
    key_to_pem,
    make_request,
    new_key,
    peer_of,
    read_revocations,
    serial_text,
)
from homeport.trust.private import write_private
from homeport.trust.security import Event

CHAIN, AUTHORITY, REVOKED, JOINED = "identity.pem", "authority.pem", "revoked.json", "joined.json"
VERSION_HEADER = "Homeport-Version"
"""Sent with each request: which version of Homeport a server is."""


class IdentityMissing(HomeportError):
    code = "identity.missing"
    remedy = "Join this server first: `homeport configuration-server join --help`."


class IdentityDamaged(HomeportError):
    code = "identity.damaged"
    remedy = "Restore the folder from a backup; or remove this server (`homeport server remove`) and join it anew."


class Identity:
    """Contexts made here follow a renewal: the next handshake shows the new certificate."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`IdentityMissing`, :class:`IdentityDamaged`."""
        self.folder = folder
        self._lock = threading.Lock()
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._revoked: frozenset[str] = frozenset()
        self._revocations = 0
        self._before: str | None = None
        self._read()

    @classmethod
    def open(cls, folder: Path) -> Identity:
        """That of a server that has joined. Raises :class:`IdentityMissing`, :class:`IdentityDamaged`."""
        return cls(folder)

    @classmethod
    def create(
        cls, folder: Path, key: PrivateKey, certificate: str, authority: str, urls: Sequence[str] = ()
    ) -> Identity:
        """From what a join brought (PEM). ``urls``: where it joined. Raises :class:`IdentityDamaged` where that does
        not fit together."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _fits(key, from_pem(certificate), from_pem(authority))
        write_private(folder / AUTHORITY, authority)
        write_private(folder / JOINED, json.dumps({"urls": list(urls)}))
        write_private(folder / CHAIN, key_to_pem(key) + certificate)  # last: with it the identity is there
        return cls(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / CHAIN).exists()

    def _read(self) -> None:
        try:
            chain = (self.folder / CHAIN).read_text()
            authority = (self.folder / AUTHORITY).read_text()
        except FileNotFoundError as error:
            raise IdentityMissing(f"There is no {error.filename}: this server has not joined a vault.") from error
        try:
            key, certificate = key_from_pem(chain), from_pem(chain)
            _fits(key, certificate, from_pem(authority))
            self._certificate, self.authority = certificate, authority
            self._peer = peer_of(certificate)
            known = json.loads((self.folder / REVOKED).read_text()) if (self.folder / REVOKED).exists() else {}
            joined = json.loads((self.folder / JOINED).read_text()) if (self.folder / JOINED).exists() else {}
            self.urls = tuple(str(url) for url in joined.get("urls", ()))
            self._revocations = int(known.get("number", 0))
            self._revoked = frozenset(known.get("serials", ()))
        except (CertificateInvalid, ValueError, AttributeError) as error:
            raise IdentityDamaged(f"The identity in {self.folder} can't be used: {error}") from error

    # ── who it is ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def who(self) -> ServerName:
        return self._peer.who

    @property
    def name(self) -> str:
        return self.who.name

    @property
    def role(self) -> Role:
        return self.who.role

    @property
    def site(self) -> str:
        """Empty: of a vault's own server."""
        return self.who.site

    @property
    def vault(self) -> str:
        return self.who.vault

    @property
    def serial(self) -> str:
        """Hex."""
        return self._peer.serial

    @property
    def not_after(self) -> datetime:
        return self._peer.not_after

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex."""
        return self._peer.fingerprint

    @property
    def fingerprints(self) -> list[str]:
        """Of the present certificate, and of the one before it since this process began: connections that were open
        at a renewal have that."""
        return [self.fingerprint] + ([self._before] if self._before else [])

    @property
    def authority_fingerprint(self) -> str:
        return fingerprint(from_pem(self.authority))

    @property
    def chain(self) -> Path:
        """File with the private key and the certificate, for what takes names of files."""
        return self.folder / CHAIN

    def expires_soon(self, at: datetime | None = None) -> bool:
        """Whether to warn: renewal has failed for long."""
        return expires_soon(self.not_after, at or datetime.now(UTC))

    # ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def client_context(self, role: Role | Collection[Role] = (), site: str | None = None) -> ssl.SSLContext:
        """To connect with: TLS 1.3, the own certificate, and a peer of this vault that has the ``role`` and is of
        ``site`` (None: of any), not revoked; else the handshake fails, and :func:`homeport.trust.tls.reason` says
        why. Works for sockets, http.client, httpx and asyncio."""
        roles = _roles(role)

        def checked(connection: ssl.SSLSocket | ssl.SSLObject) -> None:
            self.check_peer(connection, roles, site)
            if self._peer.expired():  # the other side would close without a word
                raise tls.CertificateExpired(f"The certificate of this server expired {self.not_after.isoformat()}.")

        context = tls.client_context(self.authority, self.chain, checked)
        self._contexts.add(context)
        return context

    def server_context(self, require_client: bool = True) -> ssl.SSLContext:
        """To listen with: TLS 1.3. A client's certificate must be of the vault's authority; whose it is, and whether
        it is revoked, :meth:`check_peer` (or asgi.PeerGuard) tells. ``require_client`` false: one may show none."""
        context = tls.server_context(self.authority, self.chain, require_client=require_client)
        self._contexts.add(context)
        return context

    def check_peer(
        self, connection: ssl.SSLSocket | ssl.SSLObject, role: Role | Collection[Role] = (), site: str | None = None
    ) -> Peer:
        """Who is at the other end of a TLS connection. Raises PeerUnknown, WrongPeer, CertificateRevoked,
        CertificateExpired; what is refused is logged."""
        return self.check(tls.peer(connection), role, site)

    def check(self, peer: Peer, role: Role | Collection[Role] = (), site: str | None = None) -> Peer:
        """The same for a peer known from the connection before: at each request, so that a revocation counts at once
        on connections that are open."""
        try:
            return tls.check(peer, vault=self.vault, roles=_roles(role), site=site, revoked=self._revoked)
        except HomeportError as error:
            kind = Event.REVOKED_REFUSED if isinstance(error, tls.CertificateRevoked) else Event.PEER_REFUSED
            security.record(kind, peer=peer.who.uri, serial=peer.serial, code=error.code, by=self.who.uri)
            raise

    def http_client(
        self,
        base_url: str,
        role: Role | Collection[Role] = (),
        site: str | None = None,
        *,
        timeout: httpx.Timeout | float = 30.0,
        **more: Any,
    ) -> httpx.Client:
        """An HTTPS client that talks to nobody but a peer as :meth:`client_context` wants it."""
        headers = {VERSION_HEADER: __version__, **more.pop("headers", {})}
        more.setdefault("trust_env", False)
        return httpx.Client(
            base_url=base_url, verify=self.client_context(role, site), timeout=timeout, headers=headers, **more
        )

    def http_connection(
        self, host: str, port: int, role: Role | Collection[Role] = (), site: str | None = None, timeout: float = 30.0
    ) -> http.client.HTTPSConnection:
        """The same as a bare connection, for bodies that are streamed."""
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self.client_context(role, site))

    # ── renewal and revocation ──────────────────────────────────────────────────────────────────────────────────

    def renewal_due(self, at: datetime | None = None) -> bool:
        return renewal_due(self._peer.not_before, self.not_after, at or datetime.now(UTC))

    def renew_if_due(self, sign: Callable[[str], str], at: datetime | None = None) -> bool:
        """Where less than a third of its life is left, a new key and certificate take the place of the old ones.

        ``sign``: given a request (PEM), returns the vault's certificate for it (joining.py has it for each role);
        what it raises goes through, and nothing has changed. Answers whether it was renewed.
        """
        with self._lock:
            if not self.renewal_due(at):
                return False
            key = new_key()
            certificate = sign(make_request(key, self.name, self._hosts()))
            before = self._peer
            found = from_pem(certificate)
            _fits(key, found, from_pem(self.authority))
            if peer_of(found).who != self.who:
                raise CertificateInvalid(f"The renewed certificate is {peer_of(found).who.uri}'s, not its own.")
            write_private(self.folder / CHAIN, key_to_pem(key) + certificate)
            self._before = before.fingerprint
            self._certificate, self._peer = found, peer_of(found)
            for context in list(self._contexts):
                context.load_cert_chain(self.chain)
        security.record(Event.RENEWED, peer=self.who.uri, before=before.serial, serial=self.serial)
        return True

    def _hosts(self) -> Sequence[str]:
        names = self._certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [
            *names.get_values_for_type(x509.DNSName),
            *(str(each) for each in names.get_values_for_type(x509.IPAddress)),
        ]

    @property
    def revocations(self) -> int:
        """Number of the newest list of revoked certificates that was taken in; 0: none."""
        return self._revocations

    @property
    def revoked(self) -> frozenset[str]:
        """Serials."""
        return self._revoked

    def take_revocations(self, pem: str) -> bool:
        """Take in a list that the authority signed (an older one changes nothing). What is revoked stays so,
        whatever a later list says. Answers whether there was something new. Raises RevocationsInvalid."""
        found = read_revocations(pem, from_pem(self.authority))
        with self._lock:
            serials = self._revoked | found.serials
            number = max(found.number, self._revocations)
            if (serials, number) == (self._revoked, self._revocations):
                return False
            write_private(self.folder / REVOKED, json.dumps({"number": number, "serials": sorted(serials)}))
            self._revoked, self._revocations = serials, number
        return True


def _roles(role: Role | Collection[Role]) -> frozenset[Role]:
    return frozenset({role}) if isinstance(role, Role) else frozenset(role)


def _fits(key: PrivateKey, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """Raises :class:`IdentityDamaged`."""
    if key.public_key() != certificate.public_key():
        raise IdentityDamaged(f"The certificate {serial_text(certificate.serial_number)} is for another key.")
    if not issued_by(certificate, authority):
        raise IdentityDamaged(
            f"The certificate {serial_text(certificate.serial_number)} is not by authority {fingerprint(authority)}."
        )
