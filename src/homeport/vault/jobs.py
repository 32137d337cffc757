"""Jobs: one run of an operation on an item, its tasks, and how it ends."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.job_types import STATUS, job_type
from homeport.domain.operations import CANCELLABLE, Operation
from homeport.domain.operations import way_back as domain_way_back
from homeport.domain.states import State
from homeport.vault import items
from homeport.vault.database import ItemRow, JobRow, Json, TaskRow, now
from homeport.vault.queueing import reason
from homeport.vault.tasks import is_final, shown

RUNNING = ("queued", "running", "waiting", "cancelling")
ENDED = ("succeeded", "failed", "cancelled")


class JobNotFound(HomeportError):
    code = "job.not-found"
    remedy = "See `homeport job list`."


def find(session: Session, job: str) -> JobRow:
    """Raises :class:`JobNotFound`."""
    row = session.get(JobRow, job)
    if row is None:
        raise JobNotFound(f"There is no job {job!r}.")
    return row


def end(session: Session, job: JobRow, item: ItemRow, state: str, item_state: State, **values: Any) -> None:
    """The one way in which a job ends: it and its item change together. ``values``: the job's error or result."""
    job.state, job.ended, job.waiting = state, now(), None
    for name, value in values.items():
        setattr(job, name, value)
    job.version += 1
    for task in session.scalars(select(TaskRow).where(TaskRow.job == job.id, TaskRow.state == "running")):
        task.state, task.ended = ("failed" if state == "failed" else "succeeded"), now()
    item.state = item_state
    if item.job == job.id:
        item.job = None


def way_back(job: JobRow, item: ItemRow) -> Operation | None:
    """The operation that cancelling a failed job begins: the way back out of a failover or failback that stuck."""
    if job.state != "failed" or item.job is not None:
        return None
    return domain_way_back(Operation(job.kind), item.state)


def restartable(session: Session, job: JobRow, item: ItemRow) -> bool:
    """A failed or cancelled job may run again when its operation is allowed now, and it is the item's last one."""
    if job.state not in ("failed", "cancelled") or item.job is not None or item.removed is not None:
        return False
    last = session.scalar(select(JobRow.id).where(JobRow.item == item.id).order_by(JobRow.created.desc()).limit(1))
    if last != job.id:
        return False
    if job.kind == Operation.PROTECT:
        return item.state is State.ENABLE_FAILED
    if job.kind in (Operation.CANCEL_FAILOVER, Operation.CANCEL_FAILBACK):
        return way_back(job, item) is not None
    return job.kind in items.allowed(session, item)


def allowed(session: Session, job: JobRow) -> list[str]:
    item = session.get_one(ItemRow, job.item)
    found = []
    not_begun = job.state == "queued" and job.admitted is None
    stoppable = job.state in ("queued", "running", "waiting") and job.kind in CANCELLABLE and not is_final(session, job)
    if stoppable or not_begun or way_back(job, item):
        found.append("cancel")
    if job.state == "waiting":
        found.append("resume")
    if restartable(session, job, item):
        found.append("restart")
    return found


def to_json(session: Session, job: JobRow) -> Json:
    tasks, tree = shown(session, job, running=job.state in RUNNING)
    named = job_type(job.kind)
    return {
        "id": job.id,
        "kind": job.kind,
        "type": named.name,
        "display_name": named.display,
        "status": STATUS.get(job.state, "Other"),
        "activity": job.activity or job.id,
        "target": {"type": "ReplicatedItem", "id": job.item, "name": job.item_name},
        "item": job.item,
        "item_name": job.item_name,
        "state": job.state,
        "version": job.version,
        "created": job.created.isoformat(),
        "started": job.started.isoformat() if job.started else None,
        "ended": job.ended.isoformat() if job.ended else None,
        "tasks": tasks,
        "task_tree": tree,
        "error": job.error,
        "errors": errors(job.error, tasks),
        "queued_because": reason(session, job),
        "waiting": job.waiting,
        "comments": list((job.resumed or {}).values()),
        "result": job.result,
        "allowed": allowed(session, job),
    }


def accepted_json(session: Session, job: JobRow) -> Json:
    """What was answered to who began it: it, or all that were begun with it."""
    together = (job.params or {}).get("group")
    if not together:
        return {"job": to_json(session, job)}
    return {"jobs": [to_json(session, find(session, each)) for each in together["jobs"].values()]}


def errors(error: Json | None, tasks: list[Json]) -> list[Json]:
    """All errors of a job, each once: its own first, then those of its tasks, with the task's name."""
    found = [] if error is None else [{**error, "task": None}]
    for task in tasks:
        told = task.get("error")
        if told is None:
            continue
        if error is not None and (told.get("code"), told.get("cause")) == (error.get("code"), error.get("cause")):
            found[0]["task"] = task["name"]
        else:
            found.append({**told, "task": task["name"]})
    return found
