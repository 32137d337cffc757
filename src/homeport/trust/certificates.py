"""X.509 by the vault's own authority: P-256 keys, one self-signed root, certificates that name a server by a URI."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from homeport.domain.errors import HomeportError
from homeport.domain.servers import CERTIFICATE_LIFE, ServerName, ServerNameInvalid

PrivateKey = ec.EllipticCurvePrivateKey

ROOT_LIFE = timedelta(days=3653)
BACKDATED = timedelta(minutes=10)
"""More than clocks may differ by: a certificate is valid at once for everyone who may join."""
REVOCATIONS_LIFE = timedelta(days=7)


class RequestInvalid(HomeportError):
    code = "certificate.request-invalid"
    remedy = "Join again with this version of Homeport: it makes requests for P-256 keys, signed by them."


class CertificateInvalid(HomeportError):
    code = "certificate.invalid"
    remedy = "Join this server again; see docs/security.md."


class RevocationsInvalid(HomeportError):
    code = "certificate.revocations-invalid"
    remedy = "Something between this server and its vault changes what crosses: look at that network."


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> str:
    """PKCS 8, not encrypted: for a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def key_from_pem(pem: str | bytes) -> PrivateKey:
    """Raises :class:`CertificateInvalid`."""
    try:
        key = serialization.load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, None)
    except (ValueError, TypeError) as error:
        raise CertificateInvalid(f"A private key can't be read: {error}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateInvalid("A private key is not one of P-256.")
    return key


def to_pem(thing: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> str:
    return thing.public_bytes(serialization.Encoding.PEM).decode()


def from_pem(pem: str | bytes) -> x509.Certificate:
    """The first certificate of the text. Raises :class:`CertificateInvalid`."""
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except ValueError as error:
        raise CertificateInvalid(f"A certificate can't be read: {error}.") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the whole certificate, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_digest(of: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key, hex."""
    spki = of.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def serial_text(serial: int) -> str:
    return format(serial, "x")


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_request(key: PrivateKey, name: str, hosts: Sequence[str] = ()) -> str:
    """A signing request, PEM. ``hosts``: names and addresses under which the server is reached, for tools that look
    at them; Homeport's own servers look at the URI."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_hosts(hosts)), critical=False)
    return to_pem(builder.sign(key, hashes.SHA256()))


def read_request(pem: str) -> x509.CertificateSigningRequest:
    """One that proves possession of its key. Raises :class:`RequestInvalid`."""
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        sound = request.is_signature_valid
        public = request.public_key()
    except ValueError as error:
        raise RequestInvalid(f"The request for a certificate can't be read: {error}.") from error
    if not sound:
        raise RequestInvalid("The request for a certificate is not signed by the key in it.")
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise RequestInvalid("The request for a certificate is for another kind of key than P-256.")
    return request


def hosts_of(request: x509.CertificateSigningRequest) -> list[str]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


# ── the authority ───────────────────────────────────────────────────────────────────────────────────────────────────


def make_root(vault: str, key: PrivateKey, at: datetime) -> x509.Certificate:
    """The self-signed root of a vault's authority."""
    subject = _subject(f"Homeport vault {vault}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True)
class Issuer:
    """The authority's certificate and its key: what can sign."""

    certificate: x509.Certificate
    key: PrivateKey

    def issue(
        self,
        request: x509.CertificateSigningRequest,
        who: ServerName,
        at: datetime,
        life: timedelta = CERTIFICATE_LIFE,
    ) -> x509.Certificate:
        """A certificate for the key of ``request``. Of what the request says only the key and the hosts count: who it
        is for, the vault decides."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(who.uri), *_hosts(hosts_of(request))]
        public = self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(_subject(who.name))
            .issuer_name(self.certificate.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - BACKDATED)
            .not_valid_after(min(at + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def revocations(self, serials: Iterable[tuple[str, datetime]], number: int, at: datetime) -> str:
        """A signed revocation list (CRL), PEM: of each serial, hex, since when. ``number`` grows with each change."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(at)
            .next_update(at + REVOCATIONS_LIFE)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, since in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(since).build()
            )
        return to_pem(builder.sign(self.key, hashes.SHA256()))

    def sign(self, text: bytes) -> str:
        """Hex."""
        return self.key.sign(text, ec.ECDSA(hashes.SHA256())).hex()


def signed_by(authority: x509.Certificate, text: bytes, signature: str) -> bool:
    """Whether ``signature`` (hex) over ``text`` is the authority's."""
    public = authority.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(bytes.fromhex(signature), text, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Revocations:
    """``serials``: hex."""

    number: int
    serials: frozenset[str]


def read_revocations(pem: str, authority: x509.Certificate) -> Revocations:
    """Of a list that the authority signed. Raises :class:`RevocationsInvalid`."""
    try:
        found = x509.load_pem_x509_crl(pem.encode())
        public = authority.public_key()
        sound = isinstance(public, ec.EllipticCurvePublicKey) and found.is_signature_valid(public)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        raise RevocationsInvalid(f"A list of revoked certificates can't be read: {error}.") from error
    if not sound or found.issuer != authority.subject:
        raise RevocationsInvalid("A list of revoked certificates is not signed by the vault's authority.")
    return Revocations(number, frozenset(serial_text(each.serial_number) for each in found))


# ── whose certificate it is ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as its certificate says. ``serial``: hex."""

    who: ServerName
    serial: str
    not_before: datetime
    not_after: datetime
    fingerprint: str

    def expired(self, at: datetime | None = None) -> bool:
        return not self.not_before <= (at or datetime.now(UTC)) < self.not_after


def peer_of(certificate: x509.Certificate) -> Peer:
    """Raises :class:`CertificateInvalid` where it names no server."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise CertificateInvalid("A certificate names no server of a vault.")
        who = ServerName.parse(uris[0])
    except (x509.ExtensionNotFound, ServerNameInvalid, ValueError) as error:
        raise CertificateInvalid("A certificate names no server of a vault.") from error
    return Peer(
        who,
        serial_text(certificate.serial_number),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        fingerprint(certificate),
    )


def peer_of_der(der: bytes) -> Peer:
    """Raises :class:`CertificateInvalid`."""
    try:
        return peer_of(x509.load_der_x509_certificate(der))
    except ValueError as error:
        raise CertificateInvalid(f"A certificate can't be read: {error}.") from error


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _hosts(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            try:
                found.append(x509.DNSName(host))
            except ValueError as error:
                raise RequestInvalid(
                    f"{host!r} is neither an address nor a host name in ASCII.", remedy="Name another with --host."
                ) from error
    return found


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
