"""Commit: the choice of a recovery point is final.

After a failover the points leave the offered list. After a failback the recovery machine goes, and before it its final
disks become a point at its own site: the base of the next replication forward.
"""

from __future__ import annotations

from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.vault.database import Json
from homeport.vault.steps import Effect, Facts, Run, Step, operation
from homeport.vault.workflows import replication
from homeport.vault.workflows.failover import remove

STEPS = {
    "import-base": "Keep the recovery machine's final state as a recovery point",
    "remove-machine": "Remove the recovery machine",
    "hide-points": "Take the recovery points out of the list",
}


@operation(Operation.COMMIT, 1, STEPS)
def commit(run: Run) -> None:
    if run.before is State.FAILOVER_COMMIT_PENDING:
        facts = run.begin()
        run.step("hide-points", replication.hide_points(facts.away, facts.lineage), cancellable=False)
        run.finish()
        return
    facts = run.begin("import")
    if "next_timeline" not in facts.ties:
        run.step("import-base", keep_final_state(facts), cancellable=False)
    run.step("remove-machine", remove(facts, facts.failover_point), cancellable=False)
    run.step("hide-points", replication.hide_points(facts.home, facts.lineage), cancellable=False)
    run.finish(recovery_machine=None, failover_point=None, ties={"pending": None})


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
