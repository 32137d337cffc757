"""Test failover: a copy of the machine from a recovery point, on a network without a way out; replication goes on."""

from __future__ import annotations

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation
from homeport.domain.task_tree import Group
from homeport.vault.steps import Cancelled, Facts, Run, operation
from homeport.vault.workflows import replication

STEPS = {
    "list-points": "List the recovery points",
    "choose-point": "Choose the recovery point",
    "start-machine": "Start the test machine",
    "undo-remove": "Remove the test machine",
}


GROUPS = {"find": Group("Find the recovery point", ("list-points", "choose-point"))}


@operation(Operation.TEST_FAILOVER, 1, STEPS, GROUPS)
def test_failover(run: Run) -> None:
    facts = run.begin()
    vm = test_machine(facts.away_vm)
    test = {"machine": vm, "point": None, "network": run.params["network"]}
    try:
        run.step("list-points", replication.list_points(facts.away, facts.timeline))
        chosen = run.step("choose-point", replication.choose(run.params["point"]))
        test["point"] = chosen["point"]
        started = run.step(
            "start-machine",
            replication.start_from_point(
                facts,
                facts.away,
                vm,
                chosen["point"],
                test=True,
                network=run.params["network"],
                forward=run.params["forward"],
            ),
        )
        run.finish({"point": chosen["point"], **started}, test=test)
    except Cancelled:
        if remove(run, facts, vm):
            run.cancelled()
        else:
            run.cancelled(state=run.transition.failed, test=test)
    except HomeportError as error:
        if remove(run, facts, vm):
            run.fail(error, state=run.transition.cancelled)
        else:
            run.fail(error, test=test)


def test_machine(vm: str) -> str:
    """The name of the machine that a test starts."""
    return f"{vm}-test"


def remove(run: Run, facts: Facts, vm: str) -> bool:
    """Whether nothing of the test is left."""
    if "start-machine" not in run.performed:
        return True
    point: str = run.values["choose-point"]["point"]
    effect = replication.remove_machine(facts, facts.away, vm, point, test=True)
    return run.attempt("undo-remove", effect, cancellable=False).note is None
