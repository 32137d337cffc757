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
from sqlalchemy import URL, select

from homeport.domain.errors import HomeportError
from homeport.trust.identity import Identity
from homeport.vault import checks, engines, operations, servers, work
from homeport.vault import core as running
from homeport.vault import workflows as _registered  # noqa: F401
from homeport.vault.admission import Dispatcher
from homeport.vault.api import create_api
from homeport.vault.authority import Authority
from homeport.vault.core import Core, Timeouts
from homeport.vault.database import Database, Json, SettingRow, SiteRow
from homeport.vault.instances import Instances
from homeport.vault.keeping import Keeping
from homeport.vault.secrets import Secrets
from homeport.vault.signal import Signal
from homeport.vault.timers import Timers

log = structlog.get_logger(__name__)

LOCK = "vault.lock"
"""In the state folder, held while a vault runs there."""

APPLICATION_VERSION = "1"
"""Of the workflows, not of the product: an upgrade in the middle of a failover must resume it. A changed workflow is a
new name beside the old one, never a new version of this."""


class StateInUse(HomeportError):
    code = "vault.state-in-use"
    remedy = "Stop the other `homeport up`, or give this one a state folder of its own."


class IdentityMissing(HomeportError):
    code = "vault.identity-missing"
    remedy = (
        "Copy vault-key.json and token from the state folder of another instance of this vault into this one's, "
        "readable by their owner only; or give this vault a database of its own."
    )


class Vault:
    """Serve :attr:`app` with any ASGI server, between :meth:`start` and :meth:`stop`."""

    def __init__(self, core: Core, lock: int) -> None:
        self.core = core
        self.instances = Instances(core, core.state / LOCK, lambda: operations.resume(core))
        self.app: FastAPI = create_api(core)
        self._dispatcher = Dispatcher(core)
        self._keeping = Keeping(core)
        self._checks = checks.Watch(core)
        self._timers = Timers(core)
        self._lock = lock

    @property
    def token(self) -> str:
        return self.core.secrets.token

    @property
    def first_passphrase(self) -> str | None:
        """The recovery passphrase, in the start that made it only: to be shown once."""
        return self.core.secrets.first_passphrase

    def identity(self, name: str, urls: list[str], hosts: list[str]) -> Identity:
        """That of this instance, to serve :attr:`app` over TLS with (trust/asgi.py: tls_server, require_client False).
        ``name``: of this instance among the servers; ``urls``: where servers reach the vault; ``hosts``: names and
        addresses that its certificate shall bear. The vault renews it by itself while it runs."""
        self.core.own = servers.own_identity(self.core, name, urls, hosts)
        return self.core.own

    def sites(self) -> list[Json]:
        """{"name", "provider", "path", "store"} of each."""
        with self.core.database.read() as session:
            rows = session.scalars(select(SiteRow).where(SiteRow.removed.is_(None)).order_by(SiteRow.name))
            return [{"name": row.name, "provider": row.provider, "path": row.path, "store": row.store} for row in rows]

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
        self.instances.begin()
        if self.instances.alone():
            work.requeue_unacknowledged(self.core)
        folder = self.core.state
        DBOS(
            config={
                "name": "homeport",
                "system_database_url": _workflow_database(self.core),
                "sys_db_pool_size": 10,
                "application_version": APPLICATION_VERSION,
                "executor_id": self.instances.id,
                "log_level": "WARNING",
                # Nothing is told through the library, but its stop waits for the thread that looks for it.
                "notification_listener_polling_interval_sec": 0.05,
                "enable_otlp": False,
            }
        )
        DBOS.launch()
        self.instances.take_over()
        operations.resume(self.core)
        self.instances.watch()
        self._dispatcher.start()
        self._keeping.start()
        self._checks.start()
        self._timers.start()
        log.info("vault started", state=str(folder), vault=self.core.secrets.vault_id)

    def stop(self) -> None:
        """Let go at once: what is under way stays recorded and goes on at the next start."""
        self.core.signal.stop()
        self._dispatcher.join()
        self._keeping.join()
        self._checks.join()
        self._timers.join()
        DBOS.destroy()
        self.instances.stop()
        running.enter(None)
        self.close()

    def close(self) -> None:
        """Let go of the state folder; :meth:`stop` does it too."""
        self.core.database.close()
        os.close(self._lock)


def create_vault(
    state: Path,
    *,
    database: str | None = None,
    timeouts: Timeouts | None = None,
    on_site_added: Callable[[Json], None] | None = None,
    host: str | None = None,
) -> Vault:
    """The vault of a state folder, made if it is not there. ``database``: address of a PostgreSQL database; without,
    SQLite in the state folder. ``on_site_added``: called with each site that is added later, on a thread of the API.
    ``host``: that this instance runs on, as sites name theirs.
    Raises :class:`StateInUse`, :class:`IdentityMissing`, and what opening the database raises."""
    place = state / "vault.db" if database is None else engines.address_of(database)
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StateInUse(f"Another vault runs in {state}.") from error
    signal = Signal()
    try:
        opened = Database(place, signal.notify)
        secrets = _identity(opened, state)
        core = Core(
            state=state,
            database=opened,
            secrets=secrets,
            authority=Authority.open(opened, secrets),
            signal=signal,
            timeouts=timeouts or Timeouts(),
            host=None if opened.shared else host,  # of several instances, and a database elsewhere, others may survive
        )
        servers.write_authority(core)
    except BaseException:
        os.close(lock)
        raise
    if on_site_added is not None:
        core.site_listeners.append(on_site_added)
    return Vault(core, lock)


def _identity(database: Database, state: Path) -> Secrets:
    """The secrets of the vault whose database this is: the first instance makes them, a further one must be given
    them, for they are not in the database."""

    def refuse(vault: str, found: str) -> IdentityMissing:
        database.close()
        return IdentityMissing(f"The database is that of vault {vault}; the state folder {state} {found}.")

    with database.read() as session:
        known = session.get(SettingRow, "vault")
    if known is not None and not Secrets.kept(state):
        raise refuse(known.value["id"], "has no vault's key")
    secrets = Secrets.open(state)
    with database.write() as session:
        known = session.get(SettingRow, "vault")
        if known is None:
            session.add(SettingRow(name="vault", value={"id": secrets.vault_id}))
    if known is not None and known.value["id"] != secrets.vault_id:
        raise refuse(known.value["id"], f"has the key of vault {secrets.vault_id}")
    return secrets


def _workflow_database(core: Core) -> str:
    """Beside the vault's own: a file of its own on SQLite, the schema ``dbos`` on PostgreSQL."""
    if isinstance(core.database.place, URL):
        return core.database.place.set(drivername="postgresql").render_as_string(hide_password=False)
    path = core.state / "workflows.db"
    _prepare_workflow_database(path)
    return f"sqlite:///{path}"


def _prepare_workflow_database(path: Path) -> None:
    """Owner only, and in write-ahead mode, which stays with the file: a step's record costs one sync, not three."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
