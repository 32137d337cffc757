"""The vault's own secrets, in its state folder: the API's token, the vault's key, and the recovery passphrase until
the operator has confirmed that it is kept elsewhere.

``token``            what every caller of the API shows
``vault-key.json``   {"id": …, "key": …}, both hex: wraps the machines' keys; kept open (0600) so that the vault
                     restarts unattended
``passphrase``       opens a bucket without the vault; deleted when confirmed
"""

from __future__ import annotations

import hmac
import json
import secrets as random
from dataclasses import dataclass
from pathlib import Path

from homeport.domain.errors import HomeportError
from homeport.trust.passphrases import new_passphrase, plain
from homeport.trust.private import write_private


class WrongPassphrase(HomeportError):
    code = "vault.passphrase-wrong"
    remedy = "Type it as the first `homeport up` showed it; it lies in the state folder until it is confirmed."


@dataclass
class Secrets:
    """``first_passphrase``: set only by the start that made it, so that it can be shown once."""

    state: Path
    token: str
    vault_id: str
    vault_key: str
    first_passphrase: str | None = None

    @staticmethod
    def kept(state: Path) -> bool:
        """Whether the folder has a vault's key."""
        return (state / "vault-key.json").exists()

    @classmethod
    def open(cls, state: Path) -> Secrets:
        """What the state folder holds; what is missing is made. A folder without a key gets a passphrase too."""
        token_file, key_file, passphrase_file = state / "token", state / "vault-key.json", state / "passphrase"
        if not token_file.exists():
            write_private(token_file, random.token_urlsafe(32))
        first = None
        if not key_file.exists():
            # The passphrase first: a key without it, left by a crash, would never get one.
            if not passphrase_file.exists():
                write_private(passphrase_file, new_passphrase())
            first = passphrase_file.read_text().strip()
            write_private(key_file, json.dumps({"id": random.token_hex(16), "key": random.token_hex(32)}))
        key = json.loads(key_file.read_text())
        return cls(state, token_file.read_text().strip(), key["id"], key["key"], first)

    @classmethod
    def create(cls, state: Path, vault_id: str, vault_key: str) -> Secrets:
        """Of a vault that was lost, in a new folder: its own key, a fresh token; the passphrase is the operator's."""
        write_private(state / "token", random.token_urlsafe(32))
        write_private(state / "vault-key.json", json.dumps({"id": vault_id, "key": vault_key}))
        return cls.open(state)

    @property
    def passphrase(self) -> str | None:
        """The recovery passphrase; None once it is confirmed."""
        try:
            return (self.state / "passphrase").read_text().strip()
        except FileNotFoundError:
            return None

    @property
    def passphrase_confirmed(self) -> bool:
        return not (self.state / "passphrase").exists()

    def confirm_passphrase(self, passphrase: str) -> None:
        """The operator keeps it: delete it here. Confirmed already: fine. Raises :class:`WrongPassphrase`."""
        kept = self.passphrase
        if kept is None:
            return
        if not hmac.compare_digest(plain(kept).encode(), plain(passphrase).encode()):
            raise WrongPassphrase("This is not the vault's recovery passphrase.")
        (self.state / "passphrase").unlink(missing_ok=True)

    def token_matches(self, shown: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.token.encode(), shown.encode())
