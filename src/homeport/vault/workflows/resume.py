"""Resume: replication goes on where a pause stopped it; what changed meanwhile is shipped with the next point."""

from __future__ import annotations

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.states import Direction
from homeport.vault.steps import Effect, Facts, Run, operation
from homeport.vault.workflows import replication

STEPS = {
    "replicate": "Start replication again",
    "check": "See that replication runs",
    "undo-stop": "Stop replication",
}


@operation(Operation.RESUME, 1, STEPS)
def resume(run: Run) -> None:
    facts = run.begin()
    try:
        run.step("replicate", go_on(facts), cancellable=False)
        found = run.step("check", replication.wait_until_it_runs(facts, facts.timeline), cancellable=False)
    except HomeportError as error:
        run.attempt("undo-stop", replication.stop_replication(facts.active), cancellable=False)
        run.fail(error)
        return
    run.finish(found, ties={"paused": None})


def go_on(facts: Facts) -> Effect:
    """By the policy as it is now; what the tracker calls its base is as it was."""
    before = facts.ties["paused"]["replicate"]["params"]
    return replication.replicate(
        facts,
        at=facts.active,
        store=facts.store,
        timeline=facts.timeline,
        lineage=facts.lineage,
        policy=facts.policy if facts.direction == Direction.FORWARD else facts.failback_policy,
        tracker_base=before.get("tracker_base"),
        same_as=before.get("same_as"),
    )
