"""Complete a migration: the machine stays away for good, without protection and without what protection left behind.

It first gets all of its disks out of the recovery point: from then on it needs nothing of Homeport.
"""

from __future__ import annotations

from typing import Any

from homeport.domain.operations import Operation
from homeport.vault import items
from homeport.vault.database import Json
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.work import SiteUnreachable

STEPS = {
    "hydrate": "Wait until the machine holds all of its disks itself",
    "forget-away": "Forget the recovery points where it runs",
    "forget-home": "Forget the machine at its former site",
}

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
            "home_parent",
            "import_point",
            "next_timeline",
        )
    ),
}


@operation(Operation.COMPLETE_MIGRATION, 1, STEPS)
def complete_migration(run: Run) -> None:
    facts = run.begin()
    hydrated = run.step("hydrate", hydrate(facts), cancellable=False)
    run.step("forget-away", forget(facts, facts.away), cancellable=False)
    run.attempt("forget-home", forget(facts, facts.home), cancellable=False)
    run.finish(hydrated, timelines={facts.home: [], facts.away: []}, **_OVER)


def hydrate(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(facts.away, "hydrate", {"vm": facts.away_vm})

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
