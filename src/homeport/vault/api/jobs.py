"""Jobs: what runs, what ran, and how far it is."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from homeport.vault import items, jobs, operations
from homeport.vault.api.context import TheCore
from homeport.vault.core import Core
from homeport.vault.database import JobRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


def job_json(core: Core, job: str) -> dict[str, Any]:
    with core.database.read() as session:
        return jobs.to_json(session, jobs.find(session, job))


@router.get("")
def list_jobs(
    core: TheCore, item: str | None = None, state: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """The newest first. ``item``: name or id."""
    with core.database.read() as session:
        wanted = select(JobRow).order_by(JobRow.created.desc()).limit(limit)
        if item is not None:
            wanted = wanted.where(JobRow.item == items.find(session, item).id)
        if state is not None:
            wanted = wanted.where(JobRow.state == state)
        return {"jobs": [jobs.to_json(session, job) for job in session.scalars(wanted)]}


@router.get("/{job}")
async def get_job(
    core: TheCore,
    job: str,
    wait: Annotated[float, Query(ge=0, le=120)] = 0,
    version: int | None = None,
) -> dict[str, Any]:
    """``wait``: up to so many seconds, until the job's version is above ``version`` (default: the one it has now) or
    the job has ended."""
    deadline = time.monotonic() + wait
    while True:
        seen = core.signal.version
        found = await run_in_threadpool(job_json, core, job)
        version = found["version"] if version is None else version
        left = deadline - time.monotonic()
        if found["state"] in jobs.ENDED or found["version"] > version or left <= 0 or core.signal.stopped:
            return found
        await core.signal.wait_async(seen, left)


@router.post("/{job}/cancel", status_code=202)
def cancel(core: TheCore, job: str) -> dict[str, Any]:
    """A running job stops at its next step and undoes what it did; of a failed one the way back is begun, as a new
    job."""
    return {"job": job_json(core, operations.cancel(core, job))}


@router.post("/{job}/restart", status_code=202)
def restart(core: TheCore, job: str) -> dict[str, Any]:
    """A fresh run of the same operation, as a new job; it looks before it acts."""
    return {"job": job_json(core, operations.restart(core, job))}
