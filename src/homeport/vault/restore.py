"""A vault in a new state folder: from a backup, or from the stores alone.

What was running when the backup was made is not gone on with: its jobs are shown as failed, and items stand where a
restart or a cancel is possible.
"""

from __future__ import annotations

import os
import secrets as random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, delete, func, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation, transition
from homeport.vault import jobs
from homeport.vault.backup import SETTING
from homeport.vault.database import Database, ItemRow, JobRow, RegistrationKeyRow, SettingRow, SiteRow, now
from homeport.vault.dump import Dump, load
from homeport.vault.found import FoundStore
from homeport.vault.rebuild import Rebuilt, raise_fences, rebuild
from homeport.vault.secrets import Secrets


class StateNotEmpty(HomeportError):
    """There may be a vault in it: nothing is overwritten."""

    code = "vault.state-not-empty"
    remedy = "Name a folder that is empty or not there yet, and a database without a vault in it."


class Restored(HomeportError):
    """The error of jobs that were running when their vault was lost."""

    code = "vault.restored"
    remedy = "See where the machine runs, then `homeport job restart JOB` or `homeport job cancel JOB`."


@dataclass
class NewVault:
    """``failed``: names of items whose jobs were cut off."""

    state: Path
    rebuilt: Rebuilt
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Identity:
    """Whose vault it is. ``key``: hex; ``sealed``: the vault's file as it lies in its stores."""

    vault: str
    key: str
    sealed: str | None


def restore_vault(
    state: Path, who: Identity, backup: Dump, stores: list[FoundStore], *, database: URL | None = None
) -> NewVault:
    """As it was when the backup was made, corrected by what the stores tell. Raises :class:`StateNotEmpty`."""
    if backup.vault != who.vault:
        raise HomeportError(
            f"the backup is of vault {backup.vault}, and the store of vault {who.vault}",
            code="store.other-vault",
            remedy="Give each vault a store of its own.",
        )

    def fill(session: Session) -> NewVault:
        load(session, backup)
        failed = fail_jobs(session, f"The vault was restored from its backup of {backup.created.isoformat()}.")
        for site in session.scalars(select(SiteRow)):
            site.executor = site.last_seen = None
        session.execute(delete(RegistrationKeyRow))  # nobody knows which of them were used since
        setting = session.get(SettingRow, SETTING)
        if setting is not None:
            setting.value = {**setting.value, "sites": {}}
        session.flush()
        return NewVault(state, rebuild(session, stores, sealed=who.sealed), failed)

    return _make(state, who, database, fill)


def rebuild_vault(
    state: Path,
    who: Identity,
    stores: list[FoundStore],
    *,
    folders: Mapping[str, str] | None = None,
    database: URL | None = None,
) -> NewVault:
    """Without a backup: what the stores tell. Raises :class:`StateNotEmpty`."""
    return _make(
        state,
        who,
        database,
        lambda session: NewVault(state, rebuild(session, stores, sealed=who.sealed, folders=folders)),
    )


def fail_jobs(session: Session, cause: str) -> list[str]:
    """Jobs that ran have nobody who goes on with them."""
    found = []
    for job in session.scalars(select(JobRow).where(JobRow.state.not_in(jobs.ENDED))):
        item = session.get_one(ItemRow, job.item)
        after = transition(Operation(job.kind), job.before, job.direction).failed
        jobs.end(session, job, item, "failed", after, error=Restored(cause).to_json())
        found.append(item.name)
    return sorted(found)


def _make(state: Path, who: Identity, database: URL | None, fill: Callable[[Session], NewVault]) -> NewVault:
    """All of it or nothing: the folder gets its name when it is whole."""
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise StateNotEmpty(f"The folder {state} is not empty.")
    state.parent.mkdir(parents=True, exist_ok=True)
    draft = state.with_name(f".{state.name}.{random.token_hex(4)}")
    draft.mkdir(mode=0o700)
    try:
        made = _fill(database or draft / "vault.db", who, fill)
        Secrets.create(draft, who.vault, who.key)
        os.rename(draft, state)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made


def _fill(place: Path | URL, who: Identity, fill: Callable[[Session], NewVault]) -> NewVault:
    database = Database(place, lambda: None)
    try:
        with database.write() as session:
            if session.get(SettingRow, "vault") or session.scalar(select(func.count()).select_from(SiteRow)):
                raise StateNotEmpty("The database holds a vault already.")
            made = fill(session)
            raise_fences(session, who.vault)
            session.merge(SettingRow(name="vault", value={"id": who.vault}))
            session.merge(SettingRow(name="restored", value={"at": now().isoformat()}))
        return made
    finally:
        database.close()
