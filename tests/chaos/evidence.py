"""What is left when the chaos is over, as plain data: the vault's rows, and what the sites and operators recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from homeport.vault.database import ItemRow, JobRow, TaskRow, WorkRow
from homeport.vault.tasks import CHECKED

Json = dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """One change at a site. ``number``: its place in the history, over all sites; ``change``: begins with "made",
    "removed", "started", "stopped", "disks", "fenced", "unfenced" or "timeline"; ``work``: None for an operator's."""

    number: int
    site: str
    vm: str
    change: str
    item: str | None
    work: str | None
    fence: int | None


@dataclass(frozen=True)
class Accepted:
    """An answer 202 that an operator saw. ``request``: one wish, however often it was sent."""

    request: str
    job: str
    vm: str


@dataclass(frozen=True)
class Job:
    """``before`` and ``direction``: the item's when the job was accepted. ``tasks``: name → state."""

    id: str
    kind: str
    item: str
    vm: str
    before: str
    direction: str
    state: str
    params: Json = field(default_factory=dict)
    cancel: bool = False
    tasks: dict[str, str] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True)
class Item:
    """``allowed``: what the API offers; ``left``: what the sites still keep for it; ``keeps_points``: removed, but its
    points stay for a time."""

    id: str
    vm: str
    state: str
    direction: str
    removed: bool = False
    job: str | None = None
    allowed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    keeps_points: bool = False


@dataclass(frozen=True)
class Work:
    """``job`` and ``step``: of the key by which the vault finds it again."""

    id: str
    site: str
    kind: str
    state: str
    job: str | None
    step: str | None
    item: str | None = None
    created: datetime | None = None

    @property
    def open(self) -> bool:
        return self.state in ("queued", "handed", "running")


@dataclass(frozen=True)
class Evidence:
    """``jobs`` are in the order in which they were accepted."""

    jobs: tuple[Job, ...]
    items: tuple[Item, ...]
    work: tuple[Work, ...]
    effects: tuple[Effect, ...]
    accepted: tuple[Accepted, ...]
    running: dict[str, str]
    """Where each machine ran before the first effect."""


@dataclass(frozen=True)
class Rows:
    jobs: tuple[Job, ...]
    items: tuple[Item, ...]
    work: tuple[Work, ...]


def rows(engine: Engine) -> Rows:
    """From the vault's database, with no vault between. Closes ``engine``."""
    try:
        with Session(engine) as session:
            tasks: dict[str, list[TaskRow]] = {}
            for task in session.scalars(select(TaskRow).where(TaskRow.name != CHECKED)):
                tasks.setdefault(task.job, []).append(task)
            in_order = session.scalars(select(JobRow).order_by(JobRow.created))
            jobs = [_job(row, tasks.get(row.id, [])) for row in in_order]
            items = [_item(row) for row in session.scalars(select(ItemRow).order_by(ItemRow.created))]
            return Rows(tuple(jobs), tuple(items), tuple(_work(row) for row in session.scalars(select(WorkRow))))
    finally:
        engine.dispose()


def _job(row: JobRow, tasks: list[TaskRow]) -> Job:
    told = [row.result, *(task.result for task in tasks), *(task.error for task in tasks)]
    return Job(
        id=row.id,
        kind=row.kind,
        item=row.item,
        vm=row.item_name,
        before=str(row.before),
        direction=str(row.direction),
        state=row.state,
        params=dict(row.params),
        cancel=row.cancel,
        tasks={task.name: task.state for task in tasks},
        notes=" ".join(str(each) for each in told if each),
    )


def _item(row: ItemRow) -> Item:
    removed = row.removed is not None
    return Item(
        row.id,
        row.name,
        str(row.state),
        str(row.direction),
        removed=removed,
        job=row.job,
        keeps_points=row.purge_at is not None,
    )


def _work(row: WorkRow) -> Work:
    # "job:step:number"; what no job asked for has a key of another form
    parts = row.key.split(":")
    job, step = (parts[0], parts[1]) if len(parts) == 3 else (None, None)
    return Work(row.id, row.site, row.kind, row.state, job, step, row.params.get("item"), row.created)
