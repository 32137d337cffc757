"""`homeport job …`: what runs, what ran, and how it ended."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import Job, Limits, TaskNode
from homeport.cli.errors import JobFailed, WrongUse
from homeport.cli.formats import instant, parse_duration, seconds_between, show_instant, show_span
from homeport.cli.lessons import LOOK, lesson
from homeport.cli.progress import show_progress
from homeport.cli.session import NoWaitOption, Session, command, group
from homeport.cli.speech import fill, label, told, word
from homeport.cli.tables import JOB_COLOURS, coloured, details, table
from homeport.cli.task_tree import walk
from homeport.cli.waiting import follow, wait_for

if TYPE_CHECKING:
    from rich.console import Console

LIST = lesson(
    "List jobs, the newest first.",
    """A job is one run of an operation on an item. --item, --only, --kind, --since and --until narrow the list; without
    --limit, the newest 100 are shown. --since and --until take an instant, or how long ago.""",
    "homeport job list --item web1 --only running",
    "homeport job list --only failed --only cancelled --since 24h",
    then="homeport job show JOB",
)
SHOW = lesson(
    "Show a job and its tasks: state, progress, duration, error.",
    """Tasks that belong together stand below one line, which shows their state and progress together; what the checks
    before the operation said is the first of them. An error has a code, what was found, and what to do. --wait waits
    until the job ended.""",
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
RESUME = lesson(
    "Let a job go on that waits for you.",
    """Such a job says what to do (`homeport job show JOB`); do it first. The comment is kept with the job. Cancel
    it instead, and what it did is undone.""",
    'homeport job resume 3f1c9a2e --comment "cable plugged in"',
    then="homeport job show JOB --wait",
)
EXPORT = lesson(
    "Write jobs to a file: JSON, CSV or XLSX.",
    """With type, display name, activity id, times, target, tasks and errors of each. All jobs, unless the options of
    `homeport job list` narrow them. The format is the file's ending, or --format; without --to, JSON and CSV go to
    standard output.""",
    "homeport job export --since 30d --to jobs.xlsx",
    "homeport job export --only failed --format csv",
    then="homeport job show JOB",
)
LIMITS = lesson(
    "Show or set how many jobs may be at work at one site at once.",
    """Jobs that move data (protect, reprotect, failback, complete-migration) have one limit, failovers another, so that
    no failover waits for a copy. What is over the limit waits in order, and `homeport job show JOB` says for what.""",
    "homeport job limits --data-moving 8",
    then="homeport job list --only queued",
)
RESTART = lesson(
    "Run a failed or cancelled job again.",
    "Steps look before they act: what is done already is not done twice.",
    "homeport job restart 3f1c9a2e",
    then="homeport status ITEM",
)

DEFAULT_LIMIT = 100


def moment(text: str) -> datetime:
    """An instant, or a duration before now."""
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        return instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; or how long ago, e.g. 24h") from error


ItemOption = Annotated[str | None, typer.Option(help="Only of this item.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="STATE", help="Only queued, running, waiting, succeeded, failed, … ones. May be repeated."),
]
KindOption = Annotated[
    list[str] | None, typer.Option(metavar="OPERATION", help="Only of this operation. May be repeated.")
]
SinceOption = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="WHEN", help="Created then or later: an instant, or 24h ago.")
]
UntilOption = Annotated[datetime | None, typer.Option(parser=moment, metavar="WHEN", help="Created before then.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


def register(app: typer.Typer) -> None:
    job = group("Jobs: what runs, what ran, and how it ended.")
    app.add_typer(job, name="job", rich_help_panel=LOOK)

    @command(job, "list", LIST)
    def list_jobs(
        session: Session,
        item: ItemOption = None,
        only: OnlyOption = None,
        kind: KindOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = DEFAULT_LIMIT,
    ) -> None:
        jobs = session.vault.jobs(item=item, states=only or (), kinds=kind or (), since=since, until=until, limit=limit)
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

    @command(job, "resume", RESUME)
    def resume(
        session: Session,
        job: JobArgument,
        comment: Annotated[str, typer.Option(metavar="TEXT", help="What was done; kept with the job.")],
        no_wait: NoWaitOption = False,
    ) -> None:
        session.vault.resume_job(job, comment)
        found = session.vault.job(job) if no_wait else wait_for(session, job)
        session.answer({"job": found}, lambda console: console.print(f"Job {job} is {found['state']}", markup=False))

    @command(job, "export", EXPORT)
    def export(
        session: Session,
        to: Annotated[Path | None, typer.Option(metavar="FILE", help="Written anew if it is there.")] = None,
        format: Annotated[str | None, typer.Option(metavar="json|csv|xlsx", help="Default: the file's ending.")] = None,
        item: ItemOption = None,
        only: OnlyOption = None,
        kind: KindOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The newest so many.")] = None,
    ) -> None:
        from homeport.cli.job_export import FORMATS, write_file

        chosen = format or (to.suffix.removeprefix(".").lower() if to else "json")
        if chosen not in FORMATS:
            raise WrongUse(f"{chosen or 'no format'} can't be written; --format is one of {', '.join(FORMATS)}")
        if to is None and (chosen == "xlsx" or (session.json_wanted and chosen != "json")):
            raise WrongUse(f"{chosen} needs a file: --to FILE")
        jobs = session.vault.jobs(item=item, states=only or (), kinds=kind or (), since=since, until=until, limit=limit)
        content = FORMATS[chosen](jobs)
        if to is None:
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
            return
        write_file(to, content)
        told = {"exported": {"file": str(to), "format": chosen, "jobs": len(jobs)}}
        session.answer(told, lambda console: console.print(f"{len(jobs)} jobs written to {to}", markup=False))

    @command(job, "limits", LIMITS)
    def limits(
        session: Session,
        data_moving: Annotated[int | None, typer.Option(min=1, metavar="N", help="Jobs that move data.")] = None,
        failovers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Failovers.")] = None,
    ) -> None:
        found = session.vault.job_limits()
        if data_moving is not None or failovers is not None:
            wanted: Limits = {
                "data_moving": found["data_moving"] if data_moving is None else data_moving,
                "failovers": found["failovers"] if failovers is None else failovers,
            }
            found = session.vault.set_job_limits(wanted)
        words = f"At each site at once: {found['data_moving']} jobs that move data, {found['failovers']} failovers."
        session.answer({"limits": found}, lambda console: console.print(words))

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
    head.add_row("Operation", coloured(_what(job), ""))
    if job.get("type"):
        head.add_row("Type", coloured(f"{label(job.get('display_name') or '')} ({job['type']})", ""))
    if job.get("activity", job["id"]) != job["id"]:
        head.add_row("Activity", coloured(job["activity"], ""))
    head.add_row("State", coloured(job["state"], JOB_COLOURS.get(job["state"], "")))
    if queued := job.get("queued_because"):
        head.add_row("", coloured(f"Waits for its turn: {queued.get('text', '')}", ""))
    if waiting := job.get("waiting"):
        head.add_row("Waits for you", coloured(waiting["prompt"], "yellow"))
    for answer in job.get("comments") or []:
        head.add_row("Comment", coloured(f"{answer['comment']} ({show_instant(answer['at'])})", ""))
    head.add_row("Created", show_instant(job.get("created")))
    head.add_row("Started", show_instant(job.get("started")))
    head.add_row("Ended", show_instant(job.get("ended")))
    console.print(head)
    rows = table("Task", "State", "Took", "Progress")
    for path, task in walk(job):
        text, colour = _told(task)
        rows.add_row(
            coloured("  " * (len(path) - 1) + path[-1], ""),
            coloured(task["state"], JOB_COLOURS.get(task["state"], "")),
            show_span(seconds_between(task.get("started"), task.get("ended"))),
            coloured(text, colour),
        )
    if rows.row_count:
        console.print(rows)
    if error := job.get("error"):
        console.print(coloured(_error(error), "red"))
        if error.get("remedy"):
            console.print(coloured(f"{label('What to do:')} {told(error['remedy'])}", ""))
    if job.get("allowed"):
        console.print(
            "You can now: " + ", ".join(f"homeport job {verb} {job['id']}" for verb in job["allowed"]), markup=False
        )


def _what(job: Job) -> str:
    kind, item = word(job.get("kind", "?"), "operation"), str(job.get("item_name") or job.get("item"))
    return fill("{operation} of {item}", operation=kind, item=item)


def _told(task: TaskNode) -> tuple[str, str]:
    """What a task's line says at its end, and its colour: its error, what a check found, else its progress."""
    if error := task.get("error"):
        return _error(error), "red"
    if finding := task.get("finding"):
        return f"{finding.get('code', '?')}: {told(finding.get('found', ''))}", "yellow"
    return show_progress(task.get("progress")), ""


def _error(error: dict[str, Any]) -> str:
    return f"{error.get('code', '?')}: {told(error.get('cause', ''))}"
