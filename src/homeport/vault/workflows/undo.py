"""Undo: before the commit, a failover is taken back. The machine goes on at home where it stopped.

What the recovery machine wrote is not part of that: its disks' final state is kept for a day, as a timeline that forks
from the point it was started from; nothing merges it.
"""

from __future__ import annotations

from datetime import timedelta

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.task_tree import Group
from homeport.domain.units import DAY
from homeport.vault.database import Json, now
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.tasks import prerequisites
from homeport.vault.workflows import failover, replication

KEPT = timedelta(seconds=DAY)
"""For this long what the recovery machine wrote can be restored; then the vault drops it (timers.py)."""

STEPS = {
    "look-home": "See that the original's site is there",
    "stop-machine": "Shut the recovery machine down",
    "keep-writes": "Keep the recovery machine's final state for a day",
    "restart-machine": "Start the recovery machine again",
}


GROUPS = {
    **prerequisites("look-home"),
    "stop": Group("Stop the recovery machine", ("stop-machine", "keep-writes")),
    "undo": Group("Go back to the original", tuple(failover.UNDO)),
}


@operation(Operation.UNDO, 1, {**STEPS, **failover.UNDO}, GROUPS)
def undo(run: Run) -> None:
    facts = run.begin("fork", "discard")
    kept: Json | None = None
    try:
        run.step("look-home", replication.must_be_there(facts.home), cancellable=False)
        stopped = run.step("stop-machine", stop_machine(facts), cancellable=False)
        run.notes += stopped.get("notes", [])
        if not stopped["gone"]:
            kept = run.step("keep-writes", keep_writes(facts), cancellable=False)
    except HomeportError as error:
        go_on_as_before(run, facts, error)
        return
    if kept is not None:
        run.notes.append(
            f"What {facts.away_vm} wrote at site {facts.away!r} is no longer part of {facts.name}. It can be restored "
            f"there as point {kept['point']} until {kept['until']}; then it is dropped."
        )
    failover.undo(run, facts)
    run.finish({"discarded": kept}, **failover.UNDONE, active_site=facts.home)


def go_on_as_before(run: Run, facts: Facts, error: HomeportError) -> None:
    """Nothing is lost yet: the recovery machine runs again, and the failover can be committed or undone later."""
    if "stop-machine" in run.performed:
        again = replication.start_original(facts, facts.away, None)
        if run.attempt("restart-machine", again, cancellable=False).note is not None:
            run.fail(error)
            return
    # A later try must name another timeline: this one may hold what the machine's disks were by then.
    run.fail(error, state=run.transition.cancelled, ties={"pending": None})


def stop_machine(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        timeout = step.core.timeouts.shut_down
        return step.ask(facts.away, "stop-machine", {"vm": facts.away_vm, "timeout": timeout})

    return effect


def keep_writes(facts: Facts) -> Effect:
    timeline = facts.pending("discard")
    keep = replication.import_base(facts, facts.away, timeline, parent=facts.failover_point, origin=None)

    def effect(step: Step) -> Json:
        until = (now() + KEPT).isoformat()
        with step.item() as (_, item):
            known = [each for each in item.ties.get("discarded", []) if each["timeline"] != timeline]
            # Noted before it is made: whatever becomes of it, it is dropped in time.
            entry = {"timeline": timeline, "site": facts.away, "until": until}
            item.ties = {**item.ties, "discarded": [*known, entry]}
        result: Json = keep(step)
        return {"timeline": timeline, "site": facts.away, "until": until, **result}

    return effect
