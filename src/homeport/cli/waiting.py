"""Waiting for a job: bars in a terminal, plain lines elsewhere, silence under --json."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from homeport.cli.answers import Session
from homeport.cli.api import ENDED, Job, Task
from homeport.cli.errors import Interrupted, JobFailed, VaultFailing, VaultNotRunning, VaultRefused
from homeport.cli.formats import seconds_between, show_size, show_span
from homeport.cli.progress import BYTES, Rate, share, show_progress
from homeport.cli.speech import label, told, word
from homeport.domain.errors import HomeportError

if TYPE_CHECKING:
    from rich.progress import TaskID

POLL = 15.0
"""Seconds one request waits for news of the job."""

AWAY = 60.0
"""Seconds a vault may be away (restarted, say) before waiting for its job is given up; the job goes on there."""

PLAIN_EVERY = 10.0
"""Seconds between two lines about the progress of one task where there is no terminal."""

AGAIN = 0.5
"""Seconds until a vault that is away, or has no news, is asked again."""

SERVER_ERROR = 500
RUNNING = "running"


class _Display(Protocol):
    def show(self, job: Job) -> None: ...

    def away(self, error: HomeportError) -> None: ...


def accept(session: Session, job: str, *, wait: bool, done: str) -> Job:
    """What follows an accepted operation: wait for ``job`` unless told not to. Returns the job as last seen.

    ``done``: what its success means, printed with its duration. Raises JobFailed, Interrupted, VaultNotRunning.
    """
    if wait:
        ended = wait_for(session, job)
        if not session.json_wanted:
            took = seconds_between(ended.get("started") or ended.get("created"), ended.get("ended"))
            session.answer({}, lambda console: console.print(f"{done} ({show_span(took)})", markup=False))
        return ended
    session.note(f"Accepted. Look at it with: homeport job show {job}")
    accepted = session.vault.job(job)
    session.answer({"job": accepted}, lambda console: console.print(job))
    return accepted


def wait_for(session: Session, job_id: str) -> Job:
    """Wait until the job ended. Raises JobFailed unless it succeeded, and what ``follow`` raises."""
    job = follow(session, job_id)
    if job["state"] != "succeeded":
        raise failure(job)
    return job


def follow(session: Session, job_id: str) -> Job:
    """Wait until the job ended, however it did. Raises Interrupted on Ctrl-C (the job goes on), VaultNotRunning."""
    try:
        with _display(session) as display:
            return _follow(session, job_id, display)
    except KeyboardInterrupt:
        raise Interrupted(
            f"You stopped waiting; the job {job_id} goes on in the vault.",
            remedy=f"Look at it with `homeport job show {job_id}`; "
            f"end it, where it can be, with `homeport job cancel {job_id}`.",
            job=job_id,
        ) from None


def failure(job: Job) -> JobFailed:
    """The error of a job that failed or was cancelled."""
    named = job["id"]
    reason = job.get("error") or {}
    if job["state"] == "cancelled" and not reason:
        cause, code = f"the job {named} was cancelled", "job.cancelled"
    else:
        cause, code = reason.get("cause") or f"the job {named} failed", reason.get("code") or "job.failed"
    remedy = reason.get("remedy") or f"Look at its tasks with `homeport job show {named}`."
    if "restart" in job.get("allowed", []):
        remedy += f" It can be run again: homeport job restart {named}"
    error = JobFailed(cause, code=code, remedy=remedy)
    error.details = {**(reason.get("details") or {}), "job": named}
    error.job = dict(job)
    return error


def _follow(session: Session, job_id: str, display: _Display) -> Job:
    job = session.vault.job(job_id)
    display.show(job)
    told = _tell_what_it_waits_for(session, job, None)
    gone_since: float | None = None
    while job["state"] not in ENDED:
        asked = time.monotonic()
        try:
            newer = session.vault.job(job_id, wait=POLL, version=job.get("version"))
        except (VaultNotRunning, VaultFailing, VaultRefused) as error:
            if isinstance(error, VaultRefused) and error.status < SERVER_ERROR:
                raise
            now = time.monotonic()
            if gone_since is None:
                gone_since = now
                display.away(error)
            if now - gone_since > AWAY:
                raise VaultNotRunning(
                    f"{error.cause}; the job {job_id} goes on when it runs again",
                    remedy=f"Run `homeport up`, then look at the job with `homeport job show {job_id}`.",
                    job=job_id,
                ) from error
            time.sleep(AGAIN)
            continue
        gone_since = None
        if newer.get("version") == job.get("version") and time.monotonic() - asked < AGAIN:
            time.sleep(AGAIN)  # a vault that is stopping answers at once
        job = newer
        display.show(job)
        told = _tell_what_it_waits_for(session, job, told)
    return job


def _tell_what_it_waits_for(session: Session, job: Job, told: str | None) -> str | None:
    """Once for each thing: for room at its sites, or for the operator. Returns what was told last."""
    waiting, queued = job.get("waiting"), job.get("queued_because")
    if waiting:
        text = f"{waiting['prompt']} Then: homeport job resume {job['id']} --comment TEXT"
    elif queued:
        text = f"waits for its turn: {queued.get('text', '')}"
    else:
        return told
    if text != told:
        session.note(f"  {text}")
    return text


def _display(session: Session) -> AbstractContextManager[_Display]:
    from homeport.cli.consoles import complaints

    if session.json_wanted:
        return nullcontext(_Silence())
    return _Bars() if complaints().is_terminal else nullcontext(_Lines(session))


class _Silence:
    def show(self, job: Job) -> None:
        """Under --json only the result is printed."""

    def away(self, error: HomeportError) -> None:
        """As above; the error is shown if the vault doesn't come back."""


