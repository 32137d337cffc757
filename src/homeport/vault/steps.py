"""Durable operations, and the one wrapper that every step of theirs goes through.

A step looks for the cancel flag, records its task, has its effect, and leaves a record; killed at any moment, the
operation replays its records and goes on with the first step that has none. A step in flight runs again, so effects
look before they act. What a step returns *is* its record: its value, its error, or that the job was cancelled; what an
operation does next depends on these records alone, never on the clock or the database read in passing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import structlog
from dbos import DBOS
from dbos import error as dbos_errors
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import CANCELLABLE, Operation, Transition, transition
from homeport.domain.points import new_timeline
from homeport.domain.policy import failback_policy
from homeport.domain.states import Direction, State
from homeport.domain.target import Target
from homeport.domain.task_tree import Group
from homeport.vault import faults, items, jobs, tasks
from homeport.vault.core import Core, current
from homeport.vault.database import ItemRow, JobRow, Json, TaskRow, now
from homeport.vault.work import Ask, GivenUp, ask, error_from_json, post

log = structlog.get_logger(__name__)

Body = Callable[["Run"], None]


class Cancelled(Exception):
    """The operator cancelled the job; seen between steps and while waiting."""


@dataclass(frozen=True)
class Workflow:
    """``name``: operation and version; a released one's step order never changes (a change is a new version).
    ``steps``: name → title for the operator; a step without a title is no task of its own."""

    operation: Operation
    version: int
    name: str
    steps: Mapping[str, str]
    start: Callable[[str], None]
    cancellable: bool
    """A running job of it may be cancelled until it comes to one of its final steps (tasks.py)."""


WORKFLOWS: dict[Operation, Workflow] = {}
"""The version of each operation that new jobs run: the highest."""

VERSIONS: dict[str, Workflow] = {}
"""All versions by name: those that no new job runs go on with what was recorded under them."""


def operation(
    kind: Operation,
    version: int,
    steps: Mapping[str, str],
    groups: Mapping[str, Group] | None = None,
    final: Collection[str] = (),
) -> Callable[[Body], Body]:
    """Registers a function as a version of the durable workflow of an operation. An operation's versions may be
    registered in any order. ``groups``: by name, which of its tasks are shown together (what is recorded doesn't depend
    on them); ``final``: steps from whose beginning on the job can't be cancelled any more. Raises ValueError where a
    version is registered twice, or a group has a step that isn't one."""
    name = f"{kind}.v{version}"
    if name in VERSIONS:
        raise ValueError(f"{name} is registered twice")
    strange = {step for group in (groups or {}).values() for step in group.steps} - set(steps)
    if strange:
        raise ValueError(f"{name} groups what is no step of it: {', '.join(sorted(strange))}")
    tasks.declare(kind, groups or {}, final)

    def decorate(body: Body) -> Body:
        def run(job: str) -> None:
            Run(current(), VERSIONS[name], job).drive(body)

        run.__qualname__ = run.__name__ = name
        start = DBOS.workflow(name=name, max_recovery_attempts=None)(run)
        cancellable = kind in CANCELLABLE and not set(final) >= set(steps)
        ends = {"finish": "", "fail": "", **({"cancelled": ""} if cancellable else {})}
        registered = Workflow(kind, version, name, {"begin": "", **steps, **ends}, start, cancellable)
        VERSIONS[name] = registered
        if kind not in WORKFLOWS or WORKFLOWS[kind].version < version:
            WORKFLOWS[kind] = registered
        return body

    return decorate


def recorded_steps() -> list[tuple[str, str]]:
    """All (workflow, step) of what new jobs run, whose record a kill could fall before or after: what the kill tests
    enumerate."""
    return [(workflow.name, step) for workflow in WORKFLOWS.values() for step in workflow.steps]


@dataclass(frozen=True)
class Facts:
    """What an operation knows of its item: as of its first step, recorded there, the same in every replay."""

    item: str
    name: str
    machine: Json
    home: str
    away: str
    state: str
    direction: str
    active: str
    store: str
    timeline: str
    lineage: list[str]
    timelines: dict[str, list[str]]
    policy: Json
    failback_policy: Json
    failover_point: str | None
    test: Json | None
    ties: Json = field(default_factory=dict)
    target: Json = field(default_factory=dict)

    @property
    def vm(self) -> str:
        """The machine's name at its home site."""
        return self.name

    @property
    def away_vm(self) -> str:
        """Its name at the other one."""
        chosen: str | None = self.target.get("name")
        return chosen or self.name

    def vm_at(self, site: str) -> str:
        return self.away_vm if site == self.away else self.vm

    def like(self) -> Json:
        """The machine as it shall be made away."""
        return Target.from_json(self.target).applied_to(Machine.from_json(self.machine)).to_json()

    @property
    def stopped(self) -> Json | None:
        found: Json | None = self.ties.get("stopped")
        return found

    @property
    def attempted(self) -> str | None:
        found: str | None = self.ties.get("attempted")
        return found

    def pending(self, purpose: str) -> str:
        timeline: str = self.ties["pending"][purpose]
        return timeline

    def description(self) -> Json:
        """What lies beside the data, so that a vault can be rebuilt from buckets alone."""
        return {
            "machine": self.machine,
            "item": {
                "id": self.item,
                "name": self.name,
                "from": self.home,
                "to": self.away,
                "target": self.target,
            },
            "policy": self.policy,
        }


