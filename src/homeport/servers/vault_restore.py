"""A lost vault made again out of recovery stores: opens them, and hands what it finds to the vault's own rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL

from homeport.bucket.opening import Bucket, StoredMachine
from homeport.domain.points import PointId
from homeport.store import vault_backups
from homeport.store.errors import StoreError
from homeport.store.keys import Opener, sealed_header
from homeport.store.vault_backups import BackupNotFound, VaultBackup
from homeport.vault import dump, engines
from homeport.vault.found import FoundMachine, FoundStore, FoundTimeline
from homeport.vault.restore import Identity, NewVault, rebuild_vault, restore_vault

_STORE = "/.homeport/store"
"""Where a site's store lies in its folder, unless it was set elsewhere."""


@dataclass(frozen=True)
class Source:
    """The stores of one vault."""

    buckets: list[Bucket]
    who: Identity


def restore(
    urls: list[str], secret: Opener, state: Path, *, backup: str | None = None, database: str | None = None
) -> dict[str, Any]:
    """From a backup (None: the newest) in one of the stores. Answers what `homeport vault restore` says. Raises
    BackupNotFound, StateNotEmpty, BackupInvalid, the store's errors."""
    source = _open(urls, secret)
    bucket, chosen = _choose(source.buckets, backup)
    content = dump.parse(vault_backups.read(bucket.objects, bucket.vault, chosen.id))
    made = restore_vault(state, source.who, content, _look(source), database=_address(database))
    return {**_told(made), "backup": chosen.id, "created": content.created.isoformat(), "cut_off": made.failed}


def rebuild(
    urls: list[str],
    secret: Opener,
    state: Path,
    *,
    folders: Mapping[str, str] | None = None,
    database: str | None = None,
) -> dict[str, Any]:
    """Without a backup. Answers what `homeport vault rebuild` says. Raises StateNotEmpty, the store's errors."""
    source = _open(urls, secret)
    return _told(rebuild_vault(state, source.who, _look(source), folders=folders, database=_address(database)))


def _told(made: NewVault) -> dict[str, Any]:
    found = made.rebuilt
    return {"state": str(made.state), "sites": found.sites, "items": found.items, "checks": found.checks}


def _open(urls: list[str], secret: Opener) -> Source:
    buckets = [Bucket(url, secret) for url in urls]
    vault = buckets[0].vault
    for bucket in buckets[1:]:
        if (bucket.vault.id, bucket.vault.key) != (vault.id, vault.key):
            raise StoreError(
                f"{bucket.url} belongs to vault {bucket.vault.id} (or its key was replaced), "
                f"{buckets[0].url} to {vault.id}",
                code="store.other-vault",
                remedy="Name stores of one vault only; leave one out whose key was rotated.",
            )
    return Source(buckets, Identity(vault.id, vault.key.hex(), sealed_header(buckets[0].objects)))


def _choose(buckets: list[Bucket], wanted: str | None) -> tuple[Bucket, VaultBackup]:
    there = [(bucket, backup) for bucket in buckets for backup in vault_backups.listed(bucket.objects)]
    found = [(bucket, backup) for bucket, backup in there if wanted in (None, backup.id)]
    if not found:
        what = f"no backup {wanted!r} of the vault" if wanted else "no backup of the vault"
        raise BackupNotFound(f"there is {what} in the stores named", backups=sorted({each.id for _, each in there}))
    return max(found, key=lambda pair: pair[1].id)


def _address(database: str | None) -> URL | None:
    return engines.address_of(database) if database is not None else None


def _look(source: Source) -> list[FoundStore]:
    return [
        FoundStore(bucket.url, _folder(bucket.url), {one.uuid: _machine(one) for one in bucket.machines()})
        for bucket in source.buckets
    ]


def _folder(url: str) -> str | None:
    parts = urlsplit(url)
    path = unquote(parts.path).rstrip("/")
    return path.removesuffix(_STORE) if parts.scheme == "file" and path.endswith(_STORE) else None


def _machine(stored: StoredMachine) -> FoundMachine:
    store = stored.store
    timelines = {
        info.id: FoundTimeline(
            info.id, info.parent, info.origin, info.created, info.ended, store.points(info.id, hidden=True)
        )
        for info in store.timelines()
    }
    leases: dict[str, PointId] = {lease.owner: lease.point for lease in store.leases()}
    descriptions: list[dict[str, Any]] = list(store.descriptions())
    return FoundMachine(stored.uuid, store.keys.key.hex(), descriptions, timelines, leases)
