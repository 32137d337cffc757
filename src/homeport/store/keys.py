"""Keys: passphrase → vault key → machine key → key of each object and segment (docs/store-format.md, "Keys")."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from homeport.store import names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, NotFound, StoreError, WrongKey
from homeport.store.objects import Objects

FORMAT = "homeport vault"
_KDF = {"name": "argon2id", "memory_kib": 64 << 10, "passes": 3, "lanes": 4}
_MEMORY_LIMIT_KIB = 4 << 20


@dataclass(frozen=True)
class VaultKey:
    """The key that wraps all machine keys of a vault. 32 bytes."""

    id: str
    key: bytes = field(repr=False)

    @classmethod
    def create(cls) -> VaultKey:
        return cls(str(uuid.uuid4()), os.urandom(32))


@dataclass(frozen=True)
class MachineKey:
    """The key of all that is stored of one machine. 32 bytes. The same at every site, so that digests compare."""

    vault: str
    machine: str
    key: bytes = field(repr=False)

    @cached_property
    def digest_key(self) -> bytes:
        """Keys the digests of blocks."""
        return sealed.derive(self.key, None, b"homeport block digest 1" + self._scope)

    @cached_property
    def region_key(self) -> bytes:
        """Keys the digests of regions."""
        return sealed.derive(self.key, None, b"homeport region digest 1" + self._scope)

    @property
    def _scope(self) -> bytes:
        return sealed.text_field(self.vault) + sealed.text_field(self.machine)


def _associated(vault: str, kdf: dict[str, Any]) -> bytes:
    return (
        b"homeport vault 1"
        + sealed.text_field(vault)
        + struct.pack("<III", kdf["memory_kib"], kdf["passes"], kdf["lanes"])
        + bytes.fromhex(kdf["salt"])
    )


_one_derivation = threading.Lock()
"""Two derivations of several lanes at once wait for each other for ever in OpenSSL's thread pool (seen with
cryptography 50.0.2)."""


def _wrapping_cipher(passphrase: str, kdf: dict[str, Any]) -> AESGCM:
    # Bounds: a forged file must not make us take all of the memory.
    if kdf["name"] != "argon2id" or not 0 < kdf["memory_kib"] <= _MEMORY_LIMIT_KIB or not 0 < kdf["passes"] <= 64:
        raise Corrupt(f"{names.VAULT}: its key derivation isn't one this version knows", object=names.VAULT)
    derivation = Argon2id(
        salt=bytes.fromhex(kdf["salt"]),
        length=32,
        iterations=kdf["passes"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    )
    with _one_derivation:
        return AESGCM(derivation.derive(passphrase.encode()))


def _check(data: dict[str, Any]) -> str:
    """SHA-256 over the file's JSON without its ``check``, keys sorted, no spaces."""
    rest = {key: value for key, value in data.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _load(objects: Objects) -> dict[str, Any]:
    try:
        raw = objects.get(names.VAULT)
    except NotFound:
        raise NotFound(
            f"there is no {names.VAULT}: this is not a recovery store",
            code="store.no-vault",
            remedy="Check the store's URL.",
        ) from None
    try:
        data: dict[str, Any] = json.loads(raw)
        if data["format"] != FORMAT or data["check"] != _check(data):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"{names.VAULT} is damaged", object=names.VAULT) from None
    if data["version"] != 1:
        raise Corrupt(f"{names.VAULT} is of version {data['version']}, this is version 1", object=names.VAULT)
    return data


def seal_vault(objects: Objects, vault: VaultKey, passphrase: str) -> None:
    """Write ``vault.json``: the vault's key wrapped by the recovery passphrase. Idempotent; another passphrase for
    the same vault replaces the old one. Raises StoreError (``store.other-vault``) where another vault lies here."""
    try:
        existing = _load(objects)
    except NotFound:
        existing = None
    if existing is not None:
        if existing["vault"] != vault.id:
            raise _other_vault(existing["vault"], vault.id)
        try:
            if open_vault(objects, passphrase) == vault:
                return
        except WrongKey:
            pass
    kdf = {**_KDF, "salt": os.urandom(16).hex()}
    fresh = os.urandom(12)
    wrapped = _wrapping_cipher(passphrase, kdf).encrypt(fresh, vault.key, _associated(vault.id, kdf))
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "vault": vault.id,
        "kdf": kdf,
        "cipher": "AES-256-GCM",
        "nonce": fresh.hex(),
        "wrapped": wrapped.hex(),
    }
    data["check"] = _check(data)
    text = (json.dumps(data, indent=2) + "\n").encode()
    try:
        objects.put(names.VAULT, text, if_absent=existing is None)
    except AlreadyExists:
        other = _load(objects)["vault"]
        if other != vault.id:
            raise _other_vault(other, vault.id) from None


def _other_vault(found: str, wanted: str) -> StoreError:
    return StoreError(
        f"the store belongs to vault {found}, not to {wanted}",
        code="store.other-vault",
        remedy="Give each vault a store of its own.",
    )


def open_vault(objects: Objects, passphrase: str) -> VaultKey:
    """The vault's key out of ``vault.json``. Raises WrongKey, NotFound (``store.no-vault``), Corrupt."""
    data = _load(objects)
    try:
        key = _wrapping_cipher(passphrase, data["kdf"]).decrypt(
            bytes.fromhex(data["nonce"]), bytes.fromhex(data["wrapped"]), _associated(data["vault"], data["kdf"])
        )
    except InvalidTag:
        raise WrongKey("the passphrase doesn't open this store") from None
    return VaultKey(data["vault"], key)


def machines(objects: Objects) -> list[str]:
    """The machines that the bucket holds points of."""
    return sorted({key.split("/")[1] for key, _ in objects.list("machines/") if key.endswith("/key")})


def machine_key(objects: Objects, vault: VaultKey, machine: str, *, create: MachineKey | bool = False) -> MachineKey:
    """The machine's key, unwrapped from the bucket. Where it isn't there: ``create=True`` makes a fresh one,
    ``create=key`` stores that one (the same key at every site). Raises NotFound, WrongKey, StoreError
    (``store.other-key``: the bucket holds another key than the one given)."""
    place = names.machine_key(machine)
    wanted = create if isinstance(create, MachineKey) else None
    if wanted is not None and (wanted.vault, wanted.machine) != (vault.id, machine):
        raise ValueError("the key given belongs to another machine or vault")
    try:
        found = _unwrap(objects, vault, machine, place)
    except NotFound:
        if not create:
            raise
        fresh = wanted or MachineKey(vault.id, machine, os.urandom(32))
        data = sealed.seal(vault.key, vault.id, place, sealed.MACHINE_KEY, {"key": fresh.key.hex()})
        try:
            objects.put(place, data)
            return fresh
        except AlreadyExists:
            found = _unwrap(objects, vault, machine, place)
    if wanted is not None and found.key != wanted.key:
        raise StoreError(
            f"the store holds another key for machine {machine}",
            code="store.other-key",
            remedy="Points sealed with it can't be continued with the vault's key; use another store.",
        )
    return found


def _unwrap(objects: Objects, vault: VaultKey, machine: str, place: str) -> MachineKey:
    data = objects.get(place)
    sealed.check_bytes(place, data)
    try:
        head = sealed.open_bytes(vault.key, vault.id, place, sealed.MACHINE_KEY, data).head
    except Corrupt:
        # The checksum is right, so the bytes are as written: it is the key that differs.
        raise WrongKey(f"the vault's key doesn't open {place}", code="store.wrong-key") from None
    return MachineKey(vault.id, machine, bytes.fromhex(head["key"]))
