"""`homeport job …`: what runs, what ran, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import Job
from homeport.cli.errors import JobFailed
from homeport.cli.formats import seconds_between, show_instant, show_span
from homeport.cli.lessons import LOOK, lesson
from homeport.cli.progress import show_progress
from homeport.cli.session import NoWaitOption, Session, command, group
from homeport.cli.tables import JOB_COLOURS, coloured, details, table
from homeport.cli.waiting import follow, wait_for

if TYPE_CHECKING:
    from rich.console import Console

LIST = lesson(
    "List jobs, the newest first.",
    "A job is one run of an operation on an item. --item and --only narrow the list.",
    "homeport job list --item web1 --only running",
    then="homeport job show JOB",
)
SHOW = lesson(
    "Show a job and its tasks: state, progress, duration, error.",
    "An error has a code, what was found, and what to do. --wait waits until the job ended.",
    "homeport job show 3f1c9a2e",
    then="homeport job cancel JOB or homeport job restart JOB, where the job allows it.",
)
CANCEL = lesson(
    "Cancel a job: it ends at its next step, and what it did is undone.",
    """Also the way back out of a failover or failback that failed half-way: then a job that undoes it begins. Waits
    until that is done.""",
    "homeport job cancel 3f1c9a2e",
    then="homeport status ITEM",
)
RESTART = lesson(
    "Run a failed or cancelled job again.",
    "Steps look before they act: what is done already is not done twice.",
    "homeport job restart 3f1c9a2e",
    then="homeport status ITEM",
)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


def register(app: typer.Typer) -> None:
    job = group("Jobs: what runs, what ran, and how it ended.")
    app.add_typer(job, name="job", rich_help_panel=LOOK)

    @command(job, "list", LIST)
    def list_jobs(
        session: Session,
        item: Annotated[str | None, typer.Option(help="Only of this item.")] = None,
        only: Annotated[
            str | None,
            typer.Option(metavar="STATE", help="Only queued, running, succeeded, failed, cancelled, … ones."),
        ] = None,
    ) -> None:
        jobs = session.vault.jobs(item=item, state=only)
        session.answer({"jobs": jobs}, lambda console: show_jobs(console, jobs))

    @command(job, "show", SHOW)
    def show(
        session: Session,
        job: JobArgument,
        wait: Annotated[bool, typer.Option("--wait", help="Wait until it ended; exit 1 if it failed.")] = False,
    ) -> None:
        found = wait_for(session, job) if wait else session.vault.job(job)
        session.answer({"job": found}, lambda console: show_job(console, found))

    @command(job, "cancel", CANCEL)
    def cancel(session: Session, job: JobArgument, no_wait: NoWaitOption = False) -> None:
        undoing = session.vault.cancel_job(job)
        found = session.vault.job(undoing)
        if not no_wait:
            found = follow(session, undoing) if undoing == job else wait_for(session, undoing)
        if undoing == job and found["state"] in ("succeeded", "failed"):
            error = JobFailed(
                f"the job {job} {found['state']} before it could be cancelled",
                code="job.not-cancelled",
                remedy=f"Look at it with `homeport job show {job}`.",
                job=job,
            )
            error.job = dict(found)
            raise error
        words = f"Job {job} is {found['state']}" if undoing == job else f"Job {undoing} undoes {job}: {found['state']}"
        session.answer({"job": found}, lambda console: console.print(words, markup=False))

    @command(job, "restart", RESTART)
    def restart(session: Session, job: JobArgument, no_wait: NoWaitOption = False) -> None:
        running = session.vault.restart_job(job)
        found = session.vault.job(running) if no_wait else wait_for(session, running)
        session.answer(
            {"job": found}, lambda console: console.print(f"Job {running} is {found['state']}", markup=False)
        )


def show_jobs(console: Console, jobs: list[Job]) -> None:
    if not jobs:
        console.print("No jobs.")
        return
    rows = table("Job", "Operation", "Item", "State", "Created", "Took", "Error")
    for job in sorted(jobs, key=lambda one: one.get("created") or "", reverse=True):
        rows.add_row(
            job["id"],
            job.get("kind", "?"),
            coloured(job.get("item_name") or "", ""),
            coloured(job["state"], JOB_COLOURS.get(job["state"], "")),
            show_instant(job.get("created")),
            show_span(seconds_between(job.get("started"), job.get("ended"))),
            coloured((job.get("error") or {}).get("code", ""), ""),
        )
    console.print(rows)


def show_job(console: Console, job: Job) -> None:
    head = details()
    head.add_row("Job", job["id"])
    head.add_row("Operation", coloured(f"{job.get('kind', '?')} of {job.get('item_name') or job.get('item')}", ""))
    head.add_row("State", coloured(job["state"], JOB_COLOURS.get(job["state"], "")))
    head.add_row("Created", show_instant(job.get("created")))
    head.add_row("Started", show_instant(job.get("started")))
    head.add_row("Ended", show_instant(job.get("ended")))
    console.print(head)
    rows = table("Task", "State", "Took", "Progress")
    for task in job.get("tasks", []):
        error = task.get("error")
        rows.add_row(
            coloured(task.get("title") or task.get("name", "?"), ""),
            coloured(task["state"], JOB_COLOURS.get(task["state"], "")),
            show_span(seconds_between(task.get("started"), task.get("ended"))),
            coloured(_error(error) if error else show_progress(task.get("progress")), "red" if error else ""),
        )
    if job.get("tasks"):
        console.print(rows)
    if error := job.get("error"):
        console.print(coloured(_error(error), "red"))
        if error.get("remedy"):
            console.print(coloured(f"What to do: {error['remedy']}", ""))
    if job.get("allowed"):
        console.print(
            "You can now: " + ", ".join(f"homeport job {verb} {job['id']}" for verb in job["allowed"]), markup=False
        )


def _error(error: dict[str, Any]) -> str:
    return f"{error.get('code', '?')}: {error.get('cause', '')}"
