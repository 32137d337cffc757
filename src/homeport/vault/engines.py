"""The two databases that the vault can live in: SQLite in the state folder, or PostgreSQL. What differs is here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError

from homeport.domain.errors import HomeportError

WRITE_LOCK = 0x686F6D65
"""Advisory lock of PostgreSQL that every writing transaction of a vault takes first."""

CHANNEL = "homeport"
"""PostgreSQL's notification channel: the vault's database was changed; the payload names the instance that did."""

_IDLE = 10_000
"""Milliseconds in an open transaction without a word until PostgreSQL ends the session: a process that was stopped
in the middle of a write holds the others up no longer than that."""


class DatabaseInvalid(HomeportError):
    code = "vault.database-invalid"
    remedy = "Name it as postgresql://USER:PASSWORD@HOST/DATABASE, or leave --database out for SQLite."


class DatabaseUnreachable(HomeportError):
    code = "vault.database-unreachable"
    remedy = "Start PostgreSQL, or mend the network to it and the address, user and password in --database."


def address_of(database: str) -> URL:
    """The address of a PostgreSQL database, with our driver in it. Raises :class:`DatabaseInvalid`."""
    try:
        url = make_url(database)
    except ArgumentError as error:
        raise DatabaseInvalid("The database is not named by an address that could be read.") from error
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise DatabaseInvalid(f"The database is to be PostgreSQL; found an address of {url.drivername!r}.")
    if not url.database:
        raise DatabaseInvalid("The address of the database names no database.")
    return url.set(drivername="postgresql+psycopg")


def shown(url: URL) -> str:
    """The address without its password, for people and logs."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def open_engine(place: Path | URL, *, foreign_keys: bool = True) -> Engine:
    """An engine on a file of SQLite (made, mode 0600, where it is not there) or on a database of PostgreSQL.

    ``foreign_keys`` off: a migration may rebuild a table that others refer to (SQLite only).
    """
    return _sqlite(place, foreign_keys) if isinstance(place, Path) else _postgres(place)


def take_write_lock(connection: Connection) -> None:
    """On PostgreSQL, what BEGIN IMMEDIATE is on SQLite: one writer at a time, until this transaction ends.

    Chosen over SERIALIZABLE because a refused transaction would have to run again, and what runs within
    ``Database.write`` is the caller's block, which can't be run again from here. Taken before the first read, at READ
    COMMITTED: each statement sees all that earlier writers committed, and nobody commits until this one has. Writers
    of all instances queue up, as they do on SQLite; a transaction takes about a millisecond.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})


def tell_change(connection: Connection, instance: str | None) -> None:
    """The other instances are told when this transaction commits, and only then."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_notify(:channel, :by)"), {"channel": CHANNEL, "by": instance or ""})


def _sqlite(path: Path, foreign_keys: bool) -> Engine:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        # The driver must not begin transactions by itself: `begin` below does, for reading or for writing.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _postgres(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=5,
        max_overflow=15,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "homeport",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = {_IDLE}")
        connection.execute("SET lock_timeout = 30000")
        connection.commit()  # or the pool's rollback would undo both

    return engine


def reading(engine: Engine) -> Engine:
    """Of its transactions, each sees one instant and can change nothing."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def writing(engine: Engine) -> Engine:
    """Of its transactions, each is taken for writing from its beginning; see :func:`take_write_lock`."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="READ COMMITTED")
    return engine.execution_options(writes=True)
