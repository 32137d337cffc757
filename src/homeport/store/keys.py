"""Keys: passphrase or key file → vault key → machine key → key of each object and segment (docs/store-format.md)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from functools import cached_property

from homeport.store import names, sealed, unlock, vaultfile
from homeport.store.errors import AlreadyExists, Corrupt, Locked, NotFound, StoreError, WrongKey
from homeport.store.objects import Objects
from homeport.store.unlock import Secret
from homeport.store.vaultfile import VaultFile


@dataclass(frozen=True)
class VaultKey:
    """The key that wraps all machine keys of a vault. 32 bytes. ``generation``: which of its keys, from 1."""

    id: str
    key: bytes = field(repr=False)
    generation: int = field(default=1, compare=False)

    @classmethod
    def create(cls) -> VaultKey:
        import uuid  # it loads much, and only who makes a vault needs it

        return cls(str(uuid.uuid4()), os.urandom(32))

    @cached_property
    def key_id(self) -> str:
        """Names this key and tells nothing of it: by it who holds a key knows whether it is the one in force."""
        return sealed.derive(self.key, None, b"homeport vault key id 1" + sealed.text_field(self.id))[:16].hex()


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


# -- the vault's key ---------------------------------------------------------------------------------------------------


def seal_vault(objects: Objects, vault: VaultKey, secret: Secret) -> None:
    """Write the vault's file: its key wrapped by the recovery passphrase (or a key file). Where one of this vault lies
    already, it stays as it is: its ways are changed by :mod:`homeport.store.rotation` alone. Raises StoreError
    (``store.other-vault``: another vault's store; ``store.key-rotated``: the vault has another key here)."""
    try:
        found = vaultfile.load(objects)
    except NotFound:
        first = VaultFile(vault.id, 1, 1, {1: vault.key_id}, [unlock.wrap(vault.id, 1, vault.key, secret)])
        try:
            objects.put(first.key, first.to_bytes())
            return
        except AlreadyExists:
            found = vaultfile.load(objects)
    if found.vault != vault.id:
        raise StoreError(
            f"the store belongs to vault {found.vault}, not to {vault.id}",
            code="store.other-vault",
            remedy="Give each vault a store of its own.",
        )
    if vault.key_id not in found.generations.values():
        raise rotated()


Opener = Secret | VaultKey
"""What unlocks a store; the vault's own key (as the vault's state folder has it) does so too."""


def open_vault(objects: Objects, secret: Opener) -> VaultKey:
    """The vault's key in force. Raises WrongKey, NotFound (``store.no-vault``), Corrupt, StoreError
    (``store.unlock-refused``)."""
    found = vaultfile.load(objects)
    return open_generation(found, found.generation, secret)


def open_generation(found: VaultFile, generation: int, secret: Opener) -> VaultKey:
    """The vault's key of one generation. Raises as :func:`open_vault`."""
    if isinstance(secret, VaultKey):
        if (secret.id, secret.key_id) == (found.vault, found.generations.get(generation)):
            return VaultKey(secret.id, secret.key, generation)
        raise WrongKey(
            "the vault's key doesn't open this store",
            code="store.wrong-key",
            remedy="Use the recovery passphrase or a key file: the key was replaced here, or it is another vault's.",
        )
    refused: StoreError | None = None
    for way in found.ways(generation):
        if way["kind"] != unlock.kind_of(secret) or (
            way["kind"] == unlock.KEY_FILE and way["id"] != unlock.way_id(secret)
        ):
            continue
        try:
            opened = VaultKey(found.vault, unlock.unwrap(found.vault, way, secret), generation)
        except WrongKey:
            continue
        except StoreError as error:
            refused = error
            continue
        if opened.key_id != found.generations.get(generation):
            raise Corrupt(f"{found.key} names another key than it wraps", object=found.key)
        return opened
    raise refused or unlock.wrong(secret)


def rotated() -> StoreError:
    return StoreError(
        "the vault's key was replaced in this store since, or is being replaced",
        code="store.key-rotated",
        remedy="Open the store anew. If a key rotation was interrupted, `homeport store key rotate` completes it.",
    )


def sealed_header(objects: Objects) -> str | None:
    """The vault's file as it lies here, to be placed in other stores of the vault; None: there is none."""
    try:
        return vaultfile.load(objects).to_bytes().decode()
    except NotFound:
        return None


def place_header(objects: Objects, header: str) -> None:
    """Seal an empty store with the vault's file of another. Raises AlreadyExists, Corrupt."""
    found = VaultFile.parse(header.encode(), names.VAULT)
    objects.put(found.key, found.to_bytes())


# -- machines' keys ----------------------------------------------------------------------------------------------------


def machines(objects: Objects) -> list[str]:
    """The machines that the bucket holds points of."""
    parts = (key.split("/") for key, _ in objects.list("machines/"))
    return sorted({part[1] for part in parts if part[2] == "key"})


def machine_key(objects: Objects, vault: VaultKey, machine: str, *, create: MachineKey | bool = False) -> MachineKey:
    """The machine's key, unwrapped from the bucket. Where it isn't there: ``create=True`` makes a fresh one,
    ``create=key`` stores that one (the same key at every site). Raises NotFound, WrongKey, StoreError
    (``store.other-key``: the bucket holds another key than the one given; ``store.key-rotated``)."""
    wanted = create if isinstance(create, MachineKey) else None
    if wanted is not None and (wanted.vault, wanted.machine) != (vault.id, machine):
        raise ValueError("the key given belongs to another machine or vault")
    try:
        found = unwrap_machine(objects, vault, machine)
    except NotFound:
        if not create:
            raise
        found = _create(objects, vault, wanted or MachineKey(vault.id, machine, os.urandom(32)))
    if wanted is not None and found.key != wanted.key:
        raise StoreError(
            f"the store holds another key for machine {machine}",
            code="store.other-key",
            remedy="Points sealed with it can't be continued with the vault's key; use another store.",
        )
    return found


def _create(objects: Objects, vault: VaultKey, fresh: MachineKey) -> MachineKey:
    place = names.machine_key(fresh.machine, _generation(objects, vault))
    try:
        objects.put(place, wrap_machine(vault, fresh, place))
    except AlreadyExists:
        return unwrap_machine(objects, vault, fresh.machine)
    # A rotation that began before our put may have listed the machines without it; one that begins now finds it.
    try:
        _generation(objects, vault)
    except StoreError:
        with contextlib.suppress(Locked):
            objects.delete(place)
        raise
    return fresh


def _generation(objects: Objects, vault: VaultKey) -> int:
    """Of a vault's key in force; a bucket without a vault's file (tests, a store that was never sealed) knows one only.
    Raises StoreError (``store.key-rotated``)."""
    try:
        found = vaultfile.load(objects)
    except NotFound:
        return vault.generation
    if found.pending is not None or found.generations[found.generation] != vault.key_id:
        raise rotated()
    return found.generation


def wrap_machine(vault: VaultKey, key: MachineKey, place: str) -> bytes:
    return sealed.seal(vault.key, vault.id, place, sealed.MACHINE_KEY, {"key": key.key.hex()})


def unwrap_machine(objects: Objects, vault: VaultKey, machine: str) -> MachineKey:
    """Whichever generation the vault's key is of. Raises NotFound, WrongKey, Corrupt, StoreError
    (``store.key-rotated``)."""
    places = [key for key, _ in objects.list(names.machine_keys(machine))]
    if not places:
        raise NotFound(f"the store has no key of machine {machine}", key=names.machine_keys(machine))
    for place in reversed(places):
        try:
            data = objects.get(place)
        except NotFound:
            continue
        sealed.check_bytes(place, data)
        try:
            head = sealed.open_bytes(vault.key, vault.id, place, sealed.MACHINE_KEY, data).head
        except Corrupt:
            continue  # The checksum is right, so the bytes are as written: it is the key that differs.
        return MachineKey(vault.id, machine, bytes.fromhex(head["key"]))
    try:
        in_force = vaultfile.load(objects)
    except NotFound:
        in_force = None
    if in_force is not None and in_force.vault == vault.id and vault.key_id not in in_force.generations.values():
        raise rotated()
    raise WrongKey(
        f"the vault's key doesn't open the key of machine {machine}",
        code="store.wrong-key",
        remedy="It was written by another vault: use the store of this one.",
    )
