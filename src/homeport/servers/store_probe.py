"""Trying a recovery store out before a site's points go there: its rules, its rights, its room, and whose it is."""

from __future__ import annotations

import shutil
from urllib.parse import unquote, urlsplit

from homeport.domain.errors import HomeportError
from homeport.domain.units import MiB
from homeport.store import vaultfile
from homeport.store.backends import open_objects
from homeport.store.errors import NotFound, StoreError
from homeport.store.probe import probe

LEAST_SPACE = 256 * MiB
"""A segment and what goes with it must fit."""


def try_out(url: str, vault: str) -> int | None:
    """Bytes that are free there; None where the storage doesn't say. ``vault``: the id of ours. A folder is made where
    there is none. Raises StoreError (``store.other-vault``), StoreUnsuitable, StoreUnavailable, and
    ``site.store-invalid``, ``store.full``."""
    if "://" not in url:
        raise HomeportError(
            f"{url!r} is no URL of a store",
            code="site.store-invalid",
            remedy="Name it like file:///srv/store, s3://bucket/prefix, az://account/container or gs://bucket.",
        )
    objects = open_objects(url, create=True)
    probe(objects)
    try:
        found = vaultfile.load(objects)
    except NotFound:
        found = None
    if found is not None and found.vault != vault:
        raise StoreError(
            f"the store belongs to vault {found.vault}, not to {vault}",
            code="store.other-vault",
            remedy="Give each vault a store of its own.",
        )
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    free = shutil.disk_usage(unquote(parts.path)).free
    if free < LEAST_SPACE:
        raise StoreError(
            f"{url} has {free // MiB} MiB free, and {LEAST_SPACE // MiB} MiB are the least",
            code="store.full",
            remedy="Free space there, or choose another store.",
        )
    return free
