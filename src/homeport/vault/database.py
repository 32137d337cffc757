"""The vault's tables: SQLAlchemy 2, typed; on SQLite in the state folder, or on PostgreSQL (engines.py).

A changed table needs a migration: see migrations/.

All rows about recovery points are a cache that the stores can fill again; the rest is the vault's own.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, BigInteger, DateTime, Enum, ForeignKey, String, select
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from homeport.domain.states import Direction, State
from homeport.vault import engines, migrations
from homeport.vault.signal import Stopping

Json = dict[str, Any]


def now() -> datetime:
    """The present instant, UTC."""
    return datetime.now(UTC)


class UtcTime(TypeDecorator[datetime]):
    """An instant, UTC. PostgreSQL's own type there; ISO 8601 text on SQLite, which keeps no time zones by itself: as
    all are of one zone and compared byte by byte, the text sorts as the instants do."""

    impl = String(40)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        own: TypeEngine[Any] = DateTime(timezone=True) if dialect.name == "postgresql" else String(40)
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).isoformat()

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value)


def _names(kind: type[enum.Enum]) -> Enum:
    """Kept as text on both databases, so that a further name is no change of the schema."""
    return Enum(kind, native_enum=False, length=64)


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        Json: JSON,
        list[str]: JSON,
        list[Json]: JSON,
        datetime: UtcTime,
        State: _names(State),
        Direction: _names(Direction),
    }


class SettingRow(Base):
    """One value of the vault itself: ``vault`` (its id), ``sealed`` (a sealed vault key that sites hand on), …"""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Json]


class SiteRow(Base):
    """``store``: URL of its recovery store, where that is not in its own folder. ``inventoried``: as of when its
    machines are known; ``discovery``: how looking at them goes (inventory.py). ``removed``: the row stays for
    the items that once referred to it; a site of the same name takes it over."""

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
    discovery: Mapped[Json] = mapped_column(default=dict, server_default="{}")
    store: Mapped[str | None]
    removed: Mapped[datetime | None]


class MachineRow(Base):
    """A machine as of its site's last inventory."""

    __tablename__ = "machines"
    site: Mapped[str] = mapped_column(ForeignKey("sites.name"), primary_key=True)
    uuid: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[Json]


class PolicyRow(Base):
    """``removed``: the row stays for the items that once referred to it; a policy of the same name takes it over."""

    __tablename__ = "policies"
    name: Mapped[str] = mapped_column(primary_key=True)
    rpo_threshold: Mapped[int]
    retention: Mapped[int]
    app_consistent: Mapped[int]
    interval: Mapped[int]
    generated: Mapped[bool]
    rpo_critical: Mapped[int | None]
    removed: Mapped[datetime | None]


class ItemRow(Base):
    """A replicated item. ``home``: the machine's original site; ``away``: the other one.

    ``lineage``: the timelines whose points are offered, oldest first; the last one grows. ``timelines``: all that were
    ever made, by site. ``ties``: what one operation leaves for a later one (see items.py). ``target``: a
    :class:`homeport.domain.target.Target`. ``group_name``: its replication group's (groups.py). ``purge_at``: of a
    removed item, when its points go; None: they have.
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
    fence: Mapped[int] = mapped_column(BigInteger, default=0)  # a restored vault's begins at milliseconds since 1970
    job: Mapped[str | None]
    replicate: Mapped[Json | None]
    replication: Mapped[Json] = mapped_column(default=dict)
    crossed: Mapped[Json] = mapped_column(default=dict)
    test: Mapped[Json | None]
    failover_point: Mapped[str | None]
    recovery_machine: Mapped[Json | None]
    created: Mapped[datetime] = mapped_column(default=now)
    changed: Mapped[datetime | None] = mapped_column(default=now, onupdate=now, index=True)
    removed: Mapped[datetime | None]
    purge_at: Mapped[datetime | None]
    target: Mapped[Json] = mapped_column(default=dict, server_default="{}")
    group_name: Mapped[str | None]


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
    activity: Mapped[str | None] = mapped_column(index=True)
    """The first job of a chain of restarts and ways back: what belongs together."""
    admitted: Mapped[datetime | None]
    """When its workflow was let begin; None while it waits for the limits of its sites."""
    waiting: Mapped[Json | None]
    """{"step", "prompt", "since"} while a step asks for the operator."""
    resumed: Mapped[Json | None]
    """The operator's answers by step: {"comment", "at"}."""
    changed: Mapped[datetime | None] = mapped_column(default=now, onupdate=now, index=True)


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


class IdempotencyRow(Base):
    """An Idempotency-Key and the answer that it got. ``status`` None: it is being answered (by the process ``owner``).

    ``job``: accepted under this key, in one transaction with it: the answer where the process died before giving it.
    """

    __tablename__ = "idempotency"
    key: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[str]
    """Digest of method, path, query and body."""
    owner: Mapped[str]
    job: Mapped[str | None]
    status: Mapped[int | None]
    headers: Mapped[Json | None]
    body: Mapped[str | None]
    created: Mapped[datetime] = mapped_column(default=now, index=True)


class InstanceRow(Base):
    """A process that runs this vault. ``beat``: when it last renewed its lease, by the database's clock. ``dead``: when
    it ended, or was declared dead; it has no effect from then on (see instances.py)."""

    __tablename__ = "instances"
    id: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[str]
    started: Mapped[datetime] = mapped_column(default=now)
    beat: Mapped[datetime]
    dead: Mapped[datetime | None]