class Attempt(NamedTuple):
    """What a best-effort step came to: its value, or a note of why there is none."""

    value: Any
    note: Json | None


class Step:
    """What the effect of one step may use."""

    def __init__(self, core: Core, job: str, item: str, name: str) -> None:
        self.core = core
        self.job = job
        self.name = name
        self._item = item
        self._asked = 0

    def ask(
        self, site: str, kind: str, params: Json, *, silence: float | None = None, limit: float | None = None
    ) -> Json:
        """Ask a site's server and wait; a step that runs again finds what it asked before."""
        return ask(self.core, self._request(site, kind, params, silence=silence, limit=limit))

    def ask_unless_cancelled(self, site: str, kind: str, params: Json) -> Json:
        """The same, but nobody waits any more once the job is cancelled: for work that may as well go on at the site.
        Raises :class:`Cancelled`."""
        try:
            return ask(self.core, self._request(site, kind, params), given_up=self.cancel_wanted)
        except GivenUp:
            raise Cancelled from None

    def _request(
        self, site: str, kind: str, params: Json, *, silence: float | None = None, limit: float | None = None
    ) -> Ask:
        key = self._next_key()
        return Ask(site, kind, params, key, item=self._item, job=self.job, task=self.name, silence=silence, limit=limit)

    def post(self, site: str, kind: str, params: Json) -> None:
        """Ask a site's server without waiting: it gets it when it is there, be that hours later."""
        post(self.core, Ask(site, kind, params, self._next_key(), item=self._item))

    def _next_key(self) -> str:
        key = f"{self.job}:{self.name}:{self._asked}"
        self._asked += 1
        return key

    @contextmanager
    def item(self) -> Iterator[tuple[Session, ItemRow]]:
        """The item, to be changed in one transaction."""
        with self.core.database.write() as session:
            yield session, session.get_one(ItemRow, self._item)

    def tie(self, **ties: Any) -> None:
        """Leave facts for later operations; None takes one away."""
        with self.item() as (_, item):
            kept = {**item.ties, **ties}
            item.ties = {name: value for name, value in kept.items() if value is not None}

    def cancel_wanted(self) -> bool:
        with self.core.database.read() as session:
            return session.get_one(JobRow, self.job).cancel

    def wait_for_operator(self, prompt: str) -> Json:
        """The operator's answer to ``prompt``: {"comment", "at", "prompt"}. The job waits for it however long, also
        across restarts. Raises :class:`Cancelled`."""

        def answered() -> Json | None:
            with self.core.database.read() as session:
                job = session.get_one(JobRow, self.job)
                return (job.resumed or {}).get(self.name) or ({} if job.cancel else None)

        with self.core.database.write() as session:
            job = session.get_one(JobRow, self.job)
            if self.name not in (job.resumed or {}) and not job.cancel and job.waiting is None:
                job.state = "waiting"
                job.waiting = {"step": self.name, "prompt": prompt, "since": now().isoformat()}
                job.version += 1
        answer = self.core.signal.until(answered, every=5)
        if not answer:
            raise Cancelled
        return answer

    def progress(self, progress: Json) -> None:
        with self.core.database.write() as session:
            task, job = session.get_one(TaskRow, (self.job, self.name)), session.get_one(JobRow, self.job)
            if task.progress != progress:
                task.progress = progress
                job.version += 1


Effect = Callable[[Step], Any]


