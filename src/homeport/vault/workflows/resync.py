"""Resync: the running machine and its newest recovery point are compared by digests; differences are shipped."""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.vault.database import Json
from homeport.vault.steps import Effect, Facts, Run, Step, operation

STEPS = {"resync": "Begin to compare by digests"}


@operation(Operation.RESYNC, 1, STEPS)
def resync(run: Run) -> None:
    facts = run.begin()
    run.step("resync", begin_resync(facts), cancellable=False)
    run.finish()


def begin_resync(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        return step.ask(facts.active, "resync", {})

    return effect
