"""The tasks of a job as they are shown: the steps of its workflow, and the same nested in groups.

Groups are declared beside a workflow's steps (steps.py) and looked up by operation, so that a job which an earlier
release ran is shown in them, too. What the checks before an operation found is kept as a task of its own that was over
when the job was accepted; it is shown in the tree only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.operations import Operation
from homeport.domain.task_tree import Group, nested
from homeport.vault.database import JobRow, Json, TaskRow, now

CHECKED = "checks"
"""The task that holds what the checks found; no step is called so."""

PREREQUISITES = "prerequisites"
"""The group that the checks stand in; a workflow may have steps in it, too."""
_TITLE = "Prerequisites check"

_GROUPS: dict[str, dict[str, Group]] = {}
_FINAL: dict[str, set[str]] = {}


def prerequisites(*steps: str) -> dict[str, Group]:
    """Steps of a workflow that look whether it can be done, in one group with the checks before it."""
    return {PREREQUISITES: Group(_TITLE, steps)}


def declare(operation: Operation, groups: Mapping[str, Group], final: Collection[str] = ()) -> None:
    """Of one version of the operation's workflow; what another one declared stays. ``final``: steps from whose
    beginning on its jobs can't be cancelled."""
    _GROUPS.setdefault(operation, {}).update(groups)
    _FINAL.setdefault(operation, set()).update(final)


def is_final(session: Session, job: JobRow) -> bool:
    """The job has come to a step from which there is no return."""
    steps = _FINAL.get(job.kind)
    if not steps:
        return False
    return (
        session.scalar(select(TaskRow.name).where(TaskRow.job == job.id, TaskRow.name.in_(steps)).limit(1)) is not None
    )


def keep_checks(session: Session, job: str, checks: Sequence[Json]) -> None:
    """What the checks before the operation found, each: {"code", "name", "title", "severity" (null: all is well),
    "found", "expected", "unknown"}."""
    if not checks:
        return
    over = now()
    session.add(
        TaskRow(
            job=job,
            name=CHECKED,
            number=-1,
            title=_TITLE,
            state="succeeded",
            started=over,
            ended=over,
            result={"checks": list(checks)},
        )
    )


def shown(session: Session, job: JobRow, *, running: bool) -> tuple[list[Json], list[Json]]:
    """The job's tasks, one after the other, and the tree of them."""
    rows: list[TaskRow] = list(session.scalars(select(TaskRow).where(TaskRow.job == job.id).order_by(TaskRow.number)))
    tasks = [_task(row, job) for row in rows if row.name != CHECKED]
    checks = [leaf for row in rows if row.name == CHECKED for leaf in _checks(row)]
    groups = dict(_GROUPS.get(job.kind, {}))
    steps = groups[PREREQUISITES].steps if PREREQUISITES in groups else ()
    groups[PREREQUISITES] = Group(_TITLE, (*(leaf["name"] for leaf in checks), *steps))
    return tasks, nested([*checks, *tasks], groups, running=running)


def _checks(row: TaskRow) -> list[Json]:
    """A leaf for each check that was made."""
    ended = row.ended or row.started
    leaves = []
    for found in (row.result or {}).get("checks", []):
        leaf: Json = {
            "name": f"{CHECKED}/{found['name']}",
            "title": found["title"],
            "state": "skipped" if found.get("unknown") else "succeeded",
            "progress": None,
            "started": row.started.isoformat(),
            "ended": ended.isoformat(),
        }
        if found.get("severity") is not None:
            leaf["finding"] = {key: found.get(key) for key in ("code", "severity", "found", "expected")}
        leaves.append(leaf)
    return leaves


def _task(task: TaskRow, job: JobRow) -> Json:
    asks = job.waiting is not None and job.waiting["step"] == task.name
    told = {
        "name": task.name,
        "title": task.title,
        "state": "waiting" if asks else task.state,
        "progress": task.progress,
        "started": task.started.isoformat(),
        "ended": task.ended.isoformat() if task.ended else None,
    }
    if task.result is not None:
        told["result"] = task.result
    if task.error is not None:
        told["error"] = task.error
    return told
