"""How the vault's database came to be as it is: one module in versions/ per schema, applied in order at the start.

A released one never changes. `scripts/write-migration` writes the next from what the tables have become.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import OperationalError

from homeport.domain.errors import HomeportError
from homeport.vault import engines

log = structlog.get_logger(__name__)

FIRST = "0001"
"""The schema of the version that kept no record of it: a database with tables and without one has this."""


_one = threading.Lock()
"""Alembic keeps what it works on in its modules: one migration at a time in a process."""


class SchemaUnknown(HomeportError):
    code = "vault.schema-unknown"
    remedy = "Start the version of Homeport that wrote this database, or a newer one."


def config(connection: Connection | None = None) -> Config:
    """Alembic's, for our migrations and, where one is given, on an open connection."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("file_template", "schema_%%(rev)s")
    made.attributes["connection"] = connection
    return made


def upgrade(place: Path | URL) -> None:
    """Brings a database's schema up to date; one that is empty gets it whole.

    All in one transaction under the lock of those who write, so that of several instances that start at once one
    does it. A copy of an SQLite file is set aside first. Raises SchemaUnknown, DatabaseUnreachable.
    """
    engine = engines.open_engine(place, foreign_keys=False)
    known = ScriptDirectory.from_config(config())
    head = known.get_current_head()
    try:
        with _one, engines.writing(engine).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = 0"))  # another instance may be at it for long
            engines.take_write_lock(connection)
            found = _schema(connection)
            if found == head:
                return
            if found is not None and found not in {each.revision for each in known.walk_revisions()}:
                raise SchemaUnknown(
                    f"The vault's database has schema {found}; this version of Homeport knows up to {head}."
                )
            if found is not None and isinstance(place, Path):
                _set_aside(place, found)
            if found == FIRST and MigrationContext.configure(connection).get_current_revision() is None:
                command.stamp(config(connection), FIRST)
            command.upgrade(config(connection), "head")
            _refuse_older_versions(connection, str(head))
            _check_references(connection)
        log.info("schema of the vault's database upgraded", before=found, now=head)
    except OperationalError as error:
        if isinstance(place, Path):
            raise
        raise engines.DatabaseUnreachable(
            f"The vault's database, {engines.shown(place)}, can't be used: {error.orig}"
        ) from error
    finally:
        engine.dispose()


def _schema(connection: Connection) -> str | None:
    """Of which revision the database is; None: it is empty."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and inspect(connection).has_table("settings"):
        return FIRST
    return current


def _refuse_older_versions(connection: Connection, head: str) -> None:
    """The first version of Homeport looks at this number, and at nothing else."""
    connection.execute(text("DELETE FROM settings WHERE name = 'schema_version'"))
    value = f'{{"version": {int(head)}}}'
    insert = text("INSERT INTO settings (name, value) VALUES ('schema_version', :value)")
    if connection.dialect.name == "postgresql":
        insert = text("INSERT INTO settings (name, value) VALUES ('schema_version', CAST(:value AS JSON))")
    connection.execute(insert, {"value": value})


def _check_references(connection: Connection) -> None:
    """What SQLite did not look after while tables were rebuilt."""
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise RuntimeError(f"the migration left rows that refer to nothing: {broken[:5]}")


def _set_aside(path: Path, revision: str) -> None:
    """A copy of the file as it was, whole or not at all; one that is there already is the same."""
    kept = path.with_name(f"{path.name}.schema-{int(revision)}")
    if kept.exists():
        return
    temporary = kept.with_name(f".{kept.name}.new")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    source, target = sqlite3.connect(path), sqlite3.connect(temporary)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
    for place in (temporary, path.parent):
        if place == path.parent:
            os.replace(temporary, kept)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
