"""What of a configuration server can't be had anew: collected, handed to the vault, and put back into a new folder.

Its private key stays out: a restored server gets a certificate of its own, by a registration key, and with that the
one that it takes the place of is revoked. What is in a backup:

    passphrase    the join passphrase, so that what admits servers to the site stays what it was
    servers       which process servers and master targets there are
    assignments   which process server an item has
    sources       and its machine, for the mobility services
    settings      what it ran with
    fences        by item the newest fence number seen at the site
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import structlog

from homeport.domain.errors import HomeportError
from homeport.servers.join_passphrase import FILE as PASSPHRASE
from homeport.servers.joining import IDENTITY, JoinedAlready, call_vault, join_vault, read
from homeport.servers.machine_owners import MachineOwners
from homeport.servers.relay import ASSIGNMENTS, SERVERS, SOURCES
from homeport.servers.serve.store_choice import remember
from homeport.servers.work.site_context import Fences
from homeport.trust.identity import Identity
from homeport.trust.private import write_private
from homeport.trust.registration import RegistrationKey

log = structlog.get_logger(__name__)

Json = dict[str, Any]

SETTINGS = "settings.json"
"""What the server ran with last: a backup that is made while it does not run needs the site's folder."""
FLOOR = "restored-fences.json"
LAST = "backed-up.json"
"""{"at", "digest"} of what the vault has."""
RESTORING = "restoring"
"""There while a restore has not ended."""
EVERY = timedelta(days=1)
LOOK_EVERY = 5.0
AGAIN = 60.0
"""Seconds after one that failed."""
_PARTS = {
    "passphrase": PASSPHRASE,
    "servers": SERVERS,
    "assignments": ASSIGNMENTS,
    "sources": SOURCES,
    "settings": SETTINGS,
}


class RestoreNotEnded(HomeportError):
    code = "configuration-server.restore-not-ended"
    remedy = "Run `homeport configuration-server restore` again with the same registration key and state folder."


class BackupFileInvalid(HomeportError):
    code = "configuration-server.backup-file-invalid"
    remedy = "Name a file that `homeport configuration-server backup --to FILE` wrote; or use --from-vault."


def collect(state: Path) -> Json:
    """All of it. ``state``: the server's folder."""
    found: Json = {name: _json(state / file) for name, file in _PARTS.items()}
    folder = found["settings"].get("folder")
    found["fences"] = Fences(Path(folder) / ".homeport" / "fences").known() if folder else {}
    return found


def back_up(state: Path) -> Json:
    """Hand a backup to the vault now; the sealed backup, as the vault keeps it. Raises IdentityMissing, Unreachable,
    and what the vault says."""
    identity = Identity.open(state / IDENTITY)
    body = {"content": collect(state), "reason": "asked", "every": EVERY.total_seconds()}
    made = call_vault(identity, _urls(identity, state), "POST", _path(identity), body)["backup"]
    assert isinstance(made, dict)
    _done(state, digest_of(collect(state)))
    return made


def digest_of(content: Json) -> str:
    """Of what a change makes worth a backup: not when a server was heard of, nor the fences of each piece of work."""
    servers = {name: kept.get("role") for name, kept in content["servers"].items()}
    lasting = {**content, "servers": servers, "fences": None}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


class Schedule:
    """A backup a day, and one soon after each change. ``vault``: a client of this server's identity."""

    def __init__(self, state: Path, site: str, vault: httpx.Client) -> None:
        self._state = state
        self._path = f"/v1/agent/{site}/configuration-backups"
        self._vault = vault
        self._not_before = 0.0

    def tend(self) -> None:
        """Make one if it is due; one that fails is tried again later."""
        if time.monotonic() < self._not_before:
            return
        content = collect(self._state)
        last, digest = _json(self._state / LAST), digest_of(content)
        at = self.last()
        if at is not None and last.get("digest") == digest and datetime.now(UTC) - at < EVERY:
            return
        reason = "scheduled" if last.get("digest") == digest else "changed"
        try:
            body = {"content": content, "reason": reason, "every": EVERY.total_seconds()}
            read(self._vault.post(self._path, json=body))
        except (httpx.HTTPError, RuntimeError, HomeportError) as error:  # RuntimeError: the client was closed
            self._not_before = time.monotonic() + AGAIN
            log.warning("configuration server not backed up", error=str(error))
            return
        _done(self._state, digest)

    def last(self) -> datetime | None:
        """When the vault got the last one."""
        at = _json(self._state / LAST).get("at")
        return None if at is None else datetime.fromisoformat(at)


