"""Protect: check the machine, begin its timeline at the other site, replicate, wait for the first recovery point, and
see at the other site that it can be used. Only then is anything else offered (reference 12, F45).

With a seed the timeline begins from images that are at the other site already: the first point is what differs from
them, found by digests. A deleted item that is taken up again goes on in a fork of the timeline that was kept, the same
way. Version 2 knew neither: without them its records and version 3's are the same.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation
from homeport.domain.points import PointId
from homeport.domain.states import State
from homeport.domain.target import Target, check_excluded
from homeport.domain.task_tree import Group
from homeport.vault import inventory
from homeport.vault.database import Json, SiteRow, now
from homeport.vault.steps import Cancelled, Effect, Facts, Run, Step, operation
from homeport.vault.tasks import prerequisites
from homeport.vault.workflows import replication
from homeport.vault.workflows.test_failover import test_machine

NO_TIMELINE = "store.timeline-not-found"
"""What a site answers that is asked for a timeline which was never begun there."""

IN_USE = "store.in-use"
"""What a site answers that is asked to forget points which a machine of its own needs."""


class MachineNotProtectable(HomeportError):
    code = "machine.not-protectable"
    remedy = "Remove what stands in the way, then restart the job."


class NameTaken(HomeportError):
    """The site that the machine would be recovered at has one of that name, or of its test machine's."""

    code = "protect.name-taken"
    remedy = (
        "Rename or remove that machine, or choose another name (`homeport item set ITEM --name NAME`), then restart "
        "the job."
    )


UNDO = {
    "undo-stop": "Stop replication",
    "undo-forget": "Forget the machine at both sites",
}

STEPS_V1 = {
    "check": "Check the machine and its sites",
    "prepare-timeline": "Begin a timeline in the recovery store",
    "replicate": "Start replication",
    "first-point": "First copy, until the first recovery point",
    **UNDO,
}

STEPS_V2 = {
    "check": "Check the machine and its sites",
    "prepare-timeline": "Begin a timeline in the recovery store",
    "replicate": "Start replication",
    "first-point": "First copy, until the first recovery point",
    "finalize": "Finalize protection: open and verify the first recovery point",
    **UNDO,
}

STEPS = {
    "check": "Check the machine and its sites",
    "find-kept": "Find the newest recovery point that was kept",
    "prepare-timeline": "Begin a timeline in the recovery store",
    "import-seed": "Begin a timeline in the recovery store from the seed",
    "replicate": "Start replication",
    "first-point": "First copy, until the first recovery point",
    "drop-seed": "Drop what only the seed had",
    "finalize": "Finalize protection: open and verify the first recovery point",
    **UNDO,
    "undo-end": "End the timeline: nothing is added any more",
}

GROUPS = {
    **prerequisites("check"),
    "enable": Group(
        "Enable replication",
        ("find-kept", "prepare-timeline", "import-seed", "replicate", "first-point", "drop-seed"),
    ),
    "undo": Group("Undo it", (*UNDO, "undo-end")),
}


@operation(Operation.PROTECT, 1, STEPS_V1)
def protect_v1(run: Run) -> None:
    facts = run.begin()
    try:
        _, first = first_point(run, facts)
        run.finish(first)
    except Cancelled:
        undo(run, facts)


@operation(Operation.PROTECT, 2, STEPS_V2)
@operation(Operation.PROTECT, 3, STEPS, GROUPS)
def protect(run: Run) -> None:
    facts = run.begin()
    try:
        facts, first = first_point(run, facts)
        if run.params.get("seed"):
            run.attempt("drop-seed", drop_seed(facts))
        verified = run.step("finalize", finalize(facts, first["point"]))
        run.finish({**first, "verified": verified})
    except Cancelled:
        undo(run, facts)


def first_point(run: Run, facts: Facts) -> tuple[Facts, Json]:
    """The machine as it was checked, and its first recovery point: {"point", "found_by"}."""
    machine = run.step("check", check(facts))
    facts = replace(facts, machine=machine)
    seed = run.params.get("seed")
    if run.params.get("again"):
        kept = run.step("find-kept", find_kept(facts))
        run.step(
            "prepare-timeline",
            replication.prepare_timeline(facts, facts.away, facts.timeline, parent=kept["head"]),
        )
    elif seed:
        run.step("import-seed", import_seed(facts, seed))
    else:
        run.step("prepare-timeline", replication.prepare_timeline(facts, facts.away, facts.timeline))
    run.step("replicate", start(facts, run.params.get("process_server")))
    first: Json = run.step("first-point", replication.wait_for_point(facts.timeline, above=0 if seed else -1))
    return facts, first


