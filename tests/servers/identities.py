"""Servers of a vault that never ran: identities by an authority made for the test."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from homeport.domain.servers import Role, ServerName
from homeport.trust.certificates import Issuer, make_request, make_root, new_key, read_request, to_pem
from homeport.trust.identity import Identity

ONE, OTHER = "1" * 32, "2" * 32


class Authority:
    """``folder``: where the identities lie."""

    def __init__(self, folder: Path, vault: str = ONE) -> None:
        self._folder = folder
        self.vault = vault
        key = new_key()
        self.issuer = Issuer(make_root(vault, key, datetime.now(UTC)), key)

    def identity(self, role: Role, site: str, name: str) -> Identity:
        key = new_key()
        who = ServerName(self.vault, role, site, name)
        certificate = self.issuer.issue(read_request(make_request(key, name)), who, datetime.now(UTC))
        folder = self._folder / self.vault / name
        return Identity.create(folder, key, to_pem(certificate), to_pem(self.issuer.certificate))

    def revoke(self, *revoked: Identity, told: Identity) -> None:
        at = datetime.now(UTC)
        told.take_revocations(self.issuer.revocations([(each.serial, at) for each in revoked], 1, at))