@dataclass(frozen=True)
class Restored:
    """``created``, ``server``: of the backup. ``settings``: what that server ran with."""

    identity: Identity
    created: str
    server: str
    settings: Json
    servers: list[str]
    items: int


def restore(
    key: str,
    state: Path,
    *,
    file: Path | None = None,
    name: str | None = None,
    urls: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Restored:
    """A lost configuration server again, in the empty folder ``state``. ``key``: text of a registration key that lets
    it take the lost one's place; ``file``: the sealed backup (None: the newest that the vault keeps); ``name``:
    default: the lost one's. May be run again until it succeeds. Raises JoinedAlready, :class:`BackupFileInvalid`, what
    joining raises, and what the vault says of the backup."""
    begun = (state / RESTORING).exists()
    if not begun and (Identity.exists(state / IDENTITY) or any((state / each).exists() for each in _PARTS.values())):
        raise JoinedAlready(
            f"In {state} is a configuration server's state already.", remedy="Restore into an empty folder."
        )
    sealed = None if file is None else _sealed(file, RegistrationKey.parse(key))
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(state / RESTORING, "")
    source = "vault" if file is None else "file"
    if sealed is not None:
        name = name or str(sealed.get("server", "")) or None
    identity = join_vault(key, state, name=name, urls=urls, hosts=hosts, restores=source)
    found = call_vault(identity, identity.urls, "POST", f"{_path(identity)}/restore", {"backup": sealed})
    content = found["content"]
    seen, floor = content.get("fences") or {}, found["fences"]
    fences = {item: max(seen.get(item, 0), floor.get(item, 0)) for item in sorted({*seen, *floor})}
    write_private(state / FLOOR, json.dumps(fences))
    for part, each in _PARTS.items():
        if content.get(part):
            write_private(state / each, json.dumps(content[part]))
    MachineOwners(state / SOURCES).renumber()
    _remember_store(identity, state)
    (state / RESTORING).unlink()
    return Restored(
        identity,
        str(found["created"]),
        str(found["server"]),
        content.get("settings") or {},
        sorted(content.get("servers") or {}),
        sum(not item.startswith("group:") for item in content.get("assignments") or {}),
    )


def _remember_store(identity: Identity, state: Path) -> None:
    """So that it knows though the vault be away when it begins. A vault of an earlier version doesn't say."""
    try:
        remember(state, call_vault(identity, identity.urls, "GET", f"/v1/agent/{identity.site}/store")["store"])
    except HomeportError as error:
        log.warning("the vault does not say which store the site has", error=error.cause)


def take_up(state: Path, folder: Path, settings: Json) -> None:
    """When the server begins. ``folder``: the servers' own at the site: what a restore knows of fences counts there
    from now on. Raises :class:`RestoreNotEnded`."""
    if (state / RESTORING).exists():
        raise RestoreNotEnded(f"In {state} a restore was begun that has not ended.")
    Fences(folder / "fences").raise_to(_json(state / FLOOR))
    if _json(state / SETTINGS) != settings:
        write_private(state / SETTINGS, json.dumps(settings))


def _sealed(file: Path, key: RegistrationKey) -> Json:
    try:
        found = json.loads(file.read_text())
        whose = (found["vault"], found["site"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupFileInvalid(f"{file} is no backup of a configuration server: {error}.") from error
    if whose != (key.vault, key.site):
        raise BackupFileInvalid(
            f"{file} is of site {whose[1]!r} of vault {whose[0]}; the registration key is for site {key.site!r} of "
            f"vault {key.vault}."
        )
    made: Json = found
    return made


def _urls(identity: Identity, state: Path) -> Sequence[str]:
    configured = _json(state / SETTINGS).get("vault")
    if isinstance(configured, str):  # as an earlier version kept it
        configured = [configured] if configured else []
    return configured or identity.urls


def _path(identity: Identity) -> str:
    return f"/v1/agent/{identity.site}/configuration-backups"


def _done(state: Path, digest: str) -> None:
    write_private(state / LAST, json.dumps({"at": datetime.now(UTC).isoformat(), "digest": digest}))


def _json(path: Path) -> Json:
    try:
        found: Json = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found
