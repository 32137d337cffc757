"""Change the recovery point of a failover that is not committed: the recovery machine is made anew from another one.

What the recovery machine wrote is lost. If the other point doesn't start, the earlier one is started again.
"""

from __future__ import annotations

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.domain.task_tree import Group
from homeport.vault.database import Json
from homeport.vault.steps import Effect, Facts, Run, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.failover import remove

STEPS = {
    "choose-point": "Choose the recovery point",
    "remove-machine": "Remove the recovery machine",
    "start-machine": "Start the machine from the other recovery point",
    "undo-remove": "Remove what did not start",
    "undo-start": "Start the machine from the earlier recovery point",
}


GROUPS = {
    "change": Group("Go to the other recovery point", ("choose-point", "remove-machine", "start-machine")),
    "undo": Group("Go back to the earlier recovery point", ("undo-remove", "undo-start")),
}


@operation(Operation.CHANGE_POINT, 1, STEPS, GROUPS)
def change_point(run: Run) -> None:
    facts = run.begin()
    try:
        chosen = run.step("choose-point", replication.choose(run.params["point"]), cancellable=False)
        run.step("remove-machine", remove(facts, facts.failover_point), cancellable=False)
        started = run.step("start-machine", start(facts, chosen["point"]), cancellable=False)
    except HomeportError as error:
        if "remove-machine" not in run.performed:
            run.fail(error, state=State.FAILOVER_COMMIT_PENDING)
            return
        assert facts.failover_point is not None
        there = chosen["point"] if "start-machine" in run.performed else facts.failover_point
        run.step("undo-remove", remove(facts, there), cancellable=False)
        earlier = run.step("undo-start", start(facts, facts.failover_point), cancellable=False)
        run.fail(error, state=State.FAILOVER_COMMIT_PENDING, recovery_machine=machine(facts, earlier))
        return
    run.finish(
        {"point": chosen["point"], **started},
        failover_point=chosen["point"],
        recovery_machine=machine(facts, started),
    )


def start(facts: Facts, point: str) -> Effect:
    return replication.start_from_point(facts, facts.away, facts.away_vm, point, test=False, network=None, forward=())


def machine(facts: Facts, started: Json) -> Json:
    return {**started.get("machine", {}), "name": facts.away_vm, "site": facts.away}
