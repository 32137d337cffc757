"""The vault as one object: what `homeport up` starts, serves and stops."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog
from dbos import DBOS
from fastapi import FastAPI
from sqlalchemy import select

from homeport.domain.errors import HomeportError
from homeport.vault import core as running
from homeport.vault import operations, work
from homeport.vault import workflows as _registered  # noqa: F401
from homeport.vault.api import create_api
from homeport.vault.core import Core, Timeouts
from homeport.vault.database import Database, Json, SettingRow, SiteRow
from homeport.vault.secrets import Secrets
from homeport.vault.signal import Signal

log = structlog.get_logger(__name__)

APPLICATION_VERSION = "1"
"""Of the workflows, not of the product: an upgrade in the middle of a failover must resume it. A changed workflow is a
new name beside the old one, never a new version of this."""


class StateInUse(HomeportError):
    code = "vault.state-in-use"
    remedy = "Stop the other `homeport up`, or give this one a state folder of its own."


class Vault:
    """Serve :attr:`app` with any ASGI server, between :meth:`start` and :meth:`stop`."""

    def __init__(self, core: Core, lock: int) -> None:
        self.core = core
        self.app: FastAPI = create_api(core)
        self._lock = lock

    @property
    def token(self) -> str:
        return self.core.secrets.token

    @property
    def first_passphrase(self) -> str | None:
        """The recovery passphrase, in the start that made it only: to be shown once."""
        return self.core.secrets.first_passphrase

    def sites(self) -> list[Json]:
        """{"name", "provider", "path"} of each."""
        with self.core.database.read() as session:
            rows = session.scalars(select(SiteRow).order_by(SiteRow.name))
            return [{"name": row.name, "provider": row.provider, "path": row.path} for row in rows]

    def sealed(self) -> str | None:
        """The vault's key as sealed by the passphrase; None before :meth:`keep_sealed`."""
        with self.core.database.read() as session:
            row = session.get(SettingRow, "sealed")
            return None if row is None else str(row.value["text"])

    def keep_sealed(self, text: str) -> None:
        """What every site's store that joins gets beside its data."""
        with self.core.database.write() as session:
            session.merge(SettingRow(name="sealed", value={"text": text}))

    def start(self) -> None:
        """Take up the operations that were under way, and accept new ones."""
        running.enter(self.core)
        work.requeue_unacknowledged(self.core)
        folder = self.core.state
        _prepare_workflow_database(folder / "workflows.db")
        DBOS(
            config={
                "name": "homeport",
                "system_database_url": f"sqlite:///{folder / 'workflows.db'}",
                "application_version": APPLICATION_VERSION,
                "executor_id": self.core.secrets.vault_id,
                "log_level": "WARNING",
                "enable_otlp": False,
            }
        )
        DBOS.launch()
        operations.resume(self.core)
        log.info("vault started", state=str(folder), vault=self.core.secrets.vault_id)

    def stop(self) -> None:
        """Let go at once: what is under way stays recorded and goes on at the next start."""
        self.core.signal.stop()
        DBOS.destroy()
        running.enter(None)
        self.close()

    def close(self) -> None:
        """Let go of the state folder; :meth:`stop` does it too."""
        self.core.database.close()
        os.close(self._lock)


def create_vault(
    state: Path, *, timeouts: Timeouts | None = None, on_site_added: Callable[[Json], None] | None = None
) -> Vault:
    """The vault of a state folder, made if it is not there. ``on_site_added``: called with each site that is added
    later, on a thread of the API. Raises :class:`StateInUse`."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(state / "vault.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StateInUse(f"Another vault runs in {state}.") from error
    signal = Signal()
    core = Core(
        state=state,
        database=Database(state / "vault.db", signal.notify),
        secrets=Secrets.open(state),
        signal=signal,
        timeouts=timeouts or Timeouts(),
    )
    if on_site_added is not None:
        core.site_listeners.append(on_site_added)
    return Vault(core, lock)


def _prepare_workflow_database(path: Path) -> None:
    """Owner only, and in write-ahead mode, which stays with the file: a step's record costs one sync, not three."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
