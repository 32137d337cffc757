"""Pause: replication stops until it is resumed. Points stay offered, the machine goes on being tracked where it runs.

What a resume needs lies in the item's ``paused`` tie from before the site is asked, so that a pause which fails, or is
killed anywhere, can be taken back.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.vault.database import ItemRow, Json, now
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.work import SiteUnreachable, withdraw_posted
from homeport.vault.workflows import replication

STEPS = {"stop-replication": "Stop replication, keeping what it knows"}


@operation(Operation.PAUSE, 1, STEPS)
def pause(run: Run) -> None:
    facts = run.begin()
    stopped = run.step("stop-replication", stop(facts), cancellable=False)
    run.finish(stopped)


def stop(facts: Facts) -> Effect:
    """Raises SiteUnreachable, or what the site answered; the item replicates as before then."""

    def effect(step: Step) -> Json:
        if replication.is_gone(step, facts.active):
            raise SiteUnreachable(
                f"The configuration server of site {facts.active!r} is not there; not asked.", site=facts.active
            )
        with step.item() as (_, item):
            if item.replicate is not None:
                item.ties = {**item.ties, "paused": {"since": now().isoformat(), "replicate": item.replicate}}
                # Before the site is asked: a server of it that begins now would replicate again.
                item.replicate = None
        # What an earlier pause that failed posted must not start it again.
        withdraw_posted(step.core, facts.item, "replicate", facts.active, facts.vm_at(facts.active))
        try:
            result: Json = step.ask(facts.active, "stop-replication", {})
        except HomeportError:
            take_back(step)
            raise
        with step.item() as (_, item):
            item.replication = {**item.replication, "phase": "stopped", "progress": None, "error": None}
        return result

    return effect


def take_back(step: Step) -> None:
    """The site may have stopped all the same, or stop yet: it is told to go on, whenever it is there."""
    with step.item() as (session, item):
        ties: dict[str, Any] = dict(item.ties)
        kept = ties.pop("paused", None)
        if kept is None:
            return
        item.ties, item.replicate = ties, kept["replicate"]
        params = _params(session, item)
    if params is not None:
        step.post(kept["replicate"]["at"], "replicate", params)


def _params(session: Session, item: ItemRow) -> Json | None:
    found = replication.replications(session, [item])
    return found[0][1] if found else None
