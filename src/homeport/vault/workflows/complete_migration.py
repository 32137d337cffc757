"""Complete a migration: the machine stays away for good, without protection and without what protection left behind.

It first gets all of its disks out of the recovery point: from then on it needs nothing of Homeport. Until then it can
be cancelled; forgetting can't be undone. Version 1 could not be cancelled at all.
"""

from __future__ import annotations

from typing import Any

from homeport.domain.operations import Operation
from homeport.domain.task_tree import Group
from homeport.vault import items
from homeport.vault.database import Json
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.work import SiteUnreachable

_FORGET = {
    "forget-away": "Forget the recovery points where it runs",
    "forget-home": "Forget the machine at its former site",
}

STEPS_V1 = {"hydrate": "Wait until the machine holds all of its disks itself", **_FORGET}

STEPS = {"copy-disks": "Wait until the machine holds all of its disks itself", **_FORGET}

GROUPS = {"forget": Group("Forget the protection", tuple(_FORGET))}

_OVER: dict[str, Any] = {
    "replicate": None,
    "lineage": [],
    "failover_point": None,
    "ties": dict.fromkeys(
        (
            "pending",
            "paused",
            "stopped",
            "attempted",
            "commit_policy",
            "discarded",
            "kept",
            "tagged",
            "untagged",
            "home_parent",
            "import_point",
            "next_timeline",
        )
    ),
}


@operation(Operation.COMPLETE_MIGRATION, 1, STEPS_V1, final=STEPS_V1)
def complete_migration_v1(run: Run) -> None:
    facts = run.begin()
    hydrated = run.step("hydrate", hydrate_v1(facts), cancellable=False)
    forget_both(run, facts)
    run.finish(hydrated, timelines={facts.home: [], facts.away: []}, **_OVER)


@operation(Operation.COMPLETE_MIGRATION, 2, STEPS, GROUPS, final=_FORGET)
def complete_migration(run: Run) -> None:
    """Cancelled while the disks are copied, all is as before: the copying goes on by itself and does no harm."""
    facts = run.begin()
    try:
        copied = run.step("copy-disks", copy_disks(facts))
        forget_both(run, facts)
    except Cancelled:
        run.cancelled(ties={"pending": None})
        return
    run.finish(copied, timelines={facts.home: [], facts.away: []}, **_OVER)


def forget_both(run: Run, facts: Facts) -> None:
    run.step("forget-away", forget(facts, facts.away), cancellable=run.workflow.cancellable)
    run.attempt("forget-home", forget(facts, facts.home), cancellable=False)


def hydrate_v1(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(facts.away, "hydrate", {"vm": facts.away_vm})

    return effect


def copy_disks(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask_unless_cancelled(facts.away, "hydrate", {"vm": facts.away_vm})

    return effect


def forget(facts: Facts, site: str) -> Effect:
    """The original's fence stays: its machine runs elsewhere now. Raises SiteUnreachable where nobody is there; that
    site is told when it returns."""

    def effect(step: Step) -> None:
        timelines: list[str] = facts.timelines.get(site, [])
        params = {"vm": facts.vm_at(site), "timelines": timelines, "remove_tracking": site == facts.active}
        if site == facts.home and step.core.liveness.gone(site, step.core.timeouts.gone):
            step.post(site, "forget", params)
            raise SiteUnreachable(f"Site {site!r} is not there; it is told when it returns.", site=site)
        step.ask(site, "forget", params, limit=step.core.timeouts.forget if site == facts.home else None)
        with step.item() as (session, _):
            for timeline in timelines:
                items.remember_points(session, timeline, [])

    return effect
