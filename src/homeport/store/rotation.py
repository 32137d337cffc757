"""Changing what unlocks a store, without rewriting data: ways to unlock, and the vault's key itself.

A rotation wraps every machine's key anew, under a new vault key:

    revision n+1: both generations unlock, the old one is in force → each machine's key under the new generation
    → revision n+2: the new one alone → delete what the old one wrapped

A crash at any step leaves every machine readable by who could read it before, or by who can after: until n+2 by both.
The machines' own keys, and so all data, stay. (To replace a machine's key as well, begin a new machine id with a full
copy: a key lives as long as the segments that it sealed.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homeport.domain.logs import get_logger
from homeport.store import names, unlock, vaultfile
from homeport.store.errors import AlreadyExists, Corrupt, Locked, StoreError, WrongKey
from homeport.store.keys import Opener, VaultKey, machines, open_generation, open_vault, unwrap_machine, wrap_machine
from homeport.store.objects import Objects
from homeport.store.unlock import Secret
from homeport.store.vaultfile import VaultFile

log = get_logger(__name__)


@dataclass(frozen=True)
class Rotated:
    """``generation``: now in force; ``machines``: whose keys were wrapped anew; ``resumed``: a rotation that had been
    interrupted was completed, rather than a new one made; ``dropped``: ways (ids) that unlock no longer."""

    generation: int
    machines: list[str]
    resumed: bool
    dropped: list[str]


def add_way(objects: Objects, opener: Opener, new: Secret, label: str = "") -> None:
    """One more way to unlock. Raises WrongKey, StoreError (``store.way-exists``, ``store.keys-busy``,
    ``store.rotation-unfinished``)."""
    found, vault = _settled(objects, opener)
    if any(way["id"] == unlock.way_id(new) for way in found.unlock):
        raise StoreError(
            f"{unlock.way_id(new)} unlocks this store already",
            code="store.way-exists",
            remedy="`homeport store key list` shows what unlocks it.",
        )
    way = unlock.wrap(vault.id, vault.generation, vault.key, new, label)
    vaultfile.save(objects, found.next(unlock=[*found.unlock, way]))


def remove_way(objects: Objects, opener: Opener, way: str) -> None:
    """``way``: its id. Who kept the vault's key that it unlocked can still use that: rotate where this matters.
    Raises WrongKey, StoreError (``store.way-not-found``, ``store.last-way``, …)."""
    found, _ = _settled(objects, opener)
    left = [one for one in found.unlock if one["id"] != way]
    if len(left) == len(found.unlock):
        raise StoreError(
            f"nothing named {way} unlocks this store",
            code="store.way-not-found",
            remedy="`homeport store key list` shows what unlocks it.",
        )
    if not left or (not isinstance(opener, VaultKey) and unlock.way_id(opener) == way):
        raise StoreError(
            "the way that unlocks the store now can't be removed"
            if left
            else "nothing would unlock this store any more",
            code="store.last-way",
            remedy="Unlock it with another passphrase or key file to remove this one.",
        )
    vaultfile.save(objects, found.next(unlock=left))


def change_passphrase(objects: Objects, opener: Opener, new: str) -> None:
    """Replace the recovery passphrase (or give one to a store that has key files only). The vault's key stays: who had
    the old passphrase and a copy of the old vault file can still read; rotate where this matters."""
    found, vault = _settled(objects, opener)
    way = unlock.wrap(vault.id, vault.generation, vault.key, new)
    others = [one for one in found.unlock if one["kind"] != unlock.PASSPHRASE]
    vaultfile.save(objects, found.next(unlock=[way, *others]))


def rotate(
    objects: Objects,
    opener: Opener,
    keep: Sequence[Secret] = (),
    *,
    new_passphrase: str | None = None,
    drop_others: bool = False,
    fresh: VaultKey | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rotated:
    """Give the vault a new key. It is unlocked by ``opener`` and ``keep`` (``new_passphrase`` in place of a passphrase
    among them); other ways can't be carried over, as their secrets aren't here: with ``drop_others`` they end, without
    it this is refused (StoreError ``store.ways-would-end``). ``fresh``: the new key, where the caller must know it.

    One that was interrupted is completed instead where these secrets unlock its new key, and else taken back first.
    ``progress``: machines done, and in all. Raises as above, and StoreError (``store.keys-busy``)."""
    found = vaultfile.load(objects)
    old = open_vault(objects, opener)
    given = [*([] if isinstance(opener, VaultKey) else [opener]), *keep]
    secrets = _successors(given, new_passphrase)
    if found.pending is not None:
        new = _pending_key(found, [*secrets, *given])
        if new is not None:
            return _complete(objects, found, old, new, progress, resumed=True)
        found = _take_back(objects, found)
    elif _clear_old(objects, found):
        # Complete but for what it left behind.
        return Rotated(found.generation, [], resumed=True, dropped=[])
    if not secrets:
        raise StoreError(
            "nothing would unlock this store any more",
            code="store.last-way",
            remedy="Give a new passphrase, or key files to keep.",
        )
    dropped = [way["id"] for way in found.unlock if way["id"] not in {unlock.way_id(one) for one in secrets}]
    if dropped and not drop_others:
        raise StoreError(
            f"these would no longer unlock the store: {', '.join(dropped)}",
            code="store.ways-would-end",
            remedy="Give their key files (or the passphrase) too, so that they are kept; or say --drop-others.",
            ways=dropped,
        )
    for machine in machines(objects):
        unwrap_machine(objects, old, machine)  # one that can't be carried over stops this before it begins
    # No revision counts twice, so no generation is begun twice, whatever a paused process does later.
    generation = found.revision + 1
    new = VaultKey(found.vault, fresh.key if fresh else os.urandom(32), generation)
    labels = {way["id"]: way.get("label", "") for way in found.unlock}
    ways = [unlock.wrap(new.id, generation, new.key, one, labels.get(unlock.way_id(one), "")) for one in secrets]
    both = found.next(unlock=[*found.unlock, *ways], generations={**found.generations, generation: new.key_id})
    vaultfile.save(objects, both)
    return _complete(objects, both, old, new, progress, resumed=False)


def _successors(secrets: Sequence[Secret], new_passphrase: str | None) -> list[Secret]:
    """Each once; the new passphrase stands for the old."""
    result: dict[str, Secret] = {}
    for secret in secrets:
        result[unlock.way_id(secret)] = secret
    if new_passphrase is not None:
        result[unlock.PASSPHRASE] = new_passphrase
    return list(result.values())


def _pending_key(found: VaultFile, secrets: Sequence[Secret]) -> VaultKey | None:
    assert found.pending is not None
    for secret in secrets:
        with contextlib.suppress(WrongKey):
            return open_generation(found, found.pending, secret)
    return None


def _complete(
    objects: Objects,
    both: VaultFile,
    old: VaultKey,
    new: VaultKey,
    progress: Callable[[int, int], None] | None,
    *,
    resumed: bool,
) -> Rotated:
    # Writers make no machine's key while both generations are there (keys.machine_key looks after its put), so this
    # list holds all there will be.
    every = machines(objects)
    for number, machine in enumerate(every, 1):
        place = names.machine_key(machine, new.generation)
        key = unwrap_machine(objects, old, machine)
        with contextlib.suppress(AlreadyExists):
            objects.put(place, wrap_machine(new, key, place))
        if unwrap_machine(objects, new, machine) != key:
            raise Corrupt(f"{place} holds another key than the machine's", object=place)
        if progress is not None:
            progress(number, len(every))
    after = both.next(
        unlock=both.ways(new.generation), generation=new.generation, generations={new.generation: new.key_id}
    )
    vaultfile.save(objects, after)
    _clear_old(objects, after)
    dropped = {way["id"] for way in both.unlock} - {way["id"] for way in after.unlock}
    log.info("the vault's key was replaced", generation=new.generation, machines=len(every))
    return Rotated(new.generation, every, resumed, sorted(dropped))


def _take_back(objects: Objects, found: VaultFile) -> VaultFile:
    """An interrupted rotation whose new key nobody here can unlock: the old generation is in force still."""
    before = found.next(unlock=found.ways(), generations={found.generation: found.generations[found.generation]})
    vaultfile.save(objects, before)
    return before


def _key_objects(objects: Objects) -> list[tuple[str, int]]:
    """Wrapped machines' keys and their generations."""
    result = []
    for key, _ in objects.list("machines/"):
        parts = key.split("/")
        if parts[2] == "key" and len(parts) == 4:
            result.append((key, int(parts[3])))
    return result


def _clear_old(objects: Objects, found: VaultFile) -> bool:
    """Delete what generations before the one in force wrapped, where the one in force has wrapped it too. What the
    storage keeps locked stays for a later call. False: nothing was deleted."""
    wrapped = _key_objects(objects)
    renewed = {key.split("/")[1] for key, generation in wrapped if generation == found.generation}
    old = [key for key, generation in wrapped if generation < found.generation and key.split("/")[1] in renewed]
    deleted = False
    for key in old:
        try:
            objects.delete(key)
            deleted = True
        except Locked as error:
            log.info("an old key is kept by the storage", key=key, why=error.cause)
    return deleted


def _settled(objects: Objects, opener: Opener) -> tuple[VaultFile, VaultKey]:
    """The vault's file as no rotation works on it, unlocked."""
    found = vaultfile.load(objects)
    vault = open_generation(found, found.generation, opener)
    if found.pending is not None:
        raise StoreError(
            "a key rotation of this store was interrupted, or runs now",
            code="store.rotation-unfinished",
            remedy="Complete it first: `homeport store key rotate` with the same key files and passphrase.",
        )
    return found, vault
