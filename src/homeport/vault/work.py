"""The queue of work for sites: the vault asks, a site's configuration server takes it by long poll and answers.

    queued ──taken──▶ handed ──first word──▶ running ──▶ done | failed
       ▲                │                       │
       └── its server restarted (new executor) ─┘        withdrawn: the vault stopped waiting

Work may also be posted: nobody waits for it, and it stays queued until the site's server comes for it.

A piece of work is found again by its key (job and step), so that a step which runs twice asks once. Each carries a
fence number that grows with everything asked for an item; a receiver refuses a lower one than it has seen.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, JobRow, Json, SiteRow, TaskRow, WorkRow, now

log = structlog.get_logger(__name__)

OPEN = ("queued", "handed", "running")


class SiteUnreachable(HomeportError):
    """The site's configuration server was not heard of for too long, or did not finish in the time that there was."""

    code = "site.unreachable"
    remedy = "Start Homeport at that site (or mend the network to it), then restart the job."


class GivenUp(Exception):
    """Who asked does not want to wait any longer; the site may do it all the same."""


class WorkUnknown(HomeportError):
    code = "work.unknown"
    remedy = "The vault does not wait for this work any more; drop its result."


@dataclass(frozen=True)
class Ask:
    """What is asked of a site. ``silence``: seconds without a word from its server after which to give up;
    ``limit``: seconds in all (None: as long as it is at work)."""

    site: str
    kind: str
    params: Json
    key: str
    item: str | None = None
    job: str | None = None
    task: str | None = None
    silence: float | None = None
    limit: float | None = None


def ask(core: Core, request: Ask, given_up: Callable[[], bool] | None = None) -> Json:
    """The result, once there is one. Raises what the site's server answered, or :class:`SiteUnreachable`; and
    :class:`GivenUp` when ``given_up`` says so while the work is not done."""
    work = _find_or_queue(core, request)
    silence = core.timeouts.silence if request.silence is None else request.silence
    begun = time.monotonic()

    def outcome() -> WorkRow | str | None:
        with core.database.read() as session:
            row = session.get_one(WorkRow, work)
        if row.state not in OPEN:
            return row
        if given_up is not None and given_up():
            return _GIVEN_UP
        waited = time.monotonic() - begun
        if request.limit is not None and waited > request.limit:
            return f"did not finish {request.kind} within {request.limit:.0f} s"
        quiet = min(core.liveness.silent_for(request.site), waited)
        if quiet > silence:
            return f"was not heard of for {quiet:.0f} s"
        return None

    while True:
        found = core.signal.until(outcome, every=0.5)
        if isinstance(found, str):
            if not _withdraw(core, work):
                continue  # it ended at this very moment: take the outcome
            if found is _GIVEN_UP:
                raise GivenUp
            raise SiteUnreachable(
                f"The configuration server of site {request.site!r} {found}.", site=request.site, kind=request.kind
            )
        assert isinstance(found, WorkRow)
        if found.state == "done":
            return found.result or {}
        if found.state == "withdrawn" and given_up is not None and given_up():
            raise GivenUp  # as before a kill
        if found.state == "withdrawn":
            raise SiteUnreachable(
                f"The configuration server of site {request.site!r} did not finish {request.kind} in time.",
                site=request.site,
                kind=request.kind,
            )
        raise error_from_json(found.error or {})


_GIVEN_UP = "is not waited for any more"


def post(core: Core, request: Ask) -> None:
    """Ask and don't wait: nobody reads the outcome, and no limit of time withdraws it (see :func:`withdraw_posted`)."""
    _find_or_queue(core, request)


def post_if_idle(core: Core, request: Ask) -> WorkRow | None:
    """Post work on an item while no job is at work on it, whose own requests it could overtake; what became of it, once
    it was posted. None: not now."""
    with core.database.read() as session:
        known = session.scalar(select(WorkRow).where(WorkRow.key == request.key))
    if known is not None:
        return known
    with core.database.write() as session:
        item = session.get_one(ItemRow, request.item)
        known = session.scalar(select(WorkRow).where(WorkRow.key == request.key))
        if known is None and item.job is None:
            known = _queue(session, core, request)
        return known


def withdraw_posted(core: Core, item: str, kind: str, site: str, vm: str) -> None:
    """What was posted about a machine of ``item`` must not be done from now on: what is queued is never handed out;
    what the site's server has in hand is waited for, while the server is there."""

    def still_open() -> list[WorkRow]:
        with core.database.read() as session:
            wanted = select(WorkRow).where(WorkRow.kind == kind, WorkRow.site == site, WorkRow.state.in_(OPEN))
            rows = list(session.scalars(wanted))
        return [row for row in rows if row.params["item"] == item and row.params["vm"] == vm]

    def done() -> bool | None:
        for row in still_open():
            if row.state == "queued":
                _withdraw(core, row.id, ("queued",))
        return True if not still_open() or core.liveness.gone(site, core.timeouts.gone) else None

    core.signal.until(done, core.timeouts.silence)
    for row in still_open():
        _withdraw(core, row.id)


def error_from_json(data: Json) -> HomeportError:
    """An error as a site's server told it; what it left out is filled in."""
    details = {key: value for key, value in dict(data.get("details") or {}).items() if key not in _RESERVED}
    return HomeportError(
        str(data.get("cause") or "No cause was given."),
        code=str(data.get("code") or "homeport.error"),
        remedy=str(data.get("remedy") or ""),
        **details,
    )


