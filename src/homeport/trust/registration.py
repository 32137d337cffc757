"""The registration key: a file with which one configuration server joins one vault, unattended.

    {"format": "homeport registration key", "version": 1, "id": …, "vault": …, "site": …, "urls": […],
     "authority": PEM, "expires": …, "secret": hex, "signature": hex}

The vault's authority signs all of it but the signature. It holds what the server needs to know the vault by (the
authority), and what the vault needs to know the server by (the secret); so it is to be carried as a password is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.trust.certificates import CertificateInvalid, Issuer, from_pem, signed_by

FORMAT = "homeport registration key"
VERSION = 1


class KeyInvalid(HomeportError):
    code = "registration.invalid"
    remedy = "Name the file that `homeport vault key new` wrote."


class KeyTampered(HomeportError):
    code = "registration.tampered"
    remedy = "Don't use it. Make another with `homeport vault key new`, and carry it another way."


@dataclass(frozen=True)
class RegistrationKey:
    """``urls``: where the vault is reached; ``authority``: PEM; ``replace``: the server takes the place of the site's
    present configuration server."""

    id: str
    vault: str
    site: str
    urls: tuple[str, ...]
    authority: str
    expires: datetime
    secret: str
    replace: bool
    signature: str

    @classmethod
    def make(
        cls,
        issuer: Issuer,
        *,
        id: str,
        vault: str,
        site: str,
        urls: tuple[str, ...],
        authority: str,
        expires: datetime,
        secret: str,
        replace: bool,
    ) -> RegistrationKey:
        draft = cls(id, vault, site, urls, authority, expires, secret, replace, "")
        return cls(id, vault, site, urls, authority, expires, secret, replace, issuer.sign(draft._signed()))

    @classmethod
    def parse(cls, text: str) -> RegistrationKey:
        """Raises :class:`KeyInvalid`, :class:`KeyTampered` (it is not what its own authority signed)."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise KeyInvalid("This is no registration key of a Homeport vault.")
            if data["version"] != VERSION:
                raise KeyInvalid(f"The registration key has version {data['version']}; this Homeport knows {VERSION}.")
            found = cls(
                id=str(data["id"]),
                vault=str(data["vault"]),
                site=str(data["site"]),
                urls=tuple(str(url) for url in data["urls"]),
                authority=str(data["authority"]),
                expires=datetime.fromisoformat(data["expires"]),
                secret=str(data["secret"]),
                replace=bool(data["replace"]),
                signature=str(data["signature"]),
            )
            found.verify(found.authority)
        except (ValueError, KeyError, TypeError) as error:
            raise KeyInvalid("This is no registration key of a Homeport vault, or it is cut off.") from error
        except CertificateInvalid as error:
            raise KeyTampered("The authority in the registration key can't be read.") from error
        return found

    def verify(self, authority: str) -> None:
        """Raises :class:`KeyTampered` unless that authority (PEM) signed it as it is."""
        if not signed_by(from_pem(authority), self._signed(), self.signature):
            raise KeyTampered(f"The registration key {self.id} is not as the vault's authority signed it.")

    def to_text(self) -> str:
        return json.dumps({**self._content(), "signature": self.signature}, indent=1) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.id,
            "vault": self.vault,
            "site": self.site,
            "replace": self.replace,
            "urls": list(self.urls),
            "expires": self.expires.isoformat(),
            "secret": self.secret,
            "authority": self.authority,
        }

    def _signed(self) -> bytes:
        return (
            b"homeport registration key 1\n"
            + json.dumps(self._content(), sort_keys=True, separators=(",", ":")).encode()
        )
