"""Disable: replication ends and both sites forget the item; machines stay as they are."""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.vault.database import now
from homeport.vault.steps import Run, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.protect import forget_both

STEPS = {
    "stop-replication": "Stop replication",
    "remove-test-machine": "Remove the test machine",
    "forget": "Forget the machine at both sites",
}


@operation(Operation.DISABLE, 1, STEPS)
def disable(run: Run) -> None:
    facts = run.begin()
    run.attempt("stop-replication", replication.stop_replication(facts.active), cancellable=False)
    if facts.test is not None:
        run.attempt(
            "remove-test-machine",
            replication.remove_machine(facts.away, facts.test["machine"]),
            cancellable=False,
        )
    forgotten = run.attempt("forget", forget_both(facts), cancellable=False)
    run.finish(forgotten.value, removed=now(), test=None, replicate=None, ties={"pending": None})
