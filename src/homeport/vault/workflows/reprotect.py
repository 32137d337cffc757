"""Reprotect: replication in the other direction, of differences only.

After a failover: the original is powered off, its disks become the base of a timeline at its own site, and the recovery
machine replicates into that. After a failback: the original replicates into the timeline that the commit left.
"""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.domain.points import PointId
from homeport.domain.states import Direction
from homeport.domain.task_tree import Group
from homeport.vault.database import Json
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication

STEPS = {
    "power-off-original": "Power the original machine off and keep it off",
    "import-base": "Make the original's disks the base of a timeline",
    "replicate": "Start replication in the other direction",
    "first-point": "Ship the differences, until the first recovery point",
    "undo-stop": "Stop replication",
}


GROUPS = {
    "prepare": Group("Prepare the original", ("power-off-original", "import-base")),
    "enable": Group("Enable replication", ("replicate", "first-point")),
}


@operation(Operation.REPROTECT, 1, STEPS, GROUPS)
def reprotect(run: Run) -> None:
    facts = run.begin("import")
    try:
        if facts.direction == Direction.FORWARD:
            homewards(run, facts)
        else:
            forward_again(run, facts)
    except Cancelled:
        if "replicate" in run.performed:
            run.attempt("undo-stop", replication.stop_replication(facts.active), cancellable=False)
        run.cancelled()


def homewards(run: Run, facts: Facts) -> None:
    assert facts.failover_point is not None
    timeline = facts.pending("import")
    run.step("power-off-original", power_off(facts))
    base = run.step(
        "import-base",
        replication.import_base(
            facts,
            facts.home,
            timeline,
            parent=facts.ties.get("home_parent"),
            origin=facts.failover_point,
        ),
    )
    run.step(
        "replicate",
        replication.replicate(
            facts,
            at=facts.away,
            store=facts.home,
            timeline=timeline,
            lineage=[timeline],
            policy=facts.failback_policy,
            tracker_base=facts.failover_point,
            same_as=replication.final_point(facts.stopped),
        ),
    )
    number = PointId.parse(base["point"]).number
    first = run.step("first-point", replication.wait_for_point(timeline, above=number))
    run.finish(
        {**first, "imported": base},
        direction=Direction.REVERSE,
        active_site=facts.away,
        ties={"pending": None, "stopped": None, "import_point": base["point"]},
    )


def forward_again(run: Run, facts: Facts) -> None:
    prepared = facts.ties["next_timeline"]
    timeline = prepared["timeline"]
    run.step(
        "replicate",
        replication.replicate(
            facts,
            at=facts.home,
            store=facts.away,
            timeline=timeline,
            lineage=[timeline],
            policy=facts.policy,
            tracker_base=facts.ties.get("home_parent"),
            same_as=replication.final_point(facts.stopped),
        ),
    )
    number = PointId.parse(prepared["import_point"]).number
    first = run.step("first-point", replication.wait_for_point(timeline, above=number))
    run.finish(
        first,
        direction=Direction.FORWARD,
        active_site=facts.home,
        ties={
            "pending": None,
            "stopped": None,
            "next_timeline": None,
            "import_point": prepared["import_point"],
        },
    )


def power_off(facts: Facts) -> Effect:
    def effect(step: Step) -> Json:
        reason = f"{facts.name} runs at site {facts.away!r} since its failover to {facts.failover_point}"
        return step.ask(facts.home, "power-off-original", {"vm": facts.vm, "reason": reason})

    return effect