class Run:
    """One run of an operation: a job."""

    def __init__(self, core: Core, workflow: Workflow, job: str) -> None:
        self.core = core
        self.workflow = workflow
        self.job = job
        self.performed: set[str] = set()
        """Steps that had their effect, or failed in it: all but those that a cancel kept from it."""
        self.values: dict[str, Any] = {}
        """What each of them returned; None where it failed."""
        self._used: set[str] = set()
        with core.database.read() as session:
            row = session.get_one(JobRow, job)
            paused = "paused" in session.get_one(ItemRow, row.item).ties
        self.item = row.item
        self.params: Json = row.params
        self.before = row.before
        self.transition: Transition = transition(workflow.operation, row.before, row.direction, paused=paused)
        self.notes: list[str] = []

    def drive(self, body: Body) -> None:
        """Runs ``body`` to a documented end, whatever happens in it."""
        with self.core.database.patient(lambda: self.core.signal.stopped):
            self._drive(body)

    def _drive(self, body: Body) -> None:
        try:
            body(self)
        except dbos_errors.DBOSException as error:
            # The records don't fit the code (a changed step order): nothing can be recorded any more.
            settle(self.core, self.job, internal(error))
            raise
        except HomeportError as error:
            self.fail(error)
        except Exception as error:
            log.exception("operation failed unexpectedly", workflow=self.workflow.name, job=self.job)
            self.fail(internal(error))

    def begin(self, *purposes: str) -> Facts:
        """The first step: the item's state shows that the operation is at work. ``purposes``: timelines that it may
        have to name ("fork", "import"); an earlier try's names are kept."""

        def effect(step: Step) -> Json:
            with step.item() as (session, item):
                job = session.get_one(JobRow, self.job)
                job.started = job.started or now()
                if job.state == "queued":
                    job.state = "running"
                job.version += 1
                if self.transition.during is not None:
                    item.state = self.transition.during
                pending = dict(item.ties.get("pending", {}))
                if pending.get("fork") in {item.timeline, *item.lineage}:
                    # The item went on in it already, so this operation will end it (or has): that takes another one.
                    del pending["fork"]
                for purpose in purposes:
                    pending.setdefault(purpose, new_timeline())
                item.ties = {**item.ties, "pending": pending}
                return facts_of(session, item)

        return Facts(**self.step("begin", effect, cancellable=False))

    def step(self, name: str, effect: Effect, *, cancellable: bool = True) -> Any:
        """Raises what the effect raised, or :class:`Cancelled` instead of having it."""
        outcome = self._recorded(name, effect, cancellable, optional=False)
        if "error" in outcome:
            raise error_from_json(outcome["error"])
        return outcome["value"]

    def attempt(self, name: str, effect: Effect, *, cancellable: bool = True) -> Attempt:
        """Best effort: an error becomes a note, and the operation goes on."""
        outcome = self._recorded(name, effect, cancellable, optional=True)
        note = outcome.get("error")
        if note is not None:
            self.notes.append(f"{self.workflow.steps[name]}: {note['cause']} ({note['code']})")
        return Attempt(outcome.get("value"), note)

    def wait_for_operator(self, name: str, prompt: str) -> Json:
        """A step that ends when the operator resumes the job; returns the answer (see :class:`Step`). Raises
        :class:`Cancelled`."""
        answer: Json = self.step(name, lambda step: step.wait_for_operator(prompt))
        return answer

    def finish(self, result: Json | None = None, *, state: State | None = None, **changes: Any) -> None:
        """The last step: job and item end together. ``changes``: columns of the item; ``ties`` are merged into it."""
        self._end("finish", "succeeded", state or self.transition.done, changes, result=self._result(result))

    def cancelled(self, *, state: State | None = None, **changes: Any) -> None:
        """The job was cancelled, and what it did is undone."""
        self._end("cancelled", "cancelled", state or self.transition.cancelled, changes, result=self._result(None))

    def fail(self, error: HomeportError, *, state: State | None = None, **changes: Any) -> None:
        """The job failed; ``state``: where that leaves the item."""
        values = {"error": _plain(error.to_json()), "result": self._result(None)}
        self._end("fail", "failed", state or self.transition.failed, changes, **values)

    def _result(self, result: Json | None) -> Json | None:
        """What the job's result says; its notes in words, those of best-effort steps after the sites' own."""
        told = [str(note) for note in (result or {}).get("notes", [])]
        return {**(result or {}), "notes": [*told, *self.notes]} if result or self.notes else None

    def _end(self, step: str, state: str, item_state: State, changes: Json, **values: Any) -> None:
        def effect(context: Step) -> None:
            with context.item() as (session, item):
                job = session.get_one(JobRow, self.job)
                if job.state in jobs.ENDED:
                    return
                if step == "finish" and job.cancel and self.workflow.cancellable and not tasks.is_final(session, job):
                    # Here, in the transaction that ends the job: a cancel that was accepted is never overlooked.
                    raise Cancelled
                ties = {**item.ties, **changes.get("ties", {})}
                item.ties = {name: value for name, value in ties.items() if value is not None}
                for name, value in changes.items():
                    if name != "ties":
                        setattr(item, name, value)
                jobs.end(session, job, item, state, item_state, **values)
            log.info("job ended", job=self.job, workflow=self.workflow.name, state=state, item_state=str(item_state))

        self.step(step, effect, cancellable=False)

    def _recorded(self, name: str, effect: Effect, cancellable: bool, optional: bool) -> Json:
        if name in self._used:
            raise RuntimeError(f"step {name!r} of {self.workflow.name} is used twice: its records would mix")
        self._used.add(name)
        outcome = DBOS.run_step({"name": name}, self._perform, name, effect, cancellable, optional)
        self._fault(name, "recorded")
        if outcome.get("cancelled"):
            raise Cancelled
        self.performed.add(name)
        self.values[name] = outcome.get("value")
        return outcome

    def _perform(self, name: str, effect: Effect, cancellable: bool, optional: bool) -> Json:
        """Again where the connection to the database broke in it: the step looks before it acts, as after a kill."""
        while True:
            try:
                return self._perform_once(name, effect, cancellable, optional)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                log.warning("the database went away in a step: again", workflow=self.workflow.name, step=name)

    def _perform_once(self, name: str, effect: Effect, cancellable: bool, optional: bool) -> Json:
        step = Step(self.core, self.job, self.item, name)
        self._fault(name, "before")
        if not self._open_task(name, cancellable):
            return {"cancelled": True}
        outcome: Json
        try:
            outcome = {"value": _plain(effect(step))}
        except Cancelled:
            outcome = {"cancelled": True}
        except HomeportError as error:
            outcome = {"error": _plain(error.to_json())}
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            log.exception("step failed unexpectedly", workflow=self.workflow.name, step=name, job=self.job)
            outcome = {"error": internal(error).to_json()}
        self._fault(name, "after")
        self._close_task(name, outcome, optional)
        return outcome

    def _open_task(self, name: str, cancellable: bool) -> bool:
        """False where a cancel keeps the step from its effect. Where that may have been had before a kill it is had
        again and recorded, cancel or not, so that the operation knows what there is to undo."""
        title = self.workflow.steps[name]
        if not title and not cancellable:
            return True
        with self.core.database.write() as session:
            if session.get(TaskRow, (self.job, name)) is None:
                # One transaction: who cancels sees the task, or is seen here.
                if cancellable and session.get_one(JobRow, self.job).cancel:
                    return False
                if not title:
                    return True
                begun = select(func.count()).where(TaskRow.job == self.job, TaskRow.name != tasks.CHECKED)
                count = session.scalar(begun) or 0
                session.add(TaskRow(job=self.job, name=name, number=count, title=title))
                session.get_one(JobRow, self.job).version += 1
        return True

    def _close_task(self, name: str, outcome: Json, optional: bool) -> None:
        if not self.workflow.steps[name]:
            return
        with self.core.database.write() as session:
            task = session.get_one(TaskRow, (self.job, name))
            if task.state != "running":
                return
            task.ended = now()
            if "error" in outcome:
                task.state, task.error = ("skipped" if optional else "failed"), outcome["error"]
            elif "cancelled" in outcome:
                task.state = "cancelled"
            else:
                task.state = "succeeded"
                task.result = outcome["value"] if isinstance(outcome["value"], dict) else None
            session.get_one(JobRow, self.job).version += 1

    def _fault(self, step: str, moment: faults.Moment) -> None:
        faults.point(self.core.state, self.workflow.name, step, moment)


