"""Protect: check the machine, begin its timeline at the other site, replicate, wait for the first recovery point."""

from __future__ import annotations

from dataclasses import replace

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation
from homeport.domain.points import PointId
from homeport.domain.states import State
from homeport.vault import inventory
from homeport.vault.database import Json, now
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.test_failover import test_machine

IN_USE = "store.in-use"
"""What a site answers that is asked to forget points which a machine of its own needs."""


class MachineNotProtectable(HomeportError):
    code = "machine.not-protectable"
    remedy = "Remove what stands in the way, then restart the job."


class NameTaken(HomeportError):
    """The site that the machine would be recovered at has one of that name, or of its test machine's."""

    code = "protect.name-taken"
    remedy = "Rename or remove that machine, then restart the job."


STEPS = {
    "check": "Check the machine and its sites",
    "prepare-timeline": "Begin a timeline in the recovery store",
    "replicate": "Start replication",
    "first-point": "First copy, until the first recovery point",
    "undo-stop": "Stop replication",
    "undo-forget": "Forget the machine at both sites",
}


@operation(Operation.PROTECT, 1, STEPS)
def protect(run: Run) -> None:
    facts = run.begin()
    try:
        machine = run.step("check", check(facts))
        facts = replace(facts, machine=machine)
        run.step("prepare-timeline", replication.prepare_timeline(facts, facts.away, facts.timeline))
        run.step("replicate", seed(facts))
        first = run.step("first-point", replication.wait_for_point(facts.timeline, above=-1))
        run.finish(first)
    except Cancelled:
        run.attempt("undo-stop", replication.stop_replication(facts.home), cancellable=False)
        run.attempt("undo-forget", forget_both(facts), cancellable=False)
        run.cancelled(removed=now())


def check(facts: Facts) -> Effect:
    """As the site sees the machine now, and whether the other site has its name free. Returns its description."""

    def effect(step: Step) -> Json:
        machines = inventory.refresh(step.core, facts.home, step.ask(facts.home, "inventory", {}))
        found = next((machine for machine in machines if machine["uuid"] == facts.machine["uuid"]), None)
        if found is None:
            raise inventory.MachineNotFound(f"Site {facts.home!r} does not see the machine {facts.name!r} any more.")
        machine = Machine.from_json(found)
        if not machine.protectable:
            raise MachineNotProtectable(
                f"{machine.name} can't be protected: {'; '.join(machine.obstacles)}.", obstacles=list(machine.obstacles)
            )
        there = inventory.refresh(step.core, facts.away, step.ask(facts.away, "inventory", {}))
        taken = [other["name"] for other in there if other["name"] in (machine.name, test_machine(machine.name))]
        if taken:
            raise NameTaken(
                f"Site {facts.away!r} has a machine {taken[0]!r} already; {machine.name} could not be started there.",
                site=facts.away,
                machines=taken,
            )
        with step.item() as (_, item):
            item.description = machine.to_json()
        return machine.to_json()

    return effect


def seed(facts: Facts) -> Effect:
    start = replication.replicate(
        facts,
        at=facts.home,
        store=facts.away,
        timeline=facts.timeline,
        lineage=[facts.timeline],
        policy=facts.policy,
    )

    def effect(step: Step) -> Json:
        result: Json = start(step)
        with step.item() as (_, item):
            item.state = State.INITIAL_REPLICATION_IN_PROGRESS
        return result

    return effect


def forget_both(facts: Facts) -> Effect:
    """Each site forgets what it kept for the item; one that can't be reached does not keep the other from it. Points
    that a machine runs from stay."""

    def effect(step: Step) -> Json:
        trouble: list[str] = []
        for site in (facts.home, facts.away):
            replication.lift_fence(step, facts, site, facts.vm)
            timelines = facts.timelines.get(site, [facts.timeline] if site == facts.away else [])
            if facts.failover_point is not None and PointId.parse(facts.failover_point).timeline in timelines:
                timelines = []
                trouble.append(
                    f"The recovery points at site {site!r} stay: the machine {facts.vm} there was started from "
                    f"{facts.failover_point}."
                )
            params = {
                "vm": facts.vm,
                "timelines": timelines,
                "remove_tracking": site == facts.active,
            }
            try:
                if step.core.liveness.gone(site, step.core.timeouts.gone):
                    raise HomeportError(f"The configuration server of site {site!r} is not there; not asked.")
                step.ask(site, "forget", params, limit=step.core.timeouts.forget)
            except HomeportError as error:
                stays = f"The recovery points at site {site!r} stay: " if error.code == IN_USE else ""
                trouble.append(f"{stays}{error.cause} ({error.code})")
        return {"notes": trouble}

    return effect
