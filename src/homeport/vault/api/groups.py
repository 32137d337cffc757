"""Replication groups, and operations on all members of one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import Field

from homeport.domain.choice import PointKind
from homeport.domain.operations import Operation
from homeport.domain.units import DAY, HOUR, MINUTE
from homeport.vault import group_operations, groups, jobs
from homeport.vault.api.context import TheCore
from homeport.vault.api.operations import Params
from homeport.vault.api.schemas import Group, GroupList, JobsAccepted
from homeport.vault.core import Core

router = APIRouter(prefix="/v1/groups", tags=["groups"])

COMMON = Field(
    default=PointKind.LATEST_MULTI_VM, pattern=r"^(latest-multi-vm|latest-multi-vm-app-consistent|[0-9a-f]{16})$"
)
"""A kind of point that groups have, or a round's id."""


class GroupFailover(Params):
    """As a failover of one machine, from a point of one instant for all."""

    point: str = COMMON
    shutdown: bool = True
    commit_policy: Literal["none", "auto-commit", "auto-rollback"] = "none"
    commit_after: int = Field(default=4 * HOUR, ge=MINUTE, le=7 * DAY)


class GroupPoint(Params):
    point: str = COMMON


class GroupChanges(Params):
    policy: str


@router.get("", response_model=GroupList)
def list_groups(core: TheCore) -> dict[str, Any]:
    """By name."""
    with core.database.read() as session:
        return {"groups": [groups.to_json(session, name) for name in groups.names(session)]}


@router.get("/{group}", response_model=Group)
def get_group(core: TheCore, group: str) -> dict[str, Any]:
    """``common_points``: what all members have of one instant, the newest first."""
    with core.database.read() as session:
        return groups.to_json(session, group)


@router.patch("/{group}", response_model=Group)
def change_group(core: TheCore, group: str, body: GroupChanges) -> dict[str, Any]:
    """Members share one policy: it changes for all of them at once."""
    group_operations.set_policy(core, group, body.policy)
    with core.database.read() as session:
        return groups.to_json(session, group)


def begin(core: Core, group: str, operation: Operation, params: Params) -> dict[str, Any]:
    begun = group_operations.begin(core, group, operation, params.model_dump(mode="json"))
    with core.database.read() as session:
        return {"jobs": [jobs.to_json(session, jobs.find(session, job)) for job in begun]}


@router.post("/{group}/operations/failover", status_code=202, response_model=JobsAccepted)
def failover(
    core: TheCore, group: str, body: Annotated[GroupFailover, Body(default_factory=GroupFailover)]
) -> dict[str, Any]:
    return begin(core, group, Operation.FAILOVER, body)


@router.post("/{group}/operations/change-point", status_code=202, response_model=JobsAccepted)
def change_point(
    core: TheCore, group: str, body: Annotated[GroupPoint, Body(default_factory=GroupPoint)]
) -> dict[str, Any]:
    return begin(core, group, Operation.CHANGE_POINT, body)


@router.post("/{group}/operations/failback", status_code=202, response_model=JobsAccepted)
def failback(
    core: TheCore, group: str, body: Annotated[GroupPoint, Body(default_factory=GroupPoint)]
) -> dict[str, Any]:
    return begin(core, group, Operation.FAILBACK, body)
