"""Backups of the vault, kept at its sites' recovery stores: made daily, and when an operator asks.

When the next one is due at each site stands in the database, as an instant: a restart loses nothing, and of several
instances of the vault one takes it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets as random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import structlog
import zstandard
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault import inventory
from homeport.vault.core import Core
from homeport.vault.database import Json, SettingRow, SiteRow, WorkRow, now
from homeport.vault.dump import dump
from homeport.vault.work import Ask, SiteUnreachable, ask

log = structlog.get_logger(__name__)

SETTING = "backups"
"""{"keep": n, "sites": {site: {"due", "backup", "at", "error"}}}"""
KEEP = 7
STORE, LIST = "store-vault-backup", "list-vault-backups"
FIRST = timedelta(minutes=10)
"""After a site was added."""
EVERY = timedelta(days=1)
AGAIN = timedelta(hours=1)
"""After one that failed."""
LIMIT = 50.0
"""Seconds that a site may take to store one: an operator waits for the answer."""


class BackupDamaged(HomeportError):
    """A site read something else back than it was given."""

    code = "vault.backup-damaged"
    remedy = "Look at that site's storage; `homeport vault backup` tries again."


class BackupFailed(HomeportError):
    """No site took it. ``details``: ``sites``, each with its error."""

    code = "vault.backup-failed"
    remedy = "Mend what keeps the sites from it, then `homeport vault backup` again."


def back_up(core: Core, sites: list[str] | None = None, keep: int | None = None) -> Json:
    """A backup to the stores of ``sites`` (None: of all). ``keep``: how many each keeps from now on. Answers per site
    what came of it. Raises SiteNotFound, :class:`BackupFailed`."""
    with core.database.write() as session:
        wanted = [inventory.site(session, name).name for name in sites] if sites is not None else _all(session)
        kept = keep or _setting(session)["keep"]
        if keep is not None:
            _save(session, {**_setting(session), "keep": keep})
    with core.database.read() as session:
        content = dump(session, core.secrets.vault_id)
    begun = now()
    id = f"{begun.astimezone(UTC):%Y%m%dT%H%M%SZ}-{random.token_hex(4)}"
    params = {
        "backup": id,
        "content": base64.b64encode(zstandard.compress(content)).decode(),
        "keep": kept,
    }
    digest = hashlib.sha256(content).hexdigest()

    def store(site: str) -> Json:
        try:
            answer = ask_once(core, Ask(site, STORE, params, key=f"vault-backup:{id}:{site}", limit=LIMIT))
            if answer.get("sha256") != digest:
                raise BackupDamaged(f"Site {site!r} reads something else from its store than it was given.", site=site)
        except HomeportError as error:
            log.warning("vault not backed up", site=site, code=error.code, cause=error.cause)
            return {"error": error.to_json()}
        return {"error": None}

    with ThreadPoolExecutor(max(len(wanted), 1), thread_name_prefix="vault-backup") as pool:
        found = dict(zip(wanted, pool.map(store, wanted), strict=True))
    with core.database.write() as session:
        setting = _setting(session)
        for site, outcome in found.items():
            done = {"backup": id, "at": begun.isoformat()} if outcome["error"] is None else {}
            due = begun + (EVERY if done else AGAIN)
            entry = {**setting["sites"].get(site, {}), **done, **outcome, "due": due.isoformat()}
            setting = {**setting, "sites": {**setting["sites"], site: entry}}
        _save(session, setting)
    if found and all(outcome["error"] is not None for outcome in found.values()):
        causes = "; ".join(f"{site}: {outcome['error']['cause']}" for site, outcome in found.items())
        raise BackupFailed(f"The vault was backed up nowhere. {causes}", sites=found)
    log.info("vault backed up", backup=id, sites=[site for site, outcome in found.items() if not outcome["error"]])
    return {"id": id, "created": begun.isoformat(), "size": len(content), "sites": found}


def listed(core: Core) -> Json:
    """The backups that the sites' stores hold, by id, and when each site is due. A site that does not answer stands
    under ``sites`` with its error."""
    with core.database.read() as session:
        names, setting = _all(session), _setting(session)

    def look(site: str) -> list[Json] | HomeportError:
        try:
            limit = core.timeouts.inventory
            key = f"vault-backups:{random.token_hex(8)}"
            backups: list[Json] = ask_once(core, Ask(site, LIST, {}, key=key, limit=limit))["backups"]
        except HomeportError as error:
            return error
        return backups

    with ThreadPoolExecutor(max(len(names), 1), thread_name_prefix="vault-backups") as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    backups: dict[str, Json] = {}
    for site, answer in found.items():
        for backup in [] if isinstance(answer, HomeportError) else answer:
            backups.setdefault(backup["id"], {**backup, "sites": []})["sites"].append(site)
    return {
        "backups": [backups[id] for id in sorted(backups)],
        "keep": setting["keep"],
        "sites": {
            site: {
                "due": setting["sites"].get(site, {}).get("due"),
                "error": answer.to_json() if isinstance(answer, HomeportError) else None,
            }
            for site, answer in found.items()
        },
    }


def back_up_due(core: Core) -> None:
    """What a backup is due for, if for any; it is claimed first, so that no other instance makes it too."""
    with core.database.read() as session:
        if not _due(session):
            return
    with core.database.write() as session:
        sites = _due(session)
        setting = _setting(session)
        claimed = {site: {**setting["sites"].get(site, {}), "due": (now() + AGAIN).isoformat()} for site in sites}
        _save(session, {**setting, "sites": {**setting["sites"], **claimed}})
        # What a vault that was killed left in the queue is not carried about for ever.
        session.execute(delete(WorkRow).where(WorkRow.kind == STORE, WorkRow.created < now() - AGAIN))
    if sites:
        back_up(core, sites)


def ask_once(core: Core, request: Ask) -> Json:
    """Ask a site that is there, and leave nothing of it in the queue. Raises SiteUnreachable, what the site says."""
    if core.liveness.gone(request.site, core.timeouts.gone):
        raise SiteUnreachable(
            f"The configuration server of site {request.site!r} is not there; not asked.", site=request.site
        )
    try:
        return ask(core, request)
    finally:
        with core.database.write() as session:
            session.execute(delete(WorkRow).where(WorkRow.key == request.key))


def _all(session: Session) -> list[str]:
    return list(session.scalars(select(SiteRow.name).where(SiteRow.removed.is_(None)).order_by(SiteRow.name)))


def _due(session: Session) -> list[str]:
    known = _setting(session)["sites"]
    at = now()
    found = []
    for site in session.scalars(select(SiteRow).where(SiteRow.removed.is_(None)).order_by(SiteRow.name)):
        due = known.get(site.name, {}).get("due")
        if (datetime.fromisoformat(due) if due else site.created + FIRST) <= at:
            found.append(site.name)
    return found


def _setting(session: Session) -> Json:
    row = session.get(SettingRow, SETTING)
    return {"keep": KEEP, "sites": {}, **(row.value if row is not None else {})}


def _save(session: Session, value: Json) -> None:
    session.merge(SettingRow(name=SETTING, value=value))
