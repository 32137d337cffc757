"""Certificates are what other implementations take them for, and say what the vault decided."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from homeport.domain.servers import Role, ServerName
from homeport.trust.certificates import (
    CertificateInvalid,
    Issuer,
    RequestInvalid,
    RevocationsInvalid,
    from_pem,
    issued_by,
    make_request,
    make_root,
    new_key,
    peer_of,
    read_request,
    read_revocations,
    to_pem,
)
from homeport.trust.identity import CHAIN, Identity, IdentityDamaged, IdentityMissing

AT = datetime.now(UTC)
VAULT = "ab" * 16
WHO = ServerName(VAULT, Role.PROCESS_SERVER, "home", "ps-1")


@pytest.fixture
def issuer() -> Issuer:
    key = new_key()
    return Issuer(make_root(VAULT, key, AT), key)


def test_openssl_verifies_them(issuer: Issuer, tmp_path: Path) -> None:
    key = new_key()
    made = issuer.issue(read_request(make_request(key, "ps-1", ["ps.example", "192.0.2.7"])), WHO, AT)
    (tmp_path / "root.pem").write_text(to_pem(issuer.certificate))
    (tmp_path / "leaf.pem").write_text(to_pem(made))
    (tmp_path / "crl.pem").write_text(issuer.revocations([], 1, AT))

    def verify(purpose: str) -> str:
        command = (
            f"openssl verify -x509_strict -purpose {purpose} -crl_check -CRLfile crl.pem -CAfile root.pem leaf.pem"
        )
        ran = subprocess.run(
            command.split(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.stdout + ran.stderr

    assert verify("sslserver") == verify("sslclient") == "leaf.pem: OK\n"
    (tmp_path / "crl.pem").write_text(issuer.revocations([(peer_of(made).serial, AT)], 2, AT))
    assert "certificate revoked" in verify("sslclient")
    text = subprocess.check_output(["openssl", "x509", "-in", "leaf.pem", "-noout", "-text"], cwd=tmp_path, text=True)
    assert f"URI:{WHO.uri}, DNS:ps.example, IP Address:192.0.2.7" in text
    assert "CA:FALSE" in text


def test_who_it_is_for_the_vault_decides_not_the_request(issuer: Issuer) -> None:
    key = new_key()
    claimed = ServerName(VAULT, Role.VAULT, "", "vault-1")
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault-1")]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(claimed.uri)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    made = issuer.issue(read_request(to_pem(request)), WHO, AT)
    assert peer_of(made).who == WHO
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.subject.rfc4514_string() == "CN=ps-1"


def test_a_request_must_be_signed_by_its_key_and_of_p256() -> None:
    pem = make_request(new_key(), "ps-1")
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(encoding=_der()))
    der[-3] ^= 1
    with pytest.raises(RequestInvalid):
        read_request(to_pem(x509.load_der_x509_csr(bytes(der))))
    for other in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(other, hashes.SHA256())
        with pytest.raises(RequestInvalid):
            read_request(to_pem(made))
    with pytest.raises(RequestInvalid):
        read_request("nothing")


def test_a_host_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid):
        make_request(new_key(), "ps-1", ["bergen.example", "brønnøysund.example"])


def _der():  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def test_what_another_authority_signed_is_told(issuer: Issuer) -> None:
    key = new_key()
    other = Issuer(make_root(VAULT, key, AT), key)  # of the same name
    made = other.issue(read_request(make_request(new_key(), "ps-1")), WHO, AT)
    assert issued_by(made, other.certificate)
    assert not issued_by(made, issuer.certificate)
    with pytest.raises(RevocationsInvalid):
        read_revocations(other.revocations([], 1, AT), issuer.certificate)
    with pytest.raises(RevocationsInvalid):
        read_revocations("nothing", issuer.certificate)
    with pytest.raises(CertificateInvalid):
        peer_of(issuer.certificate)


def identity(issuer: Issuer, folder: Path, life: timedelta = timedelta(days=90)) -> Identity:
    key = new_key()
    made = issuer.issue(read_request(make_request(key, "ps-1", ["ps.example"])), WHO, AT, life)
    return Identity.create(folder, key, to_pem(made), to_pem(issuer.certificate))


def test_what_is_revoked_stays_revoked(issuer: Issuer, tmp_path: Path) -> None:
    made = identity(issuer, tmp_path)
    assert made.take_revocations(issuer.revocations([("ab", AT)], 5, AT))
    assert not made.take_revocations(issuer.revocations([], 4, AT)), "an older list"
    assert not made.take_revocations(issuer.revocations([("ab", AT)], 5, AT))
    assert made.take_revocations(issuer.revocations([("cd", AT)], 6, AT))
    for each in (made, Identity.open(tmp_path)):
        assert (each.revocations, each.revoked) == (6, {"ab", "cd"})


def test_renewal_keeps_who_it_is_and_refuses_anything_else(issuer: Issuer, tmp_path: Path) -> None:
    made = identity(issuer, tmp_path)
    before = made.serial
    later = AT + timedelta(days=61)

    def sign(request: str) -> str:
        return to_pem(issuer.issue(read_request(request), WHO, later))

    assert not made.renew_if_due(sign, AT + timedelta(days=59))
    other = ServerName(VAULT, Role.PROCESS_SERVER, "home", "ps-2")
    with pytest.raises(CertificateInvalid):
        made.renew_if_due(lambda request: to_pem(issuer.issue(read_request(request), other, later)), later)
    with pytest.raises(IdentityDamaged):
        made.renew_if_due(lambda _: to_pem(issuer.issue(read_request(make_request(new_key(), "x")), WHO, later)), later)
    assert Identity.open(tmp_path).serial == made.serial == before
    assert made.renew_if_due(sign, later)
    assert Identity.open(tmp_path).serial == made.serial != before
    assert not made.renewal_due(later)
    names = from_pem(made.chain.read_text()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ps.example"]


def test_an_identity_that_is_not_whole(issuer: Issuer, tmp_path: Path) -> None:
    with pytest.raises(IdentityMissing):
        Identity.open(tmp_path / "nothing")
    identity(issuer, tmp_path / "a")
    other = identity(issuer, tmp_path / "b")
    text = (tmp_path / "a" / CHAIN).read_text()
    key, _, _ = text.partition("-----BEGIN CERTIFICATE")
    _, _, certificate = other.chain.read_text().partition("-----BEGIN CERTIFICATE")
    for damaged in (text[:200], key + "-----BEGIN CERTIFICATE" + certificate, ""):
        (tmp_path / "a" / CHAIN).write_text(damaged)
        with pytest.raises(IdentityDamaged):
            Identity.open(tmp_path / "a")
