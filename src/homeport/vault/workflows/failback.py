"""Failback: the machine comes home. Its original disks are brought to a recovery point and started.

What is overwritten goes to the retention drive first: if anything fails from there on, or the job is cancelled, the
disks are rolled back and the recovery machine goes on, in a fork of the timeline that the failback ended.

The original starts only when the recovery machine was stopped as planned, or when its site is known to be gone.
"""

from __future__ import annotations

from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.domain.task_tree import Group
from homeport.vault.database import Json
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication

STEPS = {
    "planned-stop": "Shut the recovery machine down and ship its last changes",
    "stop-replication": "Stop replication",
    "fence-recovery-machine": "Keep the recovery machine from running, whenever its site is there again",
    "end-timeline": "End the timeline",
    "choose-point": "Choose the recovery point",
    "write-disks": "Bring the original's disks to the recovery point",
    "start-original": "Start the original machine",
}

UNDO = {
    "undo-power-off": "Power the original machine off again",
    "undo-disks": "Give the original's disks their bytes back",
    "undo-end-timeline": "Find the newest recovery point",
    "undo-fork": "Go on in a fork of the timeline",
    "undo-start-recovery": "Start the recovery machine again",
    "undo-replicate": "Start replication again",
    "undo-check": "See that replication runs",
}


class RecoveryMachineNotStopped(HomeportError):
    """Its last changes are not in the store, though its site is there."""

    code = "failback.machine-not-stopped"
    remedy = "Remove what keeps them (see the cause), then restart the job."


GROUPS = {
    "stop": Group("Stop the recovery machine", ("planned-stop", "stop-replication", "fence-recovery-machine")),
    "restore": Group("Bring the original to the recovery point", ("end-timeline", "choose-point", "write-disks")),
    "undo": Group("Go back to the recovery machine", tuple(UNDO)),
}

UNDONE: dict[str, Any] = {"ties": {"pending": None, "paused": None}}


@operation(Operation.FAILBACK, 1, {**STEPS, **UNDO}, GROUPS)
def failback(run: Run) -> None:
    facts = run.begin("fork")
    try:
        bring_home(run, facts)
    except Cancelled:
        if untouched(run):
            run.cancelled(state=State.PAUSED if run.before is State.PAUSED else None)
        else:
            undo(run, facts)
            run.cancelled(**UNDONE, active_site=facts.away)
    except HomeportError as error:
        undo(run, facts)
        run.fail(error, state=State.REVERSE_PROTECTED, active_site=facts.away, **UNDONE)


def bring_home(run: Run, facts: Facts) -> None:
    stopped = facts.stopped
    if replication.final_point(stopped) is None:
        stopped = run.step("planned-stop", stop_recovery_machine(facts))
        if stopped["gone"]:
            run.notes.append(
                f"Site {facts.away!r} is gone, so the recovery machine was not shut down: what it wrote after the "
                "chosen point is lost, and it is fenced and powered off when its site is there again."
            )
            run.attempt("stop-replication", replication.stop_replication(facts.away))
            run.step("fence-recovery-machine", fence_recovery_machine(facts))
    run.step("end-timeline", replication.end_timeline(facts.home, facts.timeline))
    chosen = run.step("choose-point", replication.choose(run.params["point"], stopped, run.params.get("group")))
    written = run.step("write-disks", write_disks(facts, chosen["point"]))
    started = run.step("start-original", replication.start_original(facts, facts.home, chosen["point"]))
    run.finish(
        {"point": chosen["point"], "time": chosen["time"], "written": written, **started},
        active_site=facts.home,
        ties={"pending": None, "paused": None, "home_parent": chosen["point"]},
    )


def untouched(run: Run) -> bool:
    return not run.performed - {"begin"} and run.before is not State.FAILBACK_FAILED


def stop_recovery_machine(facts: Facts) -> Effect:
    """A planned stop that must be complete. "gone": there was nobody to ask. Raises what the site answered, or
    :class:`RecoveryMachineNotStopped`."""
    stop = replication.planned_stop(facts, facts.away)

    def effect(step: Step) -> Json:
        if replication.is_gone(step, facts.away):
            return {"point": None, "complete": False, "gone": True}
        stopped: Json = stop(step)
        if not stopped["complete"]:
            notes = "; ".join(stopped["notes"]) or "its site tells no reason"
            raise RecoveryMachineNotStopped(
                f"The last changes of the recovery machine {facts.away_vm} at site {facts.away!r} could not be taken: "
                f"{notes}."
            )
        return {**stopped, "gone": False}

    return effect


def fence_recovery_machine(facts: Facts) -> Effect:
    reason = f"{facts.name} was failed back to site {facts.home!r} without this one"
    return replication.fence(facts, facts.away, reason, power_off=True)


def write_disks(facts: Facts, point: str) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(
            facts.home,
            "write-disks",
            {"vm": facts.vm, "timeline": facts.timeline, "base": facts.ties.get("import_point"), "point": point},
        )

    return effect


def undo(run: Run, facts: Facts) -> None:
    """The recovery machine goes on as if there had been no failback. What was never done is not undone, but a failed
    earlier try may have done anything."""
    stopped = facts.stopped
    if "planned-stop" in run.performed:
        stopped = run.values["planned-stop"]
    earlier = run.before is State.FAILBACK_FAILED
    if earlier or "start-original" in run.performed:
        run.step("undo-power-off", power_off(facts), cancellable=False)
    if earlier or "write-disks" in run.performed:
        run.step("undo-disks", rollback(facts), cancellable=False)
    ended = run.step("undo-end-timeline", replication.end_timeline(facts.home, facts.timeline), cancellable=False)
    fork = facts.pending("fork")
    run.step(
        "undo-fork", replication.prepare_timeline(facts, facts.home, fork, parent=ended["head"]), cancellable=False
    )
    final = replication.final_point(stopped)
    run.step(
        "undo-start-recovery",
        replication.start_original(facts, facts.away, final, resumes=True),
        cancellable=False,
    )
    run.step(
        "undo-replicate",
        replication.replicate(
            facts,
            at=facts.away,
            store=facts.home,
            timeline=fork,
            lineage=[*facts.lineage, fork],
            policy=facts.failback_policy,
            tracker_base=final,
        ),
        cancellable=False,
    )
    run.step("undo-check", replication.wait_until_it_runs(facts, fork), cancellable=False)


def power_off(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(
            facts.home,
            "power-off-original",
            {"vm": facts.vm, "reason": f"{facts.name} runs at site {facts.away!r}: its failback was undone"},
        )

    return effect


def rollback(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(facts.home, "rollback-disks", {"vm": facts.vm})

    return effect


@operation(Operation.CANCEL_FAILBACK, 1, UNDO)
def cancel_failback(run: Run) -> None:
    """The way back from a failback that failed and could not undo itself."""
    facts = run.begin("fork")
    undo(run, facts)
    run.finish(**UNDONE, active_site=facts.away)