_RESERVED = frozenset({"cause", "code", "remedy", "self"})


def _find_or_queue(core: Core, request: Ask) -> str:
    with core.database.read() as session:
        known = session.scalar(select(WorkRow.id).where(WorkRow.key == request.key))
    if known is not None:
        return known
    with core.database.write() as session:
        known = session.scalar(select(WorkRow.id).where(WorkRow.key == request.key))
        return known or _queue(session, core, request).id


def _queue(session: Session, core: Core, request: Ask) -> WorkRow:
    params = dict(request.params)
    if request.item is not None:
        item = session.get_one(ItemRow, request.item)
        params |= for_item(core, item)
    row = WorkRow(
        id=uuid.uuid4().hex,
        key=request.key,
        site=request.site,
        kind=request.kind,
        params=params,
        job=request.job,
        task=request.task,
    )
    session.add(row)
    session.flush()
    return row


def for_item(core: Core, item: ItemRow) -> Json:
    """What the params of all work on an item carry; takes the next fence number."""
    item.fence += 1
    return item_params(core, item)


def item_params(core: Core, item: ItemRow) -> Json:
    return {
        "item": item.id,
        "machine": item.machine,
        "keys": {"vault": core.secrets.vault_id, "machine_key": item.machine_key},
        "fence": item.fence,
        "exclude": item.target.get("excluded_disks", []),
        "group": item.group_name,
    }


def _withdraw(core: Core, work: str, states: tuple[str, ...] = OPEN) -> bool:
    """Stop waiting for it; False when it is in none of ``states`` any more."""
    with core.database.write() as session:
        row = session.get_one(WorkRow, work)
        if row.state not in states:
            return False
        row.state, row.changed = "withdrawn", now()
    return True


def hello(core: Core, site: str, executor: str) -> None:
    """A server of ``site`` began: what an earlier one had in hand is handed out again."""
    with core.database.write() as session:
        session.execute(
            update(WorkRow)
            .where(WorkRow.site == site, WorkRow.state.in_(("handed", "running")))
            .where(or_(WorkRow.executor.is_(None), WorkRow.executor != executor))
            .values(state="queued", executor=None, changed=now())
        )
    core.liveness.heard(site)


def requeue_unacknowledged(core: Core) -> None:
    """At the vault's start: an answer to a poll may have died with it, so what nobody acknowledged is handed again."""
    with core.database.write() as session:
        session.execute(
            update(WorkRow).where(WorkRow.state == "handed").values(state="queued", executor=None, changed=now())
        )


def take(core: Core, site: str, have: frozenset[str] | None = None) -> list[Json]:
    """What is queued for ``site``; it is in its server's hand from now on.

    ``have``: the ids that the server has in hand; what it was handed and does not have comes again (an answer was
    lost).
    """
    with core.database.read() as session:
        if not list(session.scalars(_takeable(site, have))):
            return []
    taken: list[Json] = []
    with core.database.write() as session:
        executor = session.get_one(SiteRow, site).executor
        fences = _open_fences(session, site)
        for row in session.scalars(_takeable(site, have)):
            if row.kind != "fence" and row.created > fences.get(row.params.get("item"), row.created):
                continue
            row.state, row.executor, row.changed = "handed", executor, now()
            row.attempt += 1
            taken.append({"id": row.id, "kind": row.kind, "params": row.params, "attempt": row.attempt})
    return taken


def _open_fences(session: Session, site: str) -> dict[str | None, datetime]:
    """By item since when a fence waits to be carried out at ``site``. What was asked of the item later waits for that:
    its fence number is higher, and the fence would be refused as superseded by it, its machine left running."""
    wanted = select(WorkRow).where(WorkRow.site == site, WorkRow.kind == "fence", WorkRow.state.in_(OPEN))
    return {row.params.get("item"): row.created for row in session.scalars(wanted.order_by(WorkRow.created.desc()))}


def _takeable(site: str, have: frozenset[str] | None) -> Any:
    lost = WorkRow.state == "queued"
    if have is not None:
        lost = or_(lost, (WorkRow.state.in_(("handed", "running"))) & WorkRow.id.not_in(have))
    return select(WorkRow).where(WorkRow.site == site, lost).order_by(WorkRow.created)


def update_work(
    core: Core, site: str, work: str, state: str, *, progress: Json | None, result: Json | None, error: Json | None
) -> None:
    """A word from the server at work. An outcome that is recorded already stays. Raises :class:`WorkUnknown`."""
    core.liveness.heard(site)
    with core.database.write() as session:
        row = session.get(WorkRow, work)
        if row is None or row.site != site or row.state == "withdrawn":
            raise WorkUnknown(f"There is no work {work!r} for site {site!r} that anyone waits for.")
        if row.state not in OPEN:
            return
        row.state, row.changed = state, now()
        if progress is not None:
            row.progress = progress
            _show_progress(session, row, progress)
        if state == "done":
            row.result = result or {}
        if state == "failed":
            row.error = error or {}
            log.warning(
                "work failed", site=site, kind=row.kind, code=row.error.get("code"), cause=row.error.get("cause")
            )


def _show_progress(session: Session, row: WorkRow, progress: Json) -> None:
    if row.job is None or row.task is None:
        return
    task, job = session.get(TaskRow, (row.job, row.task)), session.get(JobRow, row.job)
    if task is not None and job is not None and task.state == "running":
        task.progress = progress
        job.version += 1
