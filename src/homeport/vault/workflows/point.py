"""A recovery point now, at the operator's wish."""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.vault.steps import Run, operation
from homeport.vault.workflows import replication

STEPS = {"take-point": "Make a recovery point"}


@operation(Operation.POINT, 1, STEPS)
def point(run: Run) -> None:
    facts = run.begin()
    consistency = Consistency.APP if run.params["app_consistent"] else Consistency.CRASH
    taken = run.step("take-point", replication.take_point(facts, consistency, run.params["tag"]), cancellable=False)
    run.finish(taken)
