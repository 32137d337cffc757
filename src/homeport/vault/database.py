"""The vault's tables: SQLAlchemy 2, typed; embedded on SQLite in write-ahead mode.

All rows about recovery points are a cache that the stores can fill again; the rest is the vault's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, ForeignKey, String, create_engine, event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from homeport.domain.errors import HomeportError
from homeport.domain.states import Direction, State

SCHEMA_VERSION = 1

Json = dict[str, Any]


def now() -> datetime:
    """The present instant, UTC."""
    return datetime.now(UTC)


class UtcTime(TypeDecorator[datetime]):
    """An instant as ISO 8601 text in UTC: SQLite keeps no time zones by itself."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat()

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Base(DeclarativeBase):
    type_annotation_map = {Json: JSON, list[str]: JSON, list[Json]: JSON, datetime: UtcTime}  # noqa: RUF012


class SettingRow(Base):
    """One value of the vault itself: ``schema_version``, ``sealed`` (a sealed vault key that sites hand on)."""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Json]


class SiteRow(Base):
    __tablename__ = "sites"
    name: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    path: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)
    executor: Mapped[str | None]
    gateway: Mapped[Json | None]
    facts: Mapped[Json] = mapped_column(default=dict)
    last_seen: Mapped[datetime | None]
    inventoried: Mapped[datetime | None]


class MachineRow(Base):
    """A machine as of its site's last inventory."""

    __tablename__ = "machines"
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    uuid: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[Json]


class PolicyRow(Base):
    __tablename__ = "policies"
    name: Mapped[str] = mapped_column(primary_key=True)
    rpo_threshold: Mapped[int]
    retention: Mapped[int]
    app_consistent: Mapped[int]
    interval: Mapped[int]
    generated: Mapped[bool]


class ItemRow(Base):
    """A replicated item. ``home``: the machine's original site; ``away``: the other one.

    ``lineage``: the timelines whose points are offered, oldest first; the last one grows. ``timelines``: all that were
    ever made, by site. ``ties``: what one operation leaves for a later one (see items.py).
    """

    __tablename__ = "items"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    machine: Mapped[str]
    description: Mapped[Json]
    machine_key: Mapped[str]
    home: Mapped[str] = mapped_column(ForeignKey("sites.name"))
    away: Mapped[str] = mapped_column(ForeignKey("sites.name"))
    policy: Mapped[str] = mapped_column(ForeignKey("policies.name"))
    state: Mapped[State] = mapped_column(default=State.UNPROTECTED)
    direction: Mapped[Direction] = mapped_column(default=Direction.FORWARD)
    active_site: Mapped[str]
    store_site: Mapped[str]
    timeline: Mapped[str]
    lineage: Mapped[list[str]]
    timelines: Mapped[Json] = mapped_column(default=dict)
    ties: Mapped[Json] = mapped_column(default=dict)
    fence: Mapped[int] = mapped_column(default=0)
    job: Mapped[str | None]
    replicate: Mapped[Json | None]
    replication: Mapped[Json] = mapped_column(default=dict)
    crossed: Mapped[Json] = mapped_column(default=dict)
    test: Mapped[Json | None]
    failover_point: Mapped[str | None]
    recovery_machine: Mapped[Json | None]
    created: Mapped[datetime] = mapped_column(default=now)
    removed: Mapped[datetime | None]


class JobRow(Base):
    """One run of an operation; its id is the durable workflow's. ``before``: the item's state when it was accepted."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    item: Mapped[str] = mapped_column(ForeignKey("items.id"), index=True)
    item_name: Mapped[str]
    params: Mapped[Json]
    before: Mapped[State]
    direction: Mapped[Direction]
    state: Mapped[str] = mapped_column(default="queued", index=True)
    cancel: Mapped[bool] = mapped_column(default=False)
    version: Mapped[int] = mapped_column(default=1)
    created: Mapped[datetime] = mapped_column(default=now)
    started: Mapped[datetime | None]
    ended: Mapped[datetime | None]
    error: Mapped[Json | None]
    result: Mapped[Json | None]


class TaskRow(Base):
    __tablename__ = "tasks"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    title: Mapped[str]
    state: Mapped[str] = mapped_column(default="running")
    progress: Mapped[Json | None]
    started: Mapped[datetime] = mapped_column(default=now)
    ended: Mapped[datetime | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]


class WorkRow(Base):
    """What a site's configuration server is asked to do. ``key``: job and step, so that a replayed step finds it."""

    __tablename__ = "work"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), index=True)
    kind: Mapped[str]
    params: Mapped[Json]
    job: Mapped[str | None]
    task: Mapped[str | None]
    state: Mapped[str] = mapped_column(default="queued", index=True)
    attempt: Mapped[int] = mapped_column(default=0)
    executor: Mapped[str | None]
    progress: Mapped[Json | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    created: Mapped[datetime] = mapped_column(default=now)
    changed: Mapped[datetime] = mapped_column(default=now)


class PointRow(Base):
    """A recovery point as its store last told it."""

    __tablename__ = "points"
    timeline: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Json]


class SchemaUnknown(HomeportError):
    code = "vault.schema-unknown"
    remedy = "Start the version of Homeport that wrote this state folder, or a newer one."


class Database:
    """Sessions on the vault's database. ``changed`` is called after each commit of :meth:`write`."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        """Opens or creates the database (mode 0600: machine keys lie in it)."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self.engine = _engine(path)
        self._writes = self.engine.execution_options(immediate=True)
        self._lock = threading.Lock()
        self._changed = changed
        Base.metadata.create_all(self.engine)
        with self.write() as session:
            found = session.get(SettingRow, "schema_version")
            if found is None:
                session.add(SettingRow(name="schema_version", value={"version": SCHEMA_VERSION}))
            elif found.value["version"] > SCHEMA_VERSION:
                raise SchemaUnknown(
                    f"The vault's database has schema {found.value['version']}; "
                    f"this version of Homeport knows {SCHEMA_VERSION}."
                )

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one instant and changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, taken for writing from its beginning: what it read is still so when it commits."""
        with self._lock, Session(self._writes, expire_on_commit=False) as session:
            yield session
            session.commit()
        self._changed()

    def close(self) -> None:
        self.engine.dispose()


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        # The driver must not begin transactions by itself: `begin` below does, for reading or for writing.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
