"""Several processes that run one vault on one PostgreSQL: who is alive, and who takes up what a dead one had begun.

Each start of a process is an instance of its own, with a lease that it renews; all times are the database's. Whoever
finds one that was silent for too long declares it dead, which happens once and within a transaction of
``Database.write``, so that the dead one, should it come back, fails in its next write before that has any effect, and
ends. Durable workflows whose instance isn't alive are put back into the workflow library's queue, from which exactly
one instance takes each; the library refuses the records of whom it took a workflow from.

On SQLite there is one instance; a lock in the state folder sees to that. Whatever is pending is then its own.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
import structlog
from dbos import DBOS
from sqlalchemy import CursorResult, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault import engines
from homeport.vault.core import Core
from homeport.vault.database import DeclaredDead, HeardRow, InstanceRow
from homeport.vault.liveness import Seen
from homeport.vault.signal import Stopping

log = structlog.get_logger(__name__)

EXIT_DECLARED_DEAD = 75
"""The process's exit code: to be started again (EX_TEMPFAIL)."""

_KEPT = timedelta(days=7)
"""How long the rows of dead instances are kept, for people who look back."""

_TELL = 1.0
"""Seconds between two times of telling the others which sites were heard of."""


def end_process() -> None:
    """Ends this process at once, without any further effect: the machines' own processes go on."""
    log.critical("this instance was silent for too long and was declared dead: it ends")
    os._exit(EXIT_DECLARED_DEAD)