def _title(task: Task) -> str:
    return told(task.get("title") or task.get("name") or "?")


def _task_seconds(task: Task) -> float | None:
    return seconds_between(task.get("started"), task.get("ended"))


class _Lines:
    """A line when a task begins and when it ends, and one every PLAIN_EVERY seconds in between."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._states: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._rates: dict[str, Rate] = {}
        self._named = False

    def show(self, job: Job) -> None:
        if not self._named:
            self._named = True
            kind = word(str(job.get("kind", "")), "operation")
            self._session.note(f"{label('Job')} {job['id']}: {kind} {job.get('item_name') or ''}".rstrip())
        for index, task in enumerate(job.get("tasks", [])):
            self._task(f"{index}:{task.get('name', '')}", task)

    def _task(self, key: str, task: Task) -> None:
        state = task["state"]
        progress = task.get("progress") or {}
        done = progress.get("done")
        in_bytes = progress.get("unit") in BYTES and done is not None
        rate = self._rates.setdefault(key, Rate()).observe(done) if in_bytes and done is not None else None
        now = time.monotonic()
        if self._states.get(key) != state:
            self._states[key] = state
            self._last[key] = now
            if state == RUNNING:
                self._session.note(f"  {_title(task)} ...")
            elif state in ENDED:
                took = _task_seconds(task)
                ended = f"  {_title(task)}: {word(state, 'job')}"
                self._session.note(ended + (f" ({show_span(took)})" if took is not None else ""))
        elif state == RUNNING and progress and now - self._last[key] >= PLAIN_EVERY:
            self._last[key] = now
            speed = f", {show_size(rate)}/s" if rate else ""
            self._session.note(f"  {_title(task)}: {show_progress(progress)}{speed}")

    def away(self, error: HomeportError) -> None:
        self._session.note(f"  {error.cause}; waiting for it")


class _Bars:
    """One line per begun task: title, bar, amount and rate, time."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from homeport.cli.consoles import complaints

        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=complaints(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._rates: dict[str, Rate] = {}
        self._over: set[str] = set()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._bars.stop()

    def show(self, job: Job) -> None:
        for index, task in enumerate(job.get("tasks", [])):
            key = f"{index}:{task.get('name', '')}"
            if key in self._over or not (task.get("started") or task["state"] == RUNNING or task["state"] in ENDED):
                continue
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(_title(task), total=None, amount="")
            self._move(key, task)

    def _move(self, key: str, task: Task) -> None:
        bar = self._tasks[key]
        progress = task.get("progress") or {}
        done, total = progress.get("done"), progress.get("total")
        if task["state"] in ENDED:
            self._over.add(key)
            if task["state"] == "succeeded":
                self._bars.update(bar, total=1, completed=1, amount=show_progress(progress))
            else:
                self._bars.stop_task(bar)
                self._bars.update(bar, amount=word(task["state"], "job"))
            return
        amount = show_progress(progress)
        if progress.get("unit") in BYTES and done is not None:
            rate = self._rates.setdefault(key, Rate()).observe(done)
            amount += f" {show_size(rate)}/s" if rate else ""
        if done is not None and total:
            self._bars.update(bar, total=100, completed=share(done, total), amount=amount)
        else:
            self._bars.update(bar, amount=amount)

    def away(self, error: HomeportError) -> None:
        self._bars.console.print(told(f"{error.cause}; waiting for it"), markup=False)
