"""Failover: the machine goes on at the other site, from a recovery point. Works with the source's site gone.

Replication always stops before the recovery machine is made (reference 2.5, invariant 4): ending the timeline fences
a source that can't be told. Unless it was stopped as planned, its machine is fenced too, as soon as its site is there.
"""

from __future__ import annotations

from typing import Any

from homeport.domain.choice import PointKind
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.domain.states import State
from homeport.vault.database import Json
from homeport.vault.steps import Cancelled, Effect, Facts, Run, operation
from homeport.vault.workflows import replication

STEPS = {
    "planned-stop": "Shut the machine down and ship its last changes",
    "take-point": "Make a recovery point of the latest changes",
    "stop-replication": "Stop replication",
    "end-timeline": "End the timeline: the source is fenced off",
    "fence-source": "Keep the source from starting again, whenever its site is there",
    "choose-point": "Choose the recovery point",
    "remove-earlier": "Remove the recovery machine of an earlier try",
    "start-machine": "Start the machine from the recovery point",
}

UNDO = {
    "undo-remove-machine": "Remove the recovery machine",
    "undo-end-timeline": "Find the newest recovery point",
    "undo-fork": "Go on in a fork of the timeline",
    "undo-start-original": "Start the original machine again",
    "undo-replicate": "Start replication again",
    "undo-check": "See that replication runs",
}


@operation(Operation.FAILOVER, 1, {**STEPS, **UNDO})
def failover(run: Run) -> None:
    facts = run.begin("fork")
    try:
        stop_source(run, facts)
        run.step("end-timeline", replication.end_timeline(facts.away, facts.timeline))
        stopped = how_it_stopped(run, facts)
        if replication.final_point(stopped) is None:
            run.step("fence-source", fence_source(run, facts))
        chosen = run.step("choose-point", replication.choose(run.params["point"], stopped))
        if facts.attempted not in (None, chosen["point"]):
            run.step("remove-earlier", remove(facts, facts.attempted))
        started = run.step(
            "start-machine",
            replication.start_from_point(
                facts, facts.away, facts.vm, chosen["point"], test=False, network=None, forward=()
            ),
        )
        run.finish(
            {"point": chosen["point"], "time": chosen["time"], **started},
            active_site=facts.away,
            failover_point=chosen["point"],
            recovery_machine={**started.get("machine", {}), "name": facts.vm, "site": facts.away},
            ties={"pending": None},
        )
    except Cancelled:
        if not run.performed - {"begin"} and run.before is not State.FAILOVER_FAILED:
            run.cancelled()
        else:
            undo(run, facts)
            run.cancelled(**UNDONE, active_site=facts.home)


def stop_source(run: Run, facts: Facts) -> None:
    """Best effort, each part: the source may be what was lost."""
    if facts.stopped is not None:
        return  # an earlier try stopped it
    if run.params["shutdown"]:
        if run.attempt("planned-stop", replication.planned_stop(facts, facts.home)).note is None:
            return
    elif run.params["point"] == PointKind.LATEST and run.before is not State.FAILOVER_FAILED:
        limit = run.core.timeouts.take_point
        run.attempt("take-point", replication.take_point(facts, Consistency.CRASH, None, limit))
    run.attempt("stop-replication", replication.stop_replication(facts.home))


def how_it_stopped(run: Run, facts: Facts) -> Json | None:
    found: Json | None = run.values["planned-stop"] if "planned-stop" in run.performed else facts.stopped
    return found


def fence_source(run: Run, facts: Facts) -> Effect:
    reason = f"{facts.name} was failed over to site {facts.away!r}"
    return replication.fence(facts, facts.home, reason, power_off=run.params["shutdown"])


def remove(facts: Facts, point: str | None) -> Effect:
    return replication.remove_machine(facts, facts.away, facts.vm, point, test=False)


def attempted(run: Run, facts: Facts) -> str | None:
    """The point of a recovery machine that may be there, by this job or an earlier one."""
    if "start-machine" in run.performed:
        point: str = run.values["choose-point"]["point"]
        return point
    return None if "remove-earlier" in run.performed else facts.attempted


UNDONE: dict[str, Any] = {"recovery_machine": None, "failover_point": None, "ties": {"pending": None}}


def undo(run: Run, facts: Facts) -> None:
    """The original goes on as if there had been no failover, in a fork of the timeline that the failover ended."""
    started = attempted(run, facts)
    if started is not None:
        run.step("undo-remove-machine", remove(facts, started), cancellable=False)
    ended = run.step("undo-end-timeline", replication.end_timeline(facts.away, facts.timeline), cancellable=False)
    fork = facts.pending("fork")
    run.step(
        "undo-fork",
        replication.prepare_timeline(facts, facts.away, fork, parent=ended["head"]),
        cancellable=False,
    )
    final = replication.final_point(how_it_stopped(run, facts))
    run.step(
        "undo-start-original",
        replication.start_original(facts, facts.home, final, resumes=True),
        cancellable=False,
    )
    run.step(
        "undo-replicate",
        replication.replicate(
            facts,
            at=facts.home,
            store=facts.away,
            timeline=fork,
            lineage=[*facts.lineage, fork],
            policy=facts.policy,
            tracker_base=final,
        ),
        cancellable=False,
    )
    run.step("undo-check", replication.wait_until_it_runs(facts, fork), cancellable=False)


@operation(Operation.CANCEL_FAILOVER, 1, UNDO)
def cancel_failover(run: Run) -> None:
    """The way back from a failover that failed."""
    facts = run.begin("fork")
    undo(run, facts)
    run.finish(**UNDONE, active_site=facts.home)
