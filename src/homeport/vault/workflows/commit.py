"""Commit: the choice of a recovery point is final.

After a failback the recovery machine goes, and before it its final disks become a point at its own site: the base of
the next replication forward.

The points stay offered for the retention of the policy they were made by, or are erased at once, as the original system
does it. Version 1 took them out of the list, and kept their data.
"""

from __future__ import annotations

from datetime import timedelta

from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.vault import items, retained
from homeport.vault.database import Json, now
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.failover import remove

FAILED_BACK = {
    "import-base": "Keep the recovery machine's final state as a recovery point",
    "remove-machine": "Remove the recovery machine",
}
HIDE = {"hide-points": "Take the recovery points out of the list"}


ERASE = {"drop-points": "Drop the recovery points that nothing needs"}


@operation(Operation.COMMIT, 1, {**FAILED_BACK, **HIDE})
def commit_v1(run: Run) -> None:
    if run.before is State.FAILOVER_COMMIT_PENDING:
        facts = run.begin()
        run.step("hide-points", replication.hide_points(facts.away, facts.lineage), cancellable=False)
        run.finish(ties={"commit_policy": None})
        return
    facts = run.begin("import")
    finish_failback(run, facts)
    run.step("hide-points", replication.hide_points(facts.home, facts.lineage), cancellable=False)
    run.finish(recovery_machine=None, failover_point=None, ties={"pending": None})


@operation(Operation.COMMIT, 2, {**FAILED_BACK, **ERASE})
def commit(run: Run) -> None:
    """``erase_points``: they are not kept for their retention."""
    if run.before is State.FAILOVER_COMMIT_PENDING:
        facts = run.begin()
        kept = what_becomes_of_points(run, facts, facts.away, facts.policy)
        run.finish({"points_kept": kept}, ties={"commit_policy": None, "kept": kept})
        return
    facts = run.begin("import")
    finish_failback(run, facts)
    kept = what_becomes_of_points(run, facts, facts.home, facts.failback_policy)
    run.finish({"points_kept": kept}, recovery_machine=None, failover_point=None, ties={"pending": None, "kept": kept})


def finish_failback(run: Run, facts: Facts) -> None:
    if "next_timeline" not in facts.ties:
        run.step("import-base", keep_final_state(facts), cancellable=False)
    run.step("remove-machine", remove(facts, facts.failover_point), cancellable=False)


def what_becomes_of_points(run: Run, facts: Facts, site: str, policy: Json) -> list[Json]:
    """The item's tie ``kept``: which timelines' points are kept where, and until when."""
    kept: list[Json] = facts.ties.get("kept", [])  # of an earlier commit: their time is not up
    if run.params.get("erase_points"):
        run.step("drop-points", drop_points(facts, site), cancellable=False)
        return kept
    until = (now() + timedelta(seconds=policy["retention"])).isoformat()
    return [*kept, {"site": site, "timelines": facts.lineage, "until": until}]


def drop_points(facts: Facts, site: str) -> Effect:
    def effect(step: Step) -> Json:
        with step.item() as (session, item):
            newest = {timeline: items.newest_number(session, timeline) for timeline in facts.lineage}
            params = retained.points_to_drop(item, newest)
        dropped = step.ask(site, "drop-points", params)
        with step.item() as (session, _):
            for timeline in facts.lineage:
                items.remember_points(session, timeline, [])
        return dropped

    return effect


def keep_final_state(facts: Facts) -> Effect:
    """What it became is left for the reprotect; a commit that runs again does not ask for a machine that is gone."""
    timeline = facts.pending("import")
    keep = replication.import_base(
        facts, facts.away, timeline, parent=facts.failover_point, origin=facts.ties.get("home_parent")
    )

    def effect(step: Step) -> Json:
        result: Json = keep(step)
        step.tie(next_timeline={"timeline": timeline, "import_point": result["point"]})
        return result

    return effect
