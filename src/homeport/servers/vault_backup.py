"""A site keeps backups of its vault in its recovery store: what is asked of it, and how it answers."""

from __future__ import annotations

import base64
from typing import Any

import structlog

from homeport.store import vault_backups
from homeport.store.compression import decompress
from homeport.store.errors import StoreError
from homeport.store.keys import VaultKey
from homeport.store.objects import Objects

log = structlog.get_logger(__name__)

MOST = 1 << 30
"""Bytes of a backup, at most."""


def store_backup(objects: Objects, vault: VaultKey, params: dict[str, Any]) -> dict[str, Any]:
    """Write a backup, read it back, then drop those beyond ``keep``. Answers with the digest of what was read."""
    content = decompress(base64.b64decode(params["content"]), MOST)
    digest = vault_backups.write(objects, vault, params["backup"], content)
    try:
        vault_backups.prune(objects, int(params["keep"]))
    except StoreError as error:  # the new one is there: what is too many goes another day
        log.warning("old backups of the vault stay", code=error.code)
    return {"sha256": digest}


def list_backups(objects: Objects) -> dict[str, Any]:
    return {"backups": [backup.to_json() for backup in vault_backups.listed(objects)]}
