"""Failover: the machine goes on at the other site, from a recovery point. Works with the source's site gone.

Replication always stops before the recovery machine is made (reference 2.5, invariant 4): ending the timeline fences
a source that can't be told. Unless it was stopped as planned, its machine is fenced too, as soon as its site is there.

A *planned* failover loses nothing: the source must shut down and its last changes must arrive, else all is undone.

Version 1 knew neither planned failovers nor commit policies: without these its records and version 2's are the same.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from homeport.domain.choice import PointKind
from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.domain.states import State
from homeport.domain.task_tree import Group
from homeport.vault.database import Json, now
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.tasks import prerequisites
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

PLANNED = {"look-home": "See that the machine's site is there"}

UNDO = {
    "undo-remove-machine": "Remove the recovery machine",
    "undo-end-timeline": "Find the newest recovery point",
    "undo-fork": "Go on in a fork of the timeline",
    "undo-start-original": "Start the original machine again",
    "undo-replicate": "Start replication again",
    "undo-check": "See that replication runs",
}


GROUPS = {
    **prerequisites(*PLANNED),
    "stop": Group("Stop the source", ("planned-stop", "take-point", "stop-replication")),
    "fence": Group("Fence the source off", ("end-timeline", "fence-source")),
    "start": Group("Start the recovery machine", ("choose-point", "remove-earlier", "start-machine")),
    "undo": Group("Go back to the original", tuple(UNDO)),
}


class SourceNotStopped(HomeportError):
    """A planned failover loses nothing, and the machine's last changes are not in the store."""

    code = "failover.machine-not-stopped"
    remedy = "Remove what keeps them (see the cause), then try again; or fail over without --planned."


@operation(Operation.FAILOVER, 1, {**STEPS, **UNDO})
@operation(Operation.FAILOVER, 2, {**PLANNED, **STEPS, **UNDO}, GROUPS)
def failover(run: Run) -> None:
    facts = run.begin("fork")
    try:
        stop_source(run, facts)
        run.step("end-timeline", replication.end_timeline(facts.away, facts.timeline))
        stopped = how_it_stopped(run, facts)
        if replication.final_point(stopped) is None:
            run.step("fence-source", fence_source(run, facts))
        chosen = run.step("choose-point", replication.choose(run.params["point"], stopped, run.params.get("group")))
        if facts.attempted not in (None, chosen["point"]):
            run.step("remove-earlier", remove(facts, facts.attempted))
        started = run.step(
            "start-machine",
            replication.start_from_point(
                facts, facts.away, facts.away_vm, chosen["point"], test=False, network=None, forward=()
            ),
        )
        run.finish(
            {"point": chosen["point"], "time": chosen["time"], **started},
            active_site=facts.away,
            failover_point=chosen["point"],
            recovery_machine={**started.get("machine", {}), "name": facts.away_vm, "site": facts.away},
            ties={"pending": None, "paused": None, "commit_policy": commit_policy(run.params)},
        )
    except Cancelled:
        if untouched(run):
            run.cancelled(state=as_before(run))
        else:
            undo(run, facts)
            run.cancelled(**UNDONE, active_site=facts.home)
    except HomeportError as error:
        if not planned(run) or "end-timeline" in run.performed or run.before is State.FAILOVER_FAILED:
            raise
        if untouched(run):
            run.fail(error, state=as_before(run) or run.transition.cancelled)
        else:
            undo(run, facts)
            run.fail(error, state=run.transition.cancelled, **UNDONE, active_site=facts.home)


def planned(run: Run) -> bool:
    return bool(run.params.get("planned"))


def untouched(run: Run) -> bool:
    """Nothing was done to the item, by this job or an earlier one."""
    return not run.performed - {"begin", "look-home"} and run.before is not State.FAILOVER_FAILED


def as_before(run: Run) -> State | None:
    """What an item is that nothing was done to. None: as the rules say."""
    return State.PAUSED if run.before is State.PAUSED else None


def commit_policy(params: Json) -> Json | None:
    """What is to become of the failover by itself, and when, unless an operator decides before."""
    action = params.get("commit_policy", "none")
    if action == "none":
        return None
    return {"action": action, "at": (now() + timedelta(seconds=params["commit_after"])).isoformat()}


def stop_source(run: Run, facts: Facts) -> None:
    """Unless it is planned, each part is best effort: the source may be what was lost."""
    if planned(run):
        stop_as_planned(run, facts)
        return
    if facts.stopped is not None:
        return  # an earlier try stopped it
    if run.params["shutdown"]:
        if run.attempt("planned-stop", replication.planned_stop(facts, facts.home)).note is None:
            return
    elif run.params["point"] == PointKind.LATEST and run.before is not State.FAILOVER_FAILED:
        limit = run.core.timeouts.take_point
        run.attempt("take-point", replication.take_point(facts, Consistency.CRASH, None, limit))
    run.attempt("stop-replication", replication.stop_replication(facts.home))


def stop_as_planned(run: Run, facts: Facts) -> None:
    """Raises SiteUnreachable, :class:`SourceNotStopped`, or what the site answered."""
    if replication.final_point(facts.stopped) is not None:
        return  # an earlier try stopped it
    if run.before is State.FAILOVER_FAILED:
        raise SourceNotStopped(
            f"An earlier failover ended the replication of {facts.name} without its last changes.",
            remedy="Cancel that failed job, then begin the planned failover; or fail over without --planned.",
        )
    run.step("look-home", replication.must_be_there(facts.home))
    run.step("planned-stop", must_stop(facts))


def must_stop(facts: Facts) -> Effect:
    stop = replication.planned_stop(facts, facts.home)

    def effect(step: Step) -> Json:
        stopped: Json = stop(step)
        if not stopped["complete"]:
            notes = "; ".join(stopped["notes"]) or "its site tells no reason"
            raise SourceNotStopped(
                f"The last changes of {facts.vm} at site {facts.home!r} could not be taken: {notes}."
            )
        return stopped

    return effect


def how_it_stopped(run: Run, facts: Facts) -> Json | None:
    found: Json | None = run.values["planned-stop"] if "planned-stop" in run.performed else facts.stopped
    return found


def fence_source(run: Run, facts: Facts) -> Effect:
    reason = f"{facts.name} was failed over to site {facts.away!r}"
    return replication.fence(facts, facts.home, reason, power_off=run.params["shutdown"])


def remove(facts: Facts, point: str | None) -> Effect:
    return replication.remove_machine(facts, facts.away, facts.away_vm, point, test=False)


def attempted(run: Run, facts: Facts) -> str | None:
    """The point of a recovery machine that may be there, by this job or an earlier one."""
    if "start-machine" in run.performed:
        point: str = run.values["choose-point"]["point"]
        return point
    return None if "remove-earlier" in run.performed else facts.attempted


UNDONE: dict[str, Any] = {
    "recovery_machine": None,
    "failover_point": None,
    "ties": {"pending": None, "paused": None, "commit_policy": None},
}


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
