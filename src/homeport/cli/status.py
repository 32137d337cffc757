"""`homeport status`: every replicated item at a glance, or one in detail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli import speech
from homeport.cli.api import Item, Job, VaultInfo
from homeport.cli.errors import VaultNotRunning
from homeport.cli.formats import show_instant, show_size, show_span
from homeport.cli.lessons import LOOK, lesson
from homeport.cli.progress import show_progress
from homeport.cli.session import Session, command
from homeport.cli.speech import fill, told, word
from homeport.cli.tables import HEALTH_COLOURS, coloured, details, machine_name, point_name, table
from homeport.cli.traffic import show_rates, traffic_rows

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

REFRESH = 2.0
"""Seconds between two looks of --watch."""

REMINDER = (
    "The recovery passphrase isn't confirmed yet. Without it the recovery points can't be opened if this vault is "
    "lost. Confirm that you kept it: homeport vault passphrase --confirm"
)

STATUS = lesson(
    "Show the replicated machines: state, health, direction, RPO, progress.",
    """Without ITEM a table of all; with ITEM its details and the operations allowed now. --watch refreshes until
    Ctrl-C (with --json: one object per line).""",
    "homeport status",
    "homeport status web1 --watch",
    then="what the item allows: `homeport status ITEM` names it.",
)


def register(app: typer.Typer) -> None:
    @command(app, "status", STATUS, panel=LOOK)
    def status(
        session: Session,
        item: Annotated[str | None, typer.Argument(metavar="[ITEM]", help="The item's name or id.")] = None,
        watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    ) -> None:
        if watch:
            _watch(session, item)
            return
        data = look(session, item)
        session.answer(data, lambda console: console.print(draw(data)))


def look(session: Session, item: str | None) -> dict[str, Any]:
    """{"vault", "item", "job"} of one item, or {"vault", "items", "jobs": those that run} of all."""
    vault = session.vault.vault()
    if item is not None:
        found = session.vault.item(item)
        named = found.get("job")
        job = session.vault.job(named) if named else None
        return {"vault": vault, "item": found, "job": job}
    items = session.vault.items()
    working = sorted({str(one["job"]) for one in items if one.get("job")})
    jobs = [session.vault.job(job) for job in working]
    return {"vault": vault, "items": items, "jobs": jobs}


def _watch(session: Session, item: str | None) -> None:
    """Refreshes until Ctrl-C, which ends it well."""
    try:
        if session.json_wanted:
            from homeport.cli.consoles import write_line

            while True:
                write_line(speech.json_text(look(session, item), indent=None))
                time.sleep(REFRESH)
        from rich.live import Live

        from homeport.cli.consoles import results

        with Live(draw(look(session, item)), console=results(), auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH)
                live.update(draw(look(session, item)), refresh=True)
    except KeyboardInterrupt:
        return


def draw(data: dict[str, Any]) -> Group:
    from rich.console import Group

    parts: list[RenderableType] = [draw_item(data["item"], data["job"])] if "item" in data else [draw_items(data)]
    vault: VaultInfo = data["vault"]
    if vault.get("passphrase_confirmed") is False:
        parts.append(coloured(REMINDER, "yellow"))
    return Group(*parts)


def draw_items(data: dict[str, Any]) -> RenderableType:
    if not data["items"]:
        return coloured("Nothing is protected yet: homeport protect MACHINE --from SITE --to SITE --policy NAME", "")
    jobs: dict[str, Job] = {job["id"]: job for job in data["jobs"]}
    rows = table("Name", "State", "Health", "Direction", "RPO", "Replication", "Job")
    for item in data["items"]:
        health = item.get("health", "?")
        job = jobs.get(item.get("job") or "")
        rows.add_row(
            coloured(item.get("name", "?"), "bold"),
            item.get("state", "?"),
            coloured(health, HEALTH_COLOURS.get(health, "")),
            coloured(route(item), ""),
            coloured(show_span(item.get("rpo_seconds")), HEALTH_COLOURS.get(health, "")),
            coloured(replication(item), ""),
            coloured(running(job), "") if job else "",
        )
    return rows


def route(item: Item) -> str:
    """Where the item replicates from and to now."""
    start, end = item.get("from", "?"), item.get("to", "?")
    return f"{end} → {start}" if item.get("direction") == "reverse" else f"{start} → {end}"


def replication(item: Item) -> str:
    state = item.get("replication") or {}
    phase = word(state.get("phase") or "-", "phase")
    return " ".join(part for part in (phase, show_progress(state.get("progress"))) if part)


def running(job: Job) -> str:
    """What a job is doing: "failover: Start the machine 3 of 7"."""
    now = [task for task in job.get("tasks", []) if task["state"] == "running"]
    doing = f": {told(now[-1].get('title', ''))} {show_progress(now[-1].get('progress'))}".rstrip() if now else ""
    return f"{word(job.get('kind', 'job'), 'operation')}{doing}"


def draw_item(item: Item, job: Job | None) -> RenderableType:
    health = item.get("health", "?")
    shown = details()
    shown.add_row("Item", coloured(f"{item.get('name', '?')} ({item.get('id', '?')})", ""))
    shown.add_row("State", item.get("state", "?"))
    reasons = [_reason(reason) for reason in item.get("health_reasons") or []]
    shown.add_row("Health", coloured("; ".join([word(health, "health"), *reasons]), HEALTH_COLOURS.get(health, "")))
    shown.add_row("Runs at", coloured(item.get("active_site", "?"), ""))
    shown.add_row("Direction", coloured(f"{route(item)} ({word(item.get('direction', '?'), 'direction')})", ""))
    shown.add_row("Policy", coloured(str(item.get("policy", "?")), ""))
    if item.get("group"):
        shown.add_row("Group", coloured(str(item["group"]), ""))
    if name := (item.get("replication") or {}).get("process_server"):
        shown.add_row("Process server", coloured(name, ""))
    shown.add_row("RPO", show_span(item.get("rpo_seconds")))
    shown.add_row("Newest point", _point(item.get("last_point")))
    shown.add_row("Timeline", item.get("timeline") or "-")
    shown.add_row("Replication", coloured(replication(item), ""))
    state = item.get("replication") or {}
    if error := state.get("error"):
        shown.add_row("", coloured(_reason(error), "red"))
    if crossed := state.get("crossed"):
        shown.add_row("Crossed", _crossed(crossed))
    if traffic := state.get("traffic"):
        shown.add_row("Ships", show_rates(traffic["shipped"]))
        traffic_rows(shown, traffic)
    tagged = item.get("tagged_points") or {}
    if tagged.get("count"):
        shown.add_row("Tagged points", _tagged(tagged))
    if test := item.get("test"):
        shown.add_row("Test machine", _test(test))
    if item.get("recovery_machine"):
        shown.add_row("Recovery machine", coloured(machine_name(item.get("recovery_machine")), ""))
    if item.get("failover_point"):
        shown.add_row("Failed over to", _point(item.get("failover_point")))
    if policy := item.get("commit_policy"):
        shown.add_row("By itself", f"{word(policy['action'], 'action')}, {show_instant(policy['at'])}")
        if error := policy.get("error"):
            shown.add_row("", coloured(_reason(error), "red"))
    shown.add_row("Protected since", show_instant(item.get("created")))
    if job:
        shown.add_row("Job", coloured(f"{running(job)} ({job['id']})", "cyan"))
    shown.add_row("You can now", ", ".join(item.get("allowed_operations") or []) or "wait for the running job")
    return shown


def _tagged(tagged: dict[str, Any]) -> str:
    past, size = tagged.get("past_retention"), show_size(tagged.get("stored_bytes"))
    kept = fill("{count} past retention", count=str(past)) if past else ""
    return ", ".join(part for part in (str(tagged["count"]), kept, size) if part)


def _crossed(crossed: dict[str, Any]) -> str:
    sent, received = show_size(crossed.get("out")), show_size(crossed.get("in"))
    return fill("{sent} out, {received} in", sent=sent, received=received)


def _test(test: dict[str, Any]) -> str:
    name, point = machine_name(test.get("machine")), _point(test.get("point"))
    return fill("{machine} from {point}", machine=name, point=point)


def _point(point: Any) -> str:
    if isinstance(point, dict) and point.get("time"):
        return f"{point_name(point)}, {show_instant(point['time'])}"
    return point_name(point)


def _reason(reason: Any) -> str:
    """A health reason or an error: words, or {code, cause, …}."""
    if isinstance(reason, dict):
        return told(str(reason.get("cause") or reason.get("code") or reason))
    return told(str(reason))


def tell_what_now(session: Session, job: Job, item: str) -> None:
    """After a job that was waited for: the job under --json, else the item's new state and what it allows."""
    if session.json_wanted:
        session.answer({"job": job}, lambda console: None)
        return
    try:
        found = session.vault.item(item)
    except VaultNotRunning as error:
        # The job is done, which is what was asked for; only the look at its outcome isn't possible now.
        session.note(error.cause)
        return
    allowed = ", ".join(found.get("allowed_operations") or []) or "wait for what runs"
    session.answer(
        {},
        lambda console: console.print(
            f"{found.get('name', item)} is {found.get('state', '?')}, runs at {found.get('active_site', '?')}. "
            f"You can now: {allowed}",
            markup=False,
        ),
    )