def facts_of(session: Session, item: ItemRow) -> Json:
    policy = items.policy_of(session, item.policy)
    return asdict(
        Facts(
            item=item.id,
            name=item.name,
            machine=item.description,
            home=item.home,
            away=item.away,
            state=str(item.state),
            direction=str(item.direction),
            active=item.active_site,
            store=item.store_site,
            timeline=item.timeline,
            lineage=list(item.lineage),
            timelines=dict(item.timelines),
            policy=policy.to_json(),
            failback_policy=failback_policy(policy).to_json(),
            failover_point=item.failover_point,
            test=item.test,
            ties=dict(item.ties),
            target=dict(item.target),
        )
    )


def internal(error: Exception) -> HomeportError:
    return HomeportError(
        f"{type(error).__name__}: {error}",
        code="internal",
        remedy="This is a fault of Homeport's own: the vault's log tells where. `homeport job restart` tries again.",
    )


def settle(core: Core, job: str, error: HomeportError) -> None:
    """End a job whose workflow can't record anything any more."""
    with core.database.write() as session:
        row = session.get_one(JobRow, job)
        if row.state in jobs.ENDED:
            return
        item = session.get_one(ItemRow, row.item)
        after = transition(
            Operation(row.kind), row.before, Direction(row.direction), paused="paused" in item.ties
        ).failed
        jobs.end(session, row, item, "failed", after, error=error.to_json())


def _plain(value: Any) -> Any:
    """JSON and nothing else: records must be readable by any later version."""
    return json.loads(json.dumps(value, default=str))
