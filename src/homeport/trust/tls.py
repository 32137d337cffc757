"""TLS 1.3 between servers: each verifies the other by the vault's authority, and by the URI in its certificate.

Host names and addresses are not looked at: they change, and prove nothing that the URI doesn't.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.trust import security
from homeport.trust.certificates import CertificateInvalid, Peer, peer_of_der
from homeport.trust.security import Event

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: :mod:`ssl` has no name for it."""

Check = Callable[[ssl.SSLSocket | ssl.SSLObject], None]


class WrongPeer(HomeportError):
    """The certificate is sound, and another's than who should be there."""

    code = "tls.wrong-peer"
    remedy = "Check the address: another server answers there. If it is the right one, join it anew."


class PeerUnknown(HomeportError):
    code = "tls.peer-unknown"
    remedy = "Join this server to the vault; or, where it was, look who sits between the two."


class CertificateRevoked(HomeportError):
    code = "tls.certificate-revoked"
    remedy = "An operator revoked it. If that server is to be trusted again, remove it and join it anew."


class CertificateExpired(HomeportError):
    code = "tls.certificate-expired"
    remedy = "Check the clocks on both sides. A certificate that expired can't be renewed: join that server anew."


class PeerRefused(ssl.SSLCertVerificationError):
    """A HomeportError as the ssl module's users expect it; :func:`reason` gives it back."""

    def __init__(self, reason: HomeportError) -> None:
        super().__init__(reason.cause)
        self.refused = reason


def peer(connection: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Who is at the other end, verified by the authority. Raises :class:`PeerUnknown`: it showed no certificate, or
    one that names no server."""
    der = connection.getpeercert(binary_form=True)
    if not der:
        raise PeerUnknown("The other side shows no certificate.")
    try:
        return peer_of_der(der)
    except CertificateInvalid as error:
        raise PeerUnknown(error.cause) from error


def check(
    found: Peer,
    *,
    vault: str,
    roles: Collection[Role] = (),
    site: str | None = None,
    revoked: Collection[str] = (),
    at: datetime | None = None,
) -> Peer:
    """``roles``: any of them (empty: all); ``site``: None: any; ``revoked``: serials. Raises :class:`WrongPeer`,
    :class:`CertificateRevoked`, :class:`CertificateExpired`."""
    who = found.who
    if who.vault != vault:
        raise WrongPeer(f"{who.uri} belongs to another vault than {vault}.", peer=who.uri)
    if found.serial in revoked:
        raise CertificateRevoked(f"The certificate {found.serial} of {who.uri} is revoked.", peer=who.uri)
    if found.expired(at):
        raise CertificateExpired(
            f"The certificate of {who.uri} is valid from {found.not_before.isoformat()} to "
            f"{found.not_after.isoformat()}; it is {(at or datetime.now(UTC)).isoformat(timespec='seconds')} here.",
            peer=who.uri,
        )
    if roles and who.role not in roles:
        raise WrongPeer(f"{who.uri} is no {' or '.join(sorted(roles))}.", peer=who.uri)
    if site is not None and who.site != site:
        raise WrongPeer(f"{who.uri} is not of site {site!r}.", peer=who.uri)
    return found


def client_context(authority: str | None, chain: Path | None = None, checked: Check | None = None) -> ssl.SSLContext:
    """TLS 1.3 as a client. ``authority``: PEM; None: anyone is talked to (a join proves the peer in another way).
    ``chain``: file with the own key and certificate. ``checked``: called after each handshake, before a byte of a
    request is sent; what it raises ends the connection (see :func:`reason`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority)
    _finish(context, chain)
    if checked is not None:
        _after_handshake(context, checked)
    return context


def joining_context(authority: str, checked: Check) -> ssl.SSLContext:
    """As a client that may have a wrong clock: who the peer is, is verified, the dates of its certificate are not;
    the caller compares clocks first, then dates."""
    context = client_context(authority, checked=checked)
    context.verify_flags |= _NO_CHECK_TIME
    return context


def server_context(authority: str, chain: Path, *, require_client: bool) -> ssl.SSLContext:
    """TLS 1.3 as a server. ``require_client``: refuse whoever shows no certificate of the authority; else one that
    is shown must be of it, and the application sees to the rest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=authority)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a session taken up again would outlive its certificate
    _finish(context, chain)
    _log_failures(context)
    return context


def reason(error: BaseException | None) -> HomeportError | None:
    """What of ours lies behind an error of ssl, http.client or httpx: a refused peer, an unknown authority."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, HomeportError):
            return error
        if isinstance(error, PeerRefused):
            return error.refused
        if isinstance(error, ssl.SSLCertVerificationError):
            return _verification(error)
        if isinstance(error, ssl.SSLError):
            return _alert(error)
        error = error.__cause__ or error.__context__
    return None


def _verification(error: ssl.SSLCertVerificationError) -> HomeportError:
    text = error.verify_message or str(error)
    if "expired" in text or "not yet valid" in text:
        return CertificateExpired(f"The other side's certificate: {text}; it is {datetime.now(UTC).isoformat()} here.")
    return PeerUnknown(f"The other side is not vouched for by the vault's authority: {text}.")


def _alert(error: ssl.SSLError) -> HomeportError | None:
    """What the other side said when it closed."""
    alerts: dict[str, HomeportError] = {
        "CERTIFICATE_EXPIRED": CertificateExpired("The other side finds this server's certificate expired."),
        "CERTIFICATE_REVOKED": CertificateRevoked("The other side finds this server's certificate revoked."),
        "UNKNOWN_CA": PeerUnknown("The other side does not know the authority of this server's certificate."),
        "CERTIFICATE_REQUIRED": PeerUnknown("The other side wants a certificate, and this one showed none."),
        "BAD_CERTIFICATE": PeerUnknown("The other side refuses this server's certificate."),
        "PROTOCOL_VERSION": PeerUnknown("The other side speaks no TLS 1.3."),
        "UNSUPPORTED_PROTOCOL": PeerUnknown("The other side speaks no TLS 1.3."),
    }
    return next((found for name, found in alerts.items() if name in (error.reason or "")), None)


def _finish(context: ssl.SSLContext, chain: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if chain is not None:
        context.load_cert_chain(chain)


def _after_handshake(context: ssl.SSLContext, checked: Check) -> None:
    def hook(connection: Any) -> None:
        try:
            checked(connection)
        except HomeportError as error:
            raise PeerRefused(error) from error

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            hook(self)

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            hook(self)

    context.sslsocket_class = Socket
    context.sslobject_class = Object


def _log_failures(context: ssl.SSLContext) -> None:
    """Nobody else would say why a handshake failed: servers drop the connection without a word."""

    def refused(error: ssl.SSLError) -> None:
        text = getattr(error, "verify_message", None) or error.reason or str(error)
        security.record(Event.HANDSHAKE_REFUSED, reason=text)

    def unfinished(error: ssl.SSLError) -> bool:
        quiet = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        return isinstance(error, quiet)

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except ssl.SSLError as error:
                if not unfinished(error):
                    refused(error)
                raise

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLError as error:
                if not unfinished(error):
                    refused(error)
                raise

    context.sslsocket_class = Socket
    context.sslobject_class = Object
