"""The queue of jobs that were accepted and wait for room at their sites: what it says, and why. See admission.py."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.admission import Contender, Limits, Verdict, judge
from homeport.domain.operations import Operation
from homeport.vault.database import ItemRow, JobRow, Json, SettingRow

SETTING = "limits"


def limits(session: Session) -> Limits:
    row = session.get(SettingRow, SETTING)
    return Limits() if row is None else Limits(**row.value)


def verdicts(session: Session) -> list[Verdict]:
    """Of each job that waits to begin, in order."""
    wanted = select(JobRow, ItemRow.home, ItemRow.away).join(ItemRow, ItemRow.id == JobRow.item)
    queued = wanted.where(JobRow.state == "queued", JobRow.admitted.is_(None)).order_by(JobRow.created, JobRow.id)
    waiting = [_contender(*row) for row in session.execute(queued)]
    if not waiting:
        return []
    busy = wanted.where(JobRow.ended.is_(None), (JobRow.state != "queued") | JobRow.admitted.is_not(None))
    return judge((_contender(*row) for row in session.execute(busy)), waiting, limits(session))


def _contender(job: JobRow, home: str, away: str) -> Contender:
    return Contender(job.id, job.kind, frozenset((home, away)))


def reason(session: Session, job: JobRow) -> Json | None:
    """Why a job has not begun: {"text", "site", "limit", "before"}; None where nothing keeps it."""
    if job.state != "queued" or job.admitted is not None:
        return None
    verdict = next((each for each in verdicts(session) if each.job == job.id), None)
    if verdict is None or verdict.admitted:
        return None
    kinds = "failovers" if job.kind == Operation.FAILOVER else "jobs that move data"
    full = f"Site {verdict.site} has {verdict.limit} {kinds} at work, its limit." if verdict.site else ""
    before = f"{verdict.before} of the same sites wait before it." if verdict.before else ""
    return {
        "text": " ".join(filter(None, (full, before))),
        "site": verdict.site,
        "limit": verdict.limit,
        "before": verdict.before,
    }
