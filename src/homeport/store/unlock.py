"""Ways to unlock a vault: the recovery passphrase or a key file (docs/store-format.md, "Keys that encrypt").

Each way wraps the vault's key under a key of its own: Argon2id of the passphrase, or HKDF of a key file's 32 random
bytes. What a way says of itself is associated data, so that nothing of it can be changed unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from homeport.store import derivation, sealed
from homeport.store.errors import StoreError, WrongKey

PASSPHRASE, KEY_FILE = "passphrase", "key-file"

_LINE = re.compile(r"homeport-key-file 1 ([0-9a-f]{64}) ([0-9a-f]{8})")


@dataclass(frozen=True)
class KeyFile:
    """32 random bytes that unlock vaults, kept in a text file."""

    key: bytes = field(repr=False)

    @classmethod
    def create(cls) -> KeyFile:
        return cls(os.urandom(32))

    @property
    def id(self) -> str:
        """Sixteen hex digits that tell key files apart, and tell nothing of the key."""
        return sealed.derive(self.key, None, b"homeport key file id 1")[:8].hex()

    def to_text(self) -> str:
        return (
            f"# Homeport key file {self.id}: it opens recovery stores as their passphrase does. Keep it secret.\n"
            f"homeport-key-file 1 {self.key.hex()} {_key_check(self.key)}\n"
        )

    @classmethod
    def parse(cls, text: str) -> KeyFile:
        """Raises StoreError (``store.key-file-damaged``)."""
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        match = _LINE.fullmatch(lines[0]) if len(lines) == 1 else None
        if match is None or _key_check(bytes.fromhex(match[1])) != match[2]:
            raise StoreError(
                "this is no key file, or it is damaged: its checksum is wrong",
                code="store.key-file-damaged",
                remedy="Use another copy of the key file, or the recovery passphrase.",
            )
        return cls(bytes.fromhex(match[1]))

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Raises OSError, StoreError (``store.key-file-damaged``)."""
        with path.open("rb") as file:
            return cls.parse(file.read(4096).decode("ascii", "replace"))

    def write(self, path: Path) -> None:
        """A new file, readable by its owner only, durable. Raises OSError (FileExistsError: nothing is overwritten)."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.to_text())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _key_check(key: bytes) -> str:
    return hashlib.sha256(b"homeport key file 1" + key).hexdigest()[:8]


Secret = str | KeyFile
"""The recovery passphrase, or a key file."""


def way_id(secret: Secret) -> str:
    """By what a way is named: a key file's id, or ``passphrase``."""
    return secret.id if isinstance(secret, KeyFile) else PASSPHRASE


def kind_of(secret: Secret) -> str:
    return KEY_FILE if isinstance(secret, KeyFile) else PASSPHRASE


def wrap(vault: str, generation: int, key: bytes, secret: Secret, label: str = "") -> dict[str, Any]:
    """A way: the vault's key of this generation under ``secret``."""
    way: dict[str, Any] = {
        "id": way_id(secret),
        "kind": kind_of(secret),
        "generation": generation,
        "label": label,
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "salt": (os.urandom(16) if isinstance(secret, KeyFile) else derivation.fresh_salt(secret.encode())).hex(),
        "cipher": "AES-256-GCM",
    }
    if not isinstance(secret, KeyFile):
        costs = {"memory_kib": derivation.MEMORY_KIB, "passes": derivation.PASSES, "lanes": derivation.LANES}
        way["kdf"] = {"name": "argon2id", **costs}
    nonce = os.urandom(12)
    wrapped = _cipher(way, vault, secret).encrypt(nonce, key, _associated(way, vault))
    return {**way, "nonce": nonce.hex(), "wrapped": wrapped.hex()}


def unwrap(vault: str, way: dict[str, Any], secret: Secret) -> bytes:
    """The vault's key out of a way. Raises WrongKey, StoreError (``store.unlock-refused``: its key derivation is
    weaker than any that was ever written, or out of all bounds)."""
    try:
        nonce, wrapped = bytes.fromhex(way["nonce"]), bytes.fromhex(way["wrapped"])
        key = _cipher(way, vault, secret).decrypt(nonce, wrapped, _associated(way, vault))
        if len(key) != 32:
            raise ValueError
    except InvalidTag:
        raise wrong(secret) from None
    except (KeyError, TypeError, ValueError):
        raise _refused(way, "is not written as this version knows it") from None
    return key


def wrong(secret: Secret) -> WrongKey:
    if isinstance(secret, KeyFile):
        return WrongKey(
            f"the key file {secret.id} doesn't open this store",
            code="store.wrong-key-file",
            remedy="Use another key file, or the recovery passphrase; `homeport store key list` shows what opens it.",
        )
    return WrongKey("the passphrase doesn't open this store")


def _refused(way: Any, why: str) -> StoreError:
    name = way.get("id") if isinstance(way, dict) else None
    return StoreError(
        f"the way to unlock {name!r} {why}",
        code="store.unlock-refused",
        remedy="Somebody changed it, or a newer Homeport wrote it. Unlock with another key; see who can write there.",
    )


def _associated(way: dict[str, Any], vault: str) -> bytes:
    said = {name: value for name, value in way.items() if name not in ("nonce", "wrapped")}
    return b"homeport unlock 1" + sealed.text_field(vault) + canonical(said)


def canonical(data: dict[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces, in ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _cipher(way: dict[str, Any], vault: str, secret: Secret) -> AESGCM:
    salt = bytes.fromhex(way["salt"])
    if way["cipher"] != "AES-256-GCM" or way["kind"] != kind_of(secret) or len(salt) != 16:
        raise ValueError
    if isinstance(secret, KeyFile):
        return AESGCM(sealed.derive(secret.key, salt, b"homeport key file 1" + sealed.text_field(vault)))
    memory, passes, lanes = costs(way)
    if why := derivation.refusal(memory, passes, lanes):
        raise _refused(way, why)
    return AESGCM(derivation.argon2id(secret.encode(), salt, memory, passes, lanes))


def costs(way: dict[str, Any]) -> tuple[int, int, int]:
    """Memory (KiB), passes and lanes of a way by passphrase. Raises ValueError, KeyError, TypeError."""
    kdf = way["kdf"]
    memory, passes, lanes = kdf["memory_kib"], kdf["passes"], kdf["lanes"]
    if kdf["name"] != "argon2id" or not all(type(number) is int for number in (memory, passes, lanes)):
        raise ValueError
    return memory, passes, lanes