def undo(run: Run, facts: Facts) -> None:
    run.attempt("undo-stop", replication.stop_replication(facts.home), cancellable=False)
    again = run.params.get("again")
    forgotten = run.attempt("undo-forget", forget_both(facts, points=not again), cancellable=False)
    if forgotten.value:
        run.notes += forgotten.value["notes"]
    if not again:
        run.cancelled(removed=now())
        return
    if "prepare-timeline" in run.performed:
        run.attempt("undo-end", replication.end_timeline(facts.away, facts.timeline), cancellable=False)
    lineage = [timeline for timeline in facts.lineage if timeline != facts.timeline]
    run.cancelled(
        removed=datetime.fromisoformat(again["removed"]),
        purge_at=datetime.fromisoformat(again["purge_at"]),
        timeline=lineage[-1],
        lineage=lineage,
        replicate=None,
    )


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
        with step.item() as (session, item):
            item.description = machine.to_json()
            target = Target.from_json(item.target)  # as it is now: it may have been mended since the job failed
            if target.network is not None:
                inventory.check_network(session.get_one(SiteRow, facts.away), target.network)
        check_excluded(target.excluded_disks, machine)
        check_name(facts.away, target.name or machine.name, there)
        return machine.to_json()

    return effect


def check_name(site: str, name: str, there: list[Json]) -> None:
    """``there``: the machines of ``site``. Raises :class:`NameTaken`."""
    taken = [other["name"] for other in there if other["name"] in (name, test_machine(name))]
    if taken:
        raise NameTaken(
            f"Site {site!r} has a machine {taken[0]!r} already; {name} could not be started there.",
            site=site,
            machines=taken,
        )


def find_kept(facts: Facts) -> Effect:
    """The newest of the earlier timelines is ended, if it isn't; its head: {"head": None where none has a point}."""

    def effect(step: Step) -> Json:
        for timeline in reversed(facts.lineage):
            if timeline == facts.timeline:
                continue
            try:
                found: Json = replication.end_timeline(facts.away, timeline)(step)
            except HomeportError as error:
                if error.code != NO_TIMELINE:
                    raise
            else:
                return found
        return {"head": None}

    return effect


def import_seed(facts: Facts, seed: Json) -> Effect:
    """The images at the other site become the hidden point 0 of the timeline there. Nobody is shown it: it is no
    instant of this machine."""

    def effect(step: Step) -> Json:
        replication.note_timeline(step, facts.away, facts.timeline)
        params = {
            "timeline": facts.timeline,
            "seed": seed,
            "like": facts.machine,
            "description": facts.description(),
        }
        return step.ask(facts.away, "import-seed", params)

    return effect


def drop_seed(facts: Facts) -> Effect:
    """What the first point holds of the seed stays; the rest of it is given back."""

    def effect(step: Step) -> Json:
        return step.ask(facts.away, "drop-points", {"timelines": {facts.timeline: 0}, "keep": []})

    return effect


def start(facts: Facts, process_server: str | None) -> Effect:
    begin = replication.replicate(
        facts,
        at=facts.home,
        store=facts.away,
        timeline=facts.timeline,
        lineage=facts.lineage,
        policy=facts.policy,
        process_server=process_server,
    )

    def effect(step: Step) -> Json:
        result: Json = begin(step)
        with step.item() as (_, item):
            item.state = State.INITIAL_REPLICATION_IN_PROGRESS
        return result

    return effect


def finalize(facts: Facts, point: str) -> Effect:
    """The site that would start the machine opens the point, and finds all disks and all that it stands on."""
    disks = [disk["id"] for disk in facts.like()["disks"]]

    def effect(step: Step) -> Json:
        return step.ask(facts.away, "verify-point", {"point": point, "disks": disks})

    return effect


def forget_both(facts: Facts, *, points: bool = True) -> Effect:
    """Each site forgets what it kept for the item; one that can't be reached does not keep the other from it. Points
    that a machine runs from stay, and all of them without ``points``."""

    def effect(step: Step) -> Json:
        trouble: list[str] = []
        for site in (facts.home, facts.away):
            vm = facts.vm_at(site)
            replication.lift_fence(step, facts, site, vm)
            timelines = facts.timelines.get(site, [facts.timeline] if site == facts.away else []) if points else []
            if facts.failover_point is not None and PointId.parse(facts.failover_point).timeline in timelines:
                timelines = []
                trouble.append(
                    f"The recovery points at site {site!r} stay: the machine {vm} there was started from "
                    f"{facts.failover_point}."
                )
            params: dict[str, Any] = {
                "vm": vm,
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
