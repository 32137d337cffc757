"""Backups of configuration servers: each site's hands over its own, the vault seals and keeps them.

They lie in the vault's database, and so in its own backups: a site that is lost whole takes none of them along. Sealed
with the vault's key they may be kept as files elsewhere, too: nobody but this vault opens them.

    {"format": "homeport configuration server backup", "version": 1, "vault": …, "site": …, "server": …,
     "created": …, "homeport": version of the server, "reason": "scheduled" | "changed" | "asked", "sealed": …}
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.units import DAY
from homeport.vault import inventory, servers
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, SettingRow, SiteRow, WorkRow
from homeport.vault.secrets import Secrets
from homeport.vault.work import OPEN

log = structlog.get_logger(__name__)

FORMAT = "homeport configuration server backup"
VERSION = 1
KEEP = 7
MOST = 16 << 20
"""Bytes of what is in one."""
_SETTING = "configuration-backups:"
"""Before the site's name: {"backups": [the oldest first]}."""
_NONCE = 12


class NoBackup(HomeportError):
    code = "configuration-server.no-backup"
    remedy = (
        "Join it anew with this key instead: `homeport configuration-server join`; its process servers then join "
        "again with the new join passphrase. Or restore from a file that `backup --to` wrote."
    )


class BackupUnreadable(HomeportError):
    code = "configuration-server.backup-unreadable"
    remedy = "Use another backup: `restore --from-vault` takes the newest that the vault keeps."


@dataclass(frozen=True)
class Handed:
    """``version``: of Homeport at the server; ``reason``: "scheduled", "changed" (something worth keeping had) or
    "asked"; ``every``: seconds between two scheduled ones. None: a server of an earlier version doesn't say."""

    content: Json
    version: str | None = None
    reason: str | None = None
    every: float | None = None


def keep(core: Core, site: str, server: str, handed: Handed) -> Json:
    """Seal what the configuration server ``server`` of ``site`` handed over, keep it, and drop the oldest beyond
    :data:`KEEP`. Answers the sealed backup. Raises :class:`BackupUnreadable` where it is too large."""
    content = handed.content
    plain = json.dumps(content, sort_keys=True).encode()
    if len(plain) > MOST:
        raise BackupUnreadable(f"The backup has {len(plain)} bytes, and {MOST} is the most.")
    head: Json = {
        "format": FORMAT,
        "version": VERSION,
        "vault": core.secrets.vault_id,
        "site": site,
        "server": server,
        "created": core.clock().astimezone(UTC).isoformat(),
        "homeport": handed.version,
        "reason": handed.reason,
    }
    nonce = os.urandom(_NONCE)
    sealed = nonce + _cipher(core.secrets).encrypt(nonce, zstandard.compress(plain), _bound(head))
    made = {**head, "sealed": base64.b64encode(sealed).decode()}
    with core.database.write() as session:
        inventory.site(session, site)
        known = _kept(session, site)
        value = {"backups": [*known, made][-KEEP:], "every": handed.every}
        session.merge(SettingRow(name=_SETTING + site, value=value))
    log.info("configuration server backed up", site=site, server=server)
    return made


def listed(core: Core, server: str | None = None) -> Json:
    """{"backups", "schedules", "keep"}. Of each backup: site, server, created, size (bytes, sealed), version, reason;
    the newest of a site first. Of each site's configuration server: when the next one is due. ``server``: only of that
    one. Raises ServerNotFound where nothing is known of it."""
    backups: list[Json] = []
    schedules: list[Json] = []
    with core.database.read() as session:
        rows = session.scalars(select(SiteRow).where(SiteRow.removed.is_(None)).order_by(SiteRow.name))
        for site in [row.name for row in rows]:
            kept = [each for each in _kept(session, site) if server in (None, each["server"])]
            backups += [_json(each) for each in reversed(kept)]
            for row in servers.configuration_servers(session, site):
                if row.state == servers.JOINED and server in (None, row.name):
                    schedules.append(_schedule(core, session, site, row.name))
        if server is not None and not backups and not schedules:
            servers.find(session, server)
    return {"backups": backups, "schedules": schedules, "keep": KEEP}


