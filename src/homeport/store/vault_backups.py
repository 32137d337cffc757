"""Backups of a vault beside the recovery points: sealed with the vault's key, so that the bucket and the passphrase are
enough to have the vault again (docs/store-format.md, "Backups of the vault").

A backup is written once, under a name of its own, and read back before an older one may go.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from homeport.store import names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, Locked, NotFound, StoreError
from homeport.store.keys import VaultKey
from homeport.store.objects import Objects

_ID = re.compile(r"(\d{8}T\d{6})Z-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S"


class BackupNotFound(StoreError):
    code = "store.backup-not-found"
    remedy = "See `homeport vault backups` for those that are there, or rebuild with `homeport vault rebuild`."


@dataclass(frozen=True)
class VaultBackup:
    """``created``: UTC, to the second; ``size``: bytes in the bucket."""

    id: str
    created: datetime
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created.isoformat(), "size": self.size}


def write(objects: Objects, vault: VaultKey, id: str, content: bytes) -> str:
    """Store a backup and read it back; the SHA-256 (hex) of what was read. The same again: nothing. Raises
    AlreadyExists (another one has this id), Corrupt (something else was read than was written), StoreUnavailable."""
    key = names.vault_backup(_checked(id))
    head = {"backup": id, "created": _created(id).isoformat(), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        objects.put(key, sealed.seal(vault.key, vault.id, key, sealed.VAULT_BACKUP, head, [content]))
    except AlreadyExists:
        if read(objects, vault, id) != content:
            raise
    return hashlib.sha256(read(objects, vault, id)).hexdigest()


def read(objects: Objects, vault: VaultKey, id: str) -> bytes:
    """What was backed up. Raises BackupNotFound, Corrupt (also where it was sealed with an earlier key of the vault),
    StoreUnavailable."""
    key = names.vault_backup(_checked(id))
    try:
        data = objects.get(key)
    except NotFound:
        raise BackupNotFound(f"the store has no backup {id!r} of the vault", key=key) from None
    sealed.check_bytes(key, data)
    opened = sealed.open_bytes(vault.key, vault.id, key, sealed.VAULT_BACKUP, data)
    content = opened.section(1)
    if hashlib.sha256(content).hexdigest() != opened.head["sha256"]:
        raise Corrupt(f"{key}: its content is not what its head says", object=key)
    return content


def listed(objects: Objects) -> list[VaultBackup]:
    """All there are, oldest first."""
    found = []
    for key, size in objects.list(names.VAULT_BACKUPS):
        id = key.removeprefix(names.VAULT_BACKUPS)
        if _ID.fullmatch(id):
            found.append(VaultBackup(id, _created(id), size))
    return found


def prune(objects: Objects, keep: int) -> list[str]:
    """Delete all but the ``keep`` newest; the ids of what went. What the storage holds on to goes another time."""
    gone = []
    for backup in listed(objects)[: -max(keep, 1)]:
        with contextlib.suppress(Locked):
            objects.delete(names.vault_backup(backup.id))
            gone.append(backup.id)
    return gone


def _checked(id: str) -> str:
    """Raises BackupNotFound where this can't name one."""
    if not _ID.fullmatch(id):
        raise BackupNotFound(f"{id!r} names no backup of a vault (expected a name such as 20260131T120000Z-0123abcd)")
    return id


def _created(id: str) -> datetime:
    return datetime.strptime(id.split("Z", 1)[0], _TIME).replace(tzinfo=UTC)
