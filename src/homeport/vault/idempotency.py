"""Requests that may be repeated: the same Idempotency-Key gets the same answer, and has its effect once.

A key is claimed before the request is looked at. The job that it begins is tied to the key in the transaction that
accepts the job; so a vault that dies before it answered knows, asked again, whether there is anything left to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault.core import Core
from homeport.vault.database import IdempotencyRow, InstanceRow, Json, now

KEPT = timedelta(hours=24)
_key: ContextVar[str | None] = ContextVar("idempotency_key", default=None)


class KeyMismatch(HomeportError):
    code = "request.idempotency-mismatch"
    remedy = "Use a new Idempotency-Key for each request; repeat a request exactly as it was."


class InProgress(HomeportError):
    code = "request.in-progress"
    remedy = "Ask again in a few seconds, with the same Idempotency-Key."


@dataclass(frozen=True)
class Kept:
    """What a key was answered with; or the job that was begun under it, where the answer was not given."""

    status: int | None
    headers: Json
    body: str
    job: str | None


def _owner(core: Core) -> str:
    """The instance of the vault that answers: what it had claimed when it ended, another one may claim."""
    return core.database.instance or ""


def claim(core: Core, key: str, request: str) -> Kept | None:
    """What ``key`` brought; None: nothing yet, and it is the caller's now, to be :func:`keep`-ed or :func:`release`-d.

    ``request``: digest of what is asked. Raises :class:`KeyMismatch`, :class:`InProgress`.
    """
    with core.database.write() as session:
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.created < now() - KEPT))
        row = session.get(IdempotencyRow, key)
        if row is None:
            session.add(IdempotencyRow(key=key, request=request, owner=_owner(core)))
            return None
        if row.request != request:
            raise KeyMismatch(f"The Idempotency-Key {key!r} was used for another request, less than 24 hours ago.")
        if row.status is not None or row.job is not None:
            return Kept(row.status, row.headers or {}, row.body or "", row.job)
        if session.scalar(select(InstanceRow.id).where(InstanceRow.id == row.owner, InstanceRow.dead.is_(None))):
            raise InProgress(f"The request with the Idempotency-Key {key!r} is being answered.")
        row.owner, row.created = _owner(core), now()
        return None


def keep(core: Core, key: str, status: int, headers: Json, body: str) -> None:
    with core.database.write() as session:
        row = session.get(IdempotencyRow, key)
        if row is not None and row.owner == _owner(core):
            row.status, row.headers, row.body = status, headers, body


def release(core: Core, key: str) -> None:
    """The request failed in a way that a repetition may mend: nothing is kept but the job that it began, if it did."""
    with core.database.write() as session:
        row = session.get(IdempotencyRow, key)
        if row is not None and row.owner == _owner(core) and row.job is None:
            session.delete(row)


@contextmanager
def under(key: str) -> Iterator[None]:
    """Jobs that are accepted within are tied to ``key``."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def accepted(session: Session, job: str) -> None:
    """Ties a job to the key of the request that it is accepted for, if that has one."""
    key = _key.get()
    if key is not None and (row := session.get(IdempotencyRow, key)) is not None:
        row.job = job
