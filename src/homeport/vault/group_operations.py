"""An operation on all members of a replication group: a job for each, accepted together or not at all."""

from __future__ import annotations

import uuid

from homeport.domain.errors import HomeportError
from homeport.domain.groups import MULTI_VM, NotTogether
from homeport.domain.operations import Operation, require_allowed
from homeport.vault import admission, checks, groups, items, operations, policies
from homeport.vault.core import Core
from homeport.vault.database import Json


def begin(core: Core, group: str, operation: Operation, params: Json) -> list[str]:
    """The jobs, by their items' names. ``params["point"]``: a kind that groups have, or a round's id.

    Where all machines are shut down their last points are of one instant, too: so a failover and a failback look for
    the newest point of all only when all timelines have ended. Jobs of one group don't wait for room at their sites:
    they wait for each other. Raises GroupNotFound, :class:`NotTogether`, NoCommonPoint, CheckFailed, SiteUnreachable.
    """
    with core.database.read() as session:
        there = [item.id for item in groups.find(session, group)]
    for name in there:
        checks.before(core, name, operation, params)
    with core.database.write() as session:
        rows = groups.find(session, group)
        refused: dict[str, str] = {}
        for item in rows:
            try:
                operations.refuse_while_running(session, item, operation)
                has_points = bool(items.points_of(session, item))
                require_allowed(operation, item.state, item.direction, has_points=has_points)
            except HomeportError as error:
                refused[item.name] = error.cause
        if refused:
            told = " ".join(f"{name}: {cause}" for name, cause in refused.items())
            raise NotTogether(
                f"{operation} of the group {group} is not possible now. {told}",
                remedy="Bring these where the others are; or move members by themselves with --alone.",
                members=refused,
            )
        chosen = groups.choose(session, group, params["point"])
        later = params["point"] in MULTI_VM and operation is not Operation.CHANGE_POINT
        jobs = {item.id: uuid.uuid4().hex[:16] for item in rows}
        together = {"name": group, "jobs": jobs}
        for item in rows:
            point = params["point"] if later else str(chosen.points[item.id])
            own = {**params, "point": point, "group": together}
            operations.accept(session, item, operation, own, job=jobs[item.id], at_once=True)
    for job in jobs.values():
        admission.launch(job, operation)
    return list(jobs.values())


def set_policy(core: Core, group: str, policy: str) -> None:
    """All members replicate by another policy from now on. Raises GroupNotFound, PolicyMissing."""
    operations.require_policy(core, policy)
    with core.database.write() as session:
        rows = groups.find(session, group)
        for item in rows:
            item.policy = policy
        policies.renew(session, rows)