class Instances:
    """This process's own instance, and its eye on the others. ``taken_over``: called when an instance was declared
    dead and its workflows are put back."""

    def __init__(self, core: Core, lock: Path, taken_over: Callable[[], None]) -> None:
        self.id = uuid.uuid4().hex
        self._core = core
        self._place = f"{socket.gethostname()}:{lock}:{lock.stat().st_ino}"
        self._taken_over = taken_over
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """From here on this process writes as an instance of the vault."""
        database = self._core.database
        with database.write() as session:
            now = _now(session)
            # The lock of the state folder is ours: whoever had it has ended, silent for long or not.
            former = update(InstanceRow).where(InstanceRow.dead.is_(None))
            if database.shared:
                former = former.where(InstanceRow.place == self._place)
            session.execute(former.values(dead=now))
            session.execute(delete(InstanceRow).where(InstanceRow.dead < now - _KEPT))
            session.execute(delete(HeardRow).where(HeardRow.instance.not_in(select(InstanceRow.id))))
            session.add(InstanceRow(id=self.id, place=self._place, started=now, beat=now))
        database.instance, database.lost = self.id, end_process

    def watch(self) -> None:
        """From here on this instance renews its lease and looks after the others, where there may be others."""
        if self._core.database.shared:
            self._share_liveness()
            self._run("lease", self._keep_lease)
            self._run("liveness", self._keep_liveness)
            self._run("changes", self._hear_changes)

    def alone(self) -> bool:
        """Whether no other instance is alive."""
        with self._core.database.read() as session:
            return self._alive(session) == {self.id}

    def take_over(self) -> None:
        """Put the pending workflows of all who are not alive back into the queue, for whoever comes first.

        May be done by several at once, and again: one that was taken from the queue meanwhile is its taker's.
        """
        # Whose they are is read before who is alive: an instance that begins in between is not taken for a dead one.
        pending = {
            str(each.executor_id)
            for each in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
            if each.executor_id
        }
        if not pending - {self.id}:
            return
        with self._core.database.read() as session:
            ended = pending - self._alive(session)
        if ended:
            # Through the library's own recovery, which its documentation names but its interface does not.
            found = DBOS._recover_pending_workflows(sorted(ended))
            log.warning("workflows of ended instances are taken up", instances=sorted(ended), count=len(found))

    def stop(self) -> None:
        """What this instance had under way is free for others at once."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(10)
        database = self._core.database
        database.lost = _stopping
        if database.instance is None:
            return
        try:
            with database.write() as session:
                session.execute(update(InstanceRow).where(InstanceRow.id == self.id).values(dead=_now(session)))
        except (SQLAlchemyError, HomeportError) as error:
            log.warning("the end of this instance was not recorded", error=str(error))

    def _alive(self, session: Session) -> set[str]:
        return set(session.scalars(select(InstanceRow.id).where(InstanceRow.dead.is_(None))))

    def _run(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"instance-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _keep_lease(self) -> None:
        while not self._stopped.wait(self._core.timeouts.beat):
            try:
                self.renew()
                ended = self.declare_dead()
                self.take_over()
                if ended:
                    self._taken_over()
            except DeclaredDead:
                return
            except Exception as error:
                # The database may be away for a while; a lease that can't be renewed is told apart by the next write.
                log.warning("the lease could not be looked after", error=str(error))

    def renew(self) -> None:
        """Say that this instance is alive; ends the process if it was declared dead."""
        # Not through `write`: an instance must not seem silent because writers queue up.
        with Session(self._core.database.engine) as session:
            renewed = cast(
                CursorResult[Any],
                session.execute(
                    update(InstanceRow)
                    .where(InstanceRow.id == self.id, InstanceRow.dead.is_(None))
                    .values(beat=text("clock_timestamp()"))
                    .execution_options(synchronize_session=False)
                ),
            )
            session.commit()
        if renewed.rowcount == 0:
            self._core.database.lost()

    def declare_dead(self) -> list[str]:
        """Those that this call declared dead: of several who look at once, one gets each."""
        silent = timedelta(seconds=self._core.timeouts.lease)
        database = self._core.database
        with database.read() as session:
            if not list(session.scalars(_silent(_now(session) - silent))):
                return []
        with database.write() as session:
            now = _now(session)
            found = list(session.scalars(_silent(now - silent)))
            session.execute(update(InstanceRow).where(InstanceRow.id.in_(found)).values(dead=now))
        for each in found:
            log.error("an instance of this vault was silent for too long and is declared dead", instance=each)
        return found

    def _keep_liveness(self) -> None:
        while not self._stopped.wait(_TELL):
            try:
                self._share_liveness()
            except Exception as error:
                log.warning("which sites were heard of could not be shared", error=str(error))

    def _share_liveness(self) -> None:
        """Tell the others which sites this instance heard of, and take in what they heard."""
        mine = self._core.liveness.own()
        with Session(self._core.database.engine) as session:
            # Losing the last second of this in a crash of PostgreSQL is no harm: no need to wait for its disk.
            session.execute(text("SET LOCAL synchronous_commit = off"))
            now = _now(session)
            rows = [
                {
                    "instance": self.id,
                    "site": site,
                    "last": None if seen.last is None else now - timedelta(seconds=seen.last),
                    "dropped": None if seen.dropped is None else now - timedelta(seconds=seen.dropped),
                }
                for site, seen in sorted(mine.items())
            ]
            if rows:
                told = insert(HeardRow).values(rows)
                kept = {"last": told.excluded.last, "dropped": told.excluded.dropped}
                session.execute(told.on_conflict_do_update(index_elements=["instance", "site"], set_=kept))
            others = list(session.scalars(select(HeardRow).where(HeardRow.instance != self.id)))
            heard = [(row.site, Seen(_age(now, row.last), _age(now, row.dropped))) for row in others]
            session.commit()
        self._core.liveness.take_in(heard)

    def _hear_changes(self) -> None:
        """Wake those who wait here for what another instance wrote."""
        address = self._core.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not self._stopped.is_set():
            try:
                with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {engines.CHANNEL}")
                    self._core.signal.notify()  # what was told before is lost
                    while not self._stopped.is_set():
                        for told in connection.notifies(timeout=1):
                            if told.payload != self.id:
                                self._core.signal.notify()
            except psycopg.Error as error:
                if not self._stopped.wait(1):
                    log.warning("changes by other instances are not heard of", error=str(error))


def _stopping() -> None:
    raise Stopping


def _silent(since: datetime) -> Any:
    return select(InstanceRow.id).where(InstanceRow.dead.is_(None), InstanceRow.beat < since)


def _now(session: Session) -> datetime:
    """By the clock that all instances share."""
    if session.get_bind().dialect.name == "postgresql":
        found: datetime = session.scalar(text("SELECT clock_timestamp()"))
        return found.astimezone(UTC)
    return datetime.now(UTC)


def _age(now: datetime, at: datetime | None) -> float | None:
    return None if at is None else (now - at).total_seconds()