def _json(backup: Json) -> Json:
    sealed = len(backup["sealed"]) * 3 // 4 - backup["sealed"][-2:].count("=")
    return {
        **{name: backup[name] for name in ("site", "server", "created")},
        **{"size": sealed, "version": backup.get("homeport"), "reason": backup.get("reason")},
    }


def _schedule(core: Core, session: Session, site: str, server: str) -> Json:
    """``overdue``: the last one is older than two intervals, or there is none."""
    row = session.get(SettingRow, _SETTING + site)
    every = (row.value.get("every") if row is not None else None) or DAY
    last = next((each for each in reversed(_kept(session, site)) if each["server"] == server), None)
    at = datetime.fromisoformat(last["created"]) if last is not None else None
    return {
        "site": site,
        "server": server,
        "every": every,
        "last": at.isoformat() if at is not None else None,
        "due": (at + timedelta(seconds=every)).isoformat() if at is not None else None,
        "overdue": at is None or core.clock() - at > timedelta(seconds=2 * every),
    }


def newest(session: Session, site: str) -> Json | None:
    return next(reversed(_kept(session, site)), None)


def read(core: Core, site: str, backup: Json | None) -> Json:
    """What a configuration server of ``site`` is restored from: {"created", "server", "content", "fences"}.
    ``backup``: sealed; None: the newest one kept here. ``fences``: by item the number below which nothing may be done
    at the site any more, as the vault knows it. Raises :class:`NoBackup`, :class:`BackupUnreadable`."""
    with core.database.read() as session:
        inventory.site(session, site)
        found = newest(session, site) if backup is None else backup
        fences = _fences(session, site)
    if found is None:
        raise NoBackup(f"The vault keeps no backup of a configuration server of site {site!r}.")
    content = _opened(core.secrets, site, found)
    return {"created": found["created"], "server": found["server"], "content": content, "fences": fences}


def _opened(secrets: Secrets, site: str, backup: Json) -> Json:
    if backup.get("format") != FORMAT or backup.get("version") != VERSION:
        raise BackupUnreadable(f"This is no {FORMAT} of version {VERSION}.")
    if (backup.get("vault"), backup.get("site")) != (secrets.vault_id, site):
        raise BackupUnreadable(
            f"The backup is of site {backup.get('site')!r} of vault {backup.get('vault')}, "
            f"not of site {site!r} of vault {secrets.vault_id}."
        )
    try:
        head = {name: value for name, value in backup.items() if name != "sealed"}
        sealed = base64.b64decode(backup["sealed"], validate=True)
        packed = _cipher(secrets).decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(head))
        found: Json = json.loads(zstandard.decompress(packed, max_output_size=MOST))
    except (InvalidTag, KeyError, TypeError, ValueError, zstandard.ZstdError) as error:
        raise BackupUnreadable(
            "The backup was changed since it was made, or sealed with another key than this vault's."
        ) from error
    return found


def _fences(session: Session, site: str) -> dict[str, int]:
    """Whatever was asked of the site before is done or withdrawn, but for what is open still: that must get through,
    the fence of a lost machine above all."""
    wanted = select(ItemRow).where(or_(ItemRow.home == site, ItemRow.away == site))
    found = {item.id: item.fence for item in session.scalars(wanted)}
    for row in session.scalars(select(WorkRow).where(WorkRow.site == site, WorkRow.state.in_(OPEN))):
        item, fence = row.params.get("item"), row.params.get("fence")
        if item in found and isinstance(fence, int):
            found[item] = min(found[item], fence)
    return found


def _kept(session: Session, site: str) -> list[Json]:
    row = session.get(SettingRow, _SETTING + site)
    return [] if row is None else list(row.value["backups"])


def _cipher(secrets: Secrets) -> AESGCM:
    key = HKDF(hashes.SHA256(), 32, None, b"homeport configuration server backup 1").derive(
        bytes.fromhex(secrets.vault_key)
    )
    return AESGCM(key)


def _bound(head: Json) -> bytes:
    return json.dumps(head, sort_keys=True).encode()
