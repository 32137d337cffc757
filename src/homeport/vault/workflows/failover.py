"""Failover: the machine goes on at the other site, from a recovery point. Works with the source's site gone.

Replication always stops before the recovery machine is made (reference 2.5, invariant 4): ending the timeline fences
a source that can't be told.
"""

from __future__ import annotations

from typing import Any

from homeport.domain.choice import PointKind
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.domain.states import State
from homeport.vault.steps import Cancelled, Facts, Run, operation
from homeport.vault.workflows import replication

STEPS = {
    "planned-stop": "Shut the machine down and ship its last changes",
    "take-point": "Make a recovery point of the latest changes",
    "stop-replication": "Stop replication",
    "end-timeline": "End the timeline: the source is fenced off",
    "choose-point": "Choose the recovery point",
    "start-machine": "Start the machine from the recovery point",
}

UNDO = {
    "undo-remove-machine": "Remove the recovery machine",
    "undo-end-timeline": "Find the newest recovery point",
    "undo-fork": "Go on in a fork of the timeline",
    "undo-start-original": "Start the original machine again",
    "undo-replicate": "Start replication again",
}


@operation(Operation.FAILOVER, 1, {**STEPS, **UNDO})
def failover(run: Run) -> None:
    facts = run.begin("fork")
    try:
        stop_source(run, facts)
        run.step("end-timeline", replication.end_timeline(facts.away, facts.timeline))
        chosen = run.step("choose-point", replication.choose(run.params["point"]))
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


UNDONE: dict[str, Any] = {"recovery_machine": None, "failover_point": None, "ties": {"pending": None}}


def undo(run: Run, facts: Facts) -> None:
    """The original goes on as if there had been no failover, in a fork of the timeline that the failover ended."""
    stopped = facts.stopped
    if "planned-stop" in run.performed:
        stopped = run.values["planned-stop"]
    run.step("undo-remove-machine", replication.remove_machine(facts.away, facts.vm), cancellable=False)
    ended = run.step("undo-end-timeline", replication.end_timeline(facts.away, facts.timeline), cancellable=False)
    fork = facts.pending("fork")
    run.step(
        "undo-fork",
        replication.prepare_timeline(facts, facts.away, fork, parent=ended["head"]),
        cancellable=False,
    )
    final = replication.final_point(stopped)
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


@operation(Operation.CANCEL_FAILOVER, 1, UNDO)
def cancel_failover(run: Run) -> None:
    """The way back from a failover that failed."""
    facts = run.begin("fork")
    undo(run, facts)
    run.finish(**UNDONE, active_site=facts.home)
