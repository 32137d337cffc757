"""Cleanup of a test failover: the test machine goes, the operator's notes stay with the job."""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.vault.steps import Run, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.test_failover import test_machine

STEPS = {"remove-machine": "Remove the test machine"}


@operation(Operation.CLEANUP, 1, STEPS)
def cleanup(run: Run) -> None:
    facts = run.begin()
    vm = facts.test["machine"] if facts.test else test_machine(facts.away_vm)
    point = facts.test["point"] if facts.test else None
    remove = replication.remove_machine(facts, facts.away, vm, point, test=True)
    run.step("remove-machine", remove, cancellable=False)
    run.finish({"notes_of_test": run.params["notes"]}, test=None)
