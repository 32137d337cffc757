"""Jobs: what runs, what ran, and how far it is."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from homeport.domain import admission as domain
from homeport.vault import admission, items, jobs, operations, queueing
from homeport.vault.api.context import TheCore
from homeport.vault.api.paging import Instant, ThePage, keyset
from homeport.vault.api.schemas import Accepted, Job, JobAccepted, JobList, Limits
from homeport.vault.core import Core
from homeport.vault.database import JobRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], default_response_class=Accepted)

UNLIMITED = 100
"""Jobs are kept for ever: without a limit, so many of the newest are told."""


def job_json(core: Core, job: str) -> dict[str, Any]:
    with core.database.read() as session:
        return jobs.to_json(session, jobs.find(session, job))


@router.get("", response_model=JobList)
def list_jobs(
    core: TheCore,
    page: ThePage,
    item: Annotated[str | None, Query(description="Name or id")] = None,
    state: Annotated[list[str] | None, Query(description="One of these states; give it several times")] = None,
    kind: Annotated[list[str] | None, Query(description="One of these operations; give it several times")] = None,
    since: Annotated[Instant | None, Query(description="Created at this instant or later")] = None,
    until: Annotated[Instant | None, Query(description="Created before this instant")] = None,
) -> dict[str, Any]:
    """The newest first; without `limit`, the newest 100."""
    page = replace(page, limit=page.limit or UNLIMITED)
    with core.database.read() as session:
        wanted = select(JobRow)
        if item is not None:
            wanted = wanted.where(JobRow.item == items.find(session, item).id)
        if state:
            wanted = wanted.where(JobRow.state.in_(state))
        if kind:
            wanted = wanted.where(JobRow.kind.in_(kind))
        if since is not None:
            wanted = wanted.where(JobRow.created >= since)
        if until is not None:
            wanted = wanted.where(JobRow.created < until)
        rows = session.scalars(keyset(wanted, page, JobRow.created, JobRow.id, descending=True)).all()
        found, following = page.cut(rows, lambda job: (job.created.isoformat(), job.id))
        return {"jobs": [jobs.to_json(session, job) for job in found], "next": following}


@router.get("/limits", response_model=Limits)
def get_limits(core: TheCore) -> dict[str, Any]:
    """How many jobs may be at work at one site at once; more wait in order."""
    with core.database.read() as session:
        return asdict(queueing.limits(session))


@router.put("/limits", response_model=Limits)
def set_limits(core: TheCore, body: Limits) -> dict[str, Any]:
    """What is at work goes on; what waits is judged anew."""
    admission.set_limits(core, domain.Limits(**body.model_dump()))
    return get_limits(core)


@router.get("/{job}", response_model=Job)
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


@router.post("/{job}/cancel", status_code=202, response_model=JobAccepted)
def cancel(core: TheCore, job: str) -> dict[str, Any]:
    """A running job stops at its next step and undoes what it did; of a failed one the way back is begun, as a new
    job."""
    return {"job": job_json(core, operations.cancel(core, job))}


class Answer(BaseModel):
    """``comment``: what the operator did, kept with the job."""

    model_config = ConfigDict(extra="forbid")

    comment: Annotated[str, Field(max_length=4000)] = ""


@router.post("/{job}/resume", status_code=202, response_model=JobAccepted)
def resume(core: TheCore, job: str, body: Annotated[Answer, Body(default_factory=Answer)]) -> dict[str, Any]:
    """The operator did what the waiting job asks for: it goes on."""
    return {"job": job_json(core, operations.answer(core, job, body.comment))}


@router.post("/{job}/restart", status_code=202, response_model=JobAccepted)
def restart(core: TheCore, job: str) -> dict[str, Any]:
    """A fresh run of the same operation, as a new job; it looks before it acts."""
    return {"job": job_json(core, operations.restart(core, job))}
