"""Disable: replication ends and both sites forget the item; machines stay as they are.

A test machine can't be there: until it is cleaned up, cleanup is all that is allowed.
"""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.vault.database import now
from homeport.vault.steps import Run, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.protect import forget_both

STEPS = {
    "stop-replication": "Stop replication",
    "forget": "Forget the machine at both sites",
}


@operation(Operation.DISABLE, 1, STEPS)
def disable(run: Run) -> None:
    facts = run.begin()
    run.attempt("stop-replication", replication.stop_replication(facts.active), cancellable=False)
    forgotten = run.attempt("forget", forget_both(facts), cancellable=False)
    run.finish(forgotten.value, removed=now(), replicate=None, ties={"pending": None})
