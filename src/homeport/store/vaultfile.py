"""The vault's file in a bucket: which ways unlock the vault's key (docs/store-format.md, "Keys that encrypt").

Each change is a new revision, created if absent; the highest counts. So of two who change it at once, one is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from homeport.store import names
from homeport.store.errors import AlreadyExists, Corrupt, Locked, NotFound, StoreError
from homeport.store.objects import Objects
from homeport.store.unlock import canonical

FORMAT = "homeport vault"
_MOST_WAYS = 64
_LONGEST = 1 << 20


@dataclass(frozen=True)
class VaultFile:
    """``generations``: number → id of the vault keys in use: one, or two while the key is being replaced (the higher
    is then not in force yet). ``unlock``: the ways, each with the generation that it unlocks."""

    vault: str
    revision: int
    generation: int
    generations: dict[int, str]
    unlock: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return names.vault(self.revision)

    @property
    def pending(self) -> int | None:
        """The generation that a rotation, unfinished as yet, is bringing."""
        return max((number for number in self.generations if number > self.generation), default=None)

    def ways(self, generation: int | None = None) -> list[dict[str, Any]]:
        """Of a generation; None: of the one in force."""
        wanted = self.generation if generation is None else generation
        return [way for way in self.unlock if way["generation"] == wanted]

    def next(self, **changes: Any) -> VaultFile:
        return replace(self, revision=self.revision + 1, **changes)

    def to_bytes(self) -> bytes:
        data = {
            "format": FORMAT,
            "version": 1,
            "vault": self.vault,
            "revision": self.revision,
            "generation": self.generation,
            "generations": {str(number): id for number, id in sorted(self.generations.items())},
            "unlock": self.unlock,
        }
        return (json.dumps({**data, "check": _check(data)}, indent=2) + "\n").encode()

    @classmethod
    def parse(cls, raw: bytes, key: str) -> VaultFile:
        """Raises Corrupt."""
        try:
            if len(raw) > _LONGEST:
                raise ValueError
            data = json.loads(raw)
            if data["format"] != FORMAT or data.pop("check") != _check(data):
                raise ValueError
            if data["version"] != 1:
                raise Corrupt(f"{key} is of version {data['version']}, this is version 1", object=key)
            found = cls(
                data["vault"],
                data["revision"],
                data["generation"],
                {int(number): id for number, id in data["generations"].items()},
                data["unlock"],
            )
            numbers = [found.revision, found.generation, *(way["generation"] for way in found.unlock)]
            if (
                not _is_id(found.vault)
                or not all(_is_id(id) for id in found.generations.values())
                or not all(type(number) is int and 0 < number < 10**10 for number in numbers)
                or found.generation not in found.generations
                or len(found.unlock) > _MOST_WAYS
                or not all(isinstance(way["id"], str) and isinstance(way["kind"], str) for way in found.unlock)
            ):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Corrupt(f"{key} is damaged", object=key) from None
        return found


def _is_id(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 128 and text.isascii()


def _check(data: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()


def load(objects: Objects) -> VaultFile:
    """The revision that counts. Raises NotFound (``store.no-vault``), Corrupt."""
    for _ in range(8):
        keys = [key for key, _ in objects.list(names.VAULT)]
        if not keys:
            raise NotFound(
                f"there is nothing under {names.VAULT}: this is not a recovery store",
                code="store.no-vault",
                remedy="Check the store's URL.",
            )
        try:
            found = VaultFile.parse(objects.get(keys[-1]), keys[-1])
        except NotFound:
            continue  # replaced between the list and the read
        if found.key != keys[-1]:
            raise Corrupt(f"{keys[-1]} holds revision {found.revision}: it was moved here", object=keys[-1])
        return found
    raise StoreError(f"{names.VAULT} changes faster than it can be read")


def save(objects: Objects, changed: VaultFile) -> None:
    """Make ``changed`` (made by :meth:`VaultFile.next`) the revision that counts, then delete older ones. Raises
    StoreError (``store.keys-busy``: somebody else changed it meanwhile; nothing was done)."""
    busy = StoreError(
        "somebody else changes the keys of this store at this moment",
        code="store.keys-busy",
        remedy="Look at `homeport store key list`, then try again.",
    )
    try:
        objects.put(changed.key, changed.to_bytes())
    except AlreadyExists:
        raise busy from None
    keys = [key for key, _ in objects.list(names.VAULT)]
    if keys[-1] != changed.key:
        # This number had been used and deleted already: we looked too long ago.
        with contextlib.suppress(Locked):
            objects.delete(changed.key)
        raise busy
    for key in keys[:-1]:
        with contextlib.suppress(Locked):  # it counts no longer, and goes with a later change
            objects.delete(key)
