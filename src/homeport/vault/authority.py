"""The vault's own certificate authority: one root, made at the first start.

Its key lies in the database, sealed with the vault's key: so every instance of the vault has it, and so does one that
is restored from a backup. A further copy in the state folder, where the vault's key lies too, would protect nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from homeport.trust import security
from homeport.trust.certificates import Issuer, fingerprint, from_pem, key_from_pem, key_to_pem, make_root, new_key
from homeport.trust.certificates import to_pem as certificate_to_pem
from homeport.trust.security import Event
from homeport.vault.database import Database, Json, SettingRow, now
from homeport.vault.secrets import Secrets

SETTING = "authority"
"""{"certificate": PEM, "sealed": hex}"""
_NONCE = 12


@dataclass(frozen=True)
class Authority:
    issuer: Issuer
    pem: str
    """Its certificate."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, hex: what an operator compares."""
        return fingerprint(self.issuer.certificate)

    @classmethod
    def open(cls, database: Database, secrets: Secrets) -> Authority:
        """That of the vault; made where there is none yet. One that another vault's key sealed is of no use to
        anyone: another takes its place, and the servers have to join anew."""
        with database.read() as session:
            row = session.get(SettingRow, SETTING)
        found = None if row is None else _unsealed(row.value, secrets)
        if found is not None:
            return found
        with database.write() as session:
            row = session.get(SettingRow, SETTING)  # another instance may have made it meanwhile
            found = None if row is None else _unsealed(row.value, secrets)
            if found is not None:
                return found
            key = new_key()
            certificate = make_root(secrets.vault_id, key, now())
            made = cls(Issuer(certificate, key), certificate_to_pem(certificate))
            nonce = os.urandom(_NONCE)
            sealed = nonce + _cipher(secrets).encrypt(nonce, key_to_pem(key).encode(), _bound(secrets, made.pem))
            session.merge(SettingRow(name=SETTING, value={"certificate": made.pem, "sealed": sealed.hex()}))
        security.record(Event.AUTHORITY_MADE, vault=secrets.vault_id, fingerprint=made.fingerprint)
        return made


def _unsealed(value: Json, secrets: Secrets) -> Authority | None:
    sealed, pem = bytes.fromhex(value["sealed"]), str(value["certificate"])
    try:
        key = _cipher(secrets).decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(secrets, pem))
    except InvalidTag:
        return None
    return Authority(Issuer(from_pem(pem), key_from_pem(key)), pem)


def _cipher(secrets: Secrets) -> AESGCM:
    key = HKDF(hashes.SHA256(), 32, None, b"homeport authority 1").derive(bytes.fromhex(secrets.vault_key))
    return AESGCM(key)


def _bound(secrets: Secrets, certificate: str) -> bytes:
    return f"{secrets.vault_id}\n{certificate}".encode()
