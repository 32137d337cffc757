"""Disable: replication ends and both sites forget the item; machines stay as they are.

Recovery points are kept for a time (soft delete, vault/deleted.py) unless they are to be purged at once. With the
source gone its site is not asked: it is told when it returns, and ending the timeline keeps it from adding points until
then.

A test machine can't be there: until it is cleaned up, cleanup is all that is allowed.
"""

from __future__ import annotations

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.vault import deleted
from homeport.vault.database import Json, now
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.protect import forget_both

STEPS_V1 = {
    "stop-replication": "Stop replication",
    "forget": "Forget the machine at both sites",
}

STEPS = {
    "stop-replication": "Stop replication",
    "end-timeline": "End the timeline: nothing is added any more",
    "forget": "Forget the machine at both sites",
    "purge": "Delete the recovery points and shred the machine's key",
}


@operation(Operation.DISABLE, 1, STEPS_V1)
def disable_v1(run: Run) -> None:
    facts = run.begin()
    run.attempt("stop-replication", replication.stop_replication(facts.active), cancellable=False)
    forgotten = run.attempt("forget", forget_both(facts), cancellable=False)
    run.finish(forgotten.value, removed=now(), replicate=None, ties={"pending": None})


@operation(Operation.DISABLE, 2, STEPS)
def disable(run: Run) -> None:
    """``source_gone``: the home site is neither asked nor waited for; ``purge``: no point is kept."""
    facts = run.begin()
    gone = facts.home if run.params.get("source_gone") else None
    notes: list[str] = []
    migrated = run.before is State.MIGRATED  # its points are forgotten already, and nothing replicates
    if not migrated:
        stop = post_stop(facts) if gone == facts.active else replication.stop_replication(facts.active)
        run.attempt("stop-replication", stop, cancellable=False)
        if facts.timeline in facts.timelines.get(facts.store, []) and facts.store != gone:
            run.attempt("end-timeline", replication.end_timeline(facts.store, facts.timeline), cancellable=False)
    forgotten = run.attempt("forget", forget(facts, gone), cancellable=False)
    if forgotten.value:
        notes += forgotten.value["notes"]
    until = None
    if any(facts.timelines.values()) and not migrated:
        until = now() + deleted.KEPT
        if run.params.get("purge"):
            purged = run.attempt("purge", purge(facts), cancellable=False)
            done = purged.value is not None and not purged.value["waiting"]
            until = None if done else now()
            if purged.value:
                notes += purged.value["notes"]
                notes += [f"Recovery points stay until the vault can delete them: {w}" for w in purged.value["waiting"]]
    kept = until.isoformat() if until and not run.params.get("purge") else None
    run.finish({"notes": notes, "points_kept_until": kept}, removed=now(), purge_at=until, ties={"pending": None})


def post_stop(facts: Facts) -> Effect:
    """The site that does not answer stops when it returns (it is told with the rest); here it counts as stopped."""

    def effect(step: Step) -> None:
        replication.forget_replicate(step)

    return effect


def forget(facts: Facts, gone: str | None) -> Effect:
    """What each site keeps to work with: caches, tracking, retention. Recovery points stay. ``gone``: a site that is
    told when it returns."""

    def effect(step: Step) -> Json:
        notes: list[str] = []
        for site in (facts.home, facts.away):
            vm = facts.vm_at(site)
            replication.lift_fence(step, facts, site, vm)
            params: Json = {"vm": vm, "timelines": [], "remove_tracking": site == facts.active}
            if site == gone:
                step.post(site, "forget", params)
                notes.append(f"Site {site!r} was not asked: it cleans up when it returns.")
                continue
            try:
                if step.core.liveness.gone(site, step.core.timeouts.gone):
                    raise HomeportError(f"The configuration server of site {site!r} is not there; not asked.")
                step.ask(site, "forget", params, limit=step.core.timeouts.forget)
            except HomeportError as error:
                notes.append(f"{error.cause} ({error.code})")
        return {"notes": notes}

    return effect


def purge(facts: Facts) -> Effect:
    """Now, where the sites answer; the rest is tried again by the vault until it is done."""

    def effect(step: Step) -> Json:
        return deleted.purge_at_sites(step.core, facts.item)

    return effect