class HeardRow(Base):
    """When an instance last heard of a site's server, and when its connection last broke, by the database's clock."""

    __tablename__ = "heard"
    instance: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    last: Mapped[datetime | None]
    dropped: Mapped[datetime | None]


class CheckRow(Base):
    """The last look of the checks at an item. ``due``: when the next one is to be; ``at`` None: there was none yet."""

    __tablename__ = "checks"
    item: Mapped[str] = mapped_column(ForeignKey("items.id"), primary_key=True)
    at: Mapped[datetime | None]
    due: Mapped[datetime] = mapped_column(index=True)
    findings: Mapped[list[Json]] = mapped_column(default=list)


class ServerRow(Base):
    """A server of the vault, by its name. ``role``: a :class:`homeport.domain.servers.Role`; ``site``: empty for the
    vault's own. ``state``: "joining" until its certificate was first shown, "joined", "revoked". ``key``: SHA-256 of
    the public key that it joined with. ``removed``: the row stays for the log; a server of the same name takes it
    over."""

    __tablename__ = "servers"
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    site: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    key: Mapped[str]
    version: Mapped[str | None]
    created: Mapped[datetime] = mapped_column(default=now)
    joined: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    removed: Mapped[datetime | None]


class CertificateRow(Base):
    """A certificate that the authority issued. ``serial``: hex; ``key``: SHA-256 of its public key."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(primary_key=True)
    server: Mapped[str] = mapped_column(ForeignKey("servers.name"), index=True)
    uri: Mapped[str]
    key: Mapped[str]
    pem: Mapped[str]
    not_before: Mapped[datetime]
    not_after: Mapped[datetime]
    revoked: Mapped[datetime | None] = mapped_column(index=True)
    reason: Mapped[str | None]


class RegistrationKeyRow(Base):
    """A registration key that was given out. ``secret``: its SHA-256; ``key``: SHA-256 of the public key that used it;
    ``used``: when that server was first heard of with its certificate."""

    __tablename__ = "registration_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str]
    secret: Mapped[str]
    replace: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime]
    server: Mapped[str | None]
    key: Mapped[str | None]
    used: Mapped[datetime | None]


class Database:
    """Sessions on the vault's database. ``changed`` is called after each commit of :meth:`write`."""

    def __init__(self, place: Path | URL, changed: Callable[[], None]) -> None:
        """Opens the database, makes it where it is empty, and brings its schema up to date.

        ``place``: a file of SQLite (mode 0600: machine keys lie in it), or a database of PostgreSQL. Raises
        SchemaUnknown, DatabaseUnreachable.
        """
        migrations.upgrade(place)
        self.place = place
        self.engine = engines.open_engine(place)
        self.shared = self.engine.dialect.name == "postgresql"
        """Whether other instances of the vault may work on it at the same time."""
        self.instance: str | None = None
        """Which instance of the vault writes here; None: one that has not begun."""
        self.lost: Callable[[], None] = _lost
        """Called in the thread that finds this instance declared dead; must not return."""
        self._reads = engines.reading(self.engine)
        self._writes = engines.writing(self.engine)
        self._lock = threading.Lock()
        self._changed = changed
        self._patience = threading.local()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one instant and changes nothing."""
        with Session(self._reads, expire_on_commit=False) as session:
            self._connect(session)
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, taken for writing from its beginning: what it read is still so when it commits.

        An instance that was declared dead gets no further than here: it ends.
        """
        with self._lock, Session(self._writes, expire_on_commit=False) as session:
            self._connect(session)
            engines.take_write_lock(session.connection())
            self._live(session)
            yield session
            engines.tell_change(session.connection(), self.instance)
            session.commit()
        self._changed()

    def _live(self, session: Session) -> None:
        # Nobody is declared dead but in a transaction of `write`: what is read here holds until the commit.
        if self.instance is None:
            return
        found = session.execute(select(InstanceRow.dead).where(InstanceRow.id == self.instance)).one_or_none()
        if found is None or found.dead is not None:
            session.rollback()
            self.lost()

    @contextmanager
    def patient(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """In this thread, a database that is away is waited for until it is back, or the vault stops."""
        self._patience.stopped = stopped
        try:
            yield
        finally:
            self._patience.stopped = None

    def _connect(self, session: Session) -> None:
        since = time.monotonic()
        while True:
            try:
                session.connection()
                return
            except OperationalError as error:
                if not self.shared:
                    raise
                session.rollback()
                stopped = getattr(self._patience, "stopped", None)
                if stopped is not None and stopped():
                    raise Stopping from error
                if stopped is None and time.monotonic() - since > _PATIENCE:
                    raise engines.DatabaseUnreachable(
                        f"The vault's database did not answer for {_PATIENCE:.0f} s: {error.orig}"
                    ) from error
                time.sleep(0.5)

    def close(self) -> None:
        self.engine.dispose()


_PATIENCE = 5.0
"""Seconds for which a question of the API waits for PostgreSQL to come back."""


class DeclaredDead(BaseException):
    """This process was silent for too long; another instance of the vault has taken its work over.

    Not an Exception, so that nobody takes it for the outcome of a step.
    """


def _lost() -> None:
    raise DeclaredDead
