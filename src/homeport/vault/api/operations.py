"""Operations on an item: each is accepted as a job, or refused at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, model_validator

from homeport.domain.choice import PointKind
from homeport.domain.operations import Operation
from homeport.domain.units import DAY, HOUR, MINUTE
from homeport.vault import jobs, operations
from homeport.vault.api.context import TheCore
from homeport.vault.api.schemas import Accepted, JobAccepted
from homeport.vault.core import Core

router = APIRouter(prefix="/v1/items/{item}/operations", tags=["operations"], default_response_class=Accepted)


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TestFailover(Params):
    """``forward``: "LOCAL:GUEST" TCP ports, reachable on loopback at the site of the test."""

    __test__ = False  # not a test of ours, whatever its name

    point: str = PointKind.LATEST
    network: str = "isolated"
    forward: list[str] = []


class Cleanup(Params):
    notes: str = ""


class Failover(Params):
    """``shutdown``: shut the machine down first, best effort, so that nothing is lost. ``planned``: it must shut down
    and its last changes must arrive, else all is undone. ``commit_policy``: what becomes of the failover by itself,
    ``commit_after`` seconds after it, unless an operator decides before. ``alone``: a member of a replication group,
    without the others."""

    point: str = PointKind.LATEST
    shutdown: bool = True
    planned: bool = False
    commit_policy: Literal["none", "auto-commit", "auto-rollback"] = "none"
    commit_after: int = Field(default=4 * HOUR, ge=MINUTE, le=7 * DAY)
    alone: bool = False

    @model_validator(mode="after")
    def _planned_loses_nothing(self) -> Self:
        if self.planned and not self.shutdown:
            raise ValueError("a planned failover shuts the machine down: planned excludes shutdown=false")
        if self.planned and self.point != PointKind.LATEST:
            raise ValueError("a planned failover starts from the last changes: planned excludes any point but latest")
        return self


class Commit(Params):
    """``erase_points``: don't keep the recovery points for the retention of their policy."""

    erase_points: bool = False


class ChangePoint(Params):
    point: str
    alone: bool = False


class Failback(Params):
    point: str = PointKind.LATEST
    alone: bool = False


class Point(Params):
    app_consistent: bool = False
    tag: str | None = None


class Disable(Params):
    """``source_gone``: the home site is neither asked nor waited for; ``purge``: the points are deleted at once."""

    source_gone: bool = False
    purge: bool = False


class Nothing(Params):
    pass


def begin(core: Core, item: str, operation: Operation, params: Params) -> dict[str, Any]:
    job = operations.begin(core, item, operation, params.model_dump(mode="json"))
    with core.database.read() as session:
        return {"job": jobs.to_json(session, jobs.find(session, job))}


Empty = Annotated[Nothing, Body(default_factory=Nothing)]


@router.post("/test-failover", status_code=202, response_model=JobAccepted)
def test_failover(
    core: TheCore, item: str, body: Annotated[TestFailover, Body(default_factory=TestFailover)]
) -> dict[str, Any]:
    return begin(core, item, Operation.TEST_FAILOVER, body)


@router.post("/cleanup", status_code=202, response_model=JobAccepted)
def cleanup(core: TheCore, item: str, body: Annotated[Cleanup, Body(default_factory=Cleanup)]) -> dict[str, Any]:
    return begin(core, item, Operation.CLEANUP, body)


@router.post("/failover", status_code=202, response_model=JobAccepted)
def failover(core: TheCore, item: str, body: Annotated[Failover, Body(default_factory=Failover)]) -> dict[str, Any]:
    return begin(core, item, Operation.FAILOVER, body)


@router.post("/change-point", status_code=202, response_model=JobAccepted)
def change_point(core: TheCore, item: str, body: ChangePoint) -> dict[str, Any]:
    return begin(core, item, Operation.CHANGE_POINT, body)


@router.post("/commit", status_code=202, response_model=JobAccepted)
def commit(core: TheCore, item: str, body: Annotated[Commit, Body(default_factory=Commit)]) -> dict[str, Any]:
    return begin(core, item, Operation.COMMIT, body)


@router.post("/reprotect", status_code=202, response_model=JobAccepted)
def reprotect(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.REPROTECT, body)


@router.post("/failback", status_code=202, response_model=JobAccepted)
def failback(core: TheCore, item: str, body: Annotated[Failback, Body(default_factory=Failback)]) -> dict[str, Any]:
    return begin(core, item, Operation.FAILBACK, body)


@router.post("/resync", status_code=202, response_model=JobAccepted)
def resync(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.RESYNC, body)


@router.post("/disable", status_code=202, response_model=JobAccepted)
def disable(core: TheCore, item: str, body: Annotated[Disable, Body(default_factory=Disable)]) -> dict[str, Any]:
    return begin(core, item, Operation.DISABLE, body)


@router.post("/point", status_code=202, response_model=JobAccepted)
def point(core: TheCore, item: str, body: Annotated[Point, Body(default_factory=Point)]) -> dict[str, Any]:
    return begin(core, item, Operation.POINT, body)


@router.post("/pause", status_code=202, response_model=JobAccepted)
def pause(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.PAUSE, body)


@router.post("/resume", status_code=202, response_model=JobAccepted)
def resume(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.RESUME, body)


@router.post("/undo", status_code=202, response_model=JobAccepted)
def undo(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.UNDO, body)


@router.post("/complete-migration", status_code=202, response_model=JobAccepted)
def complete_migration(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.COMPLETE_MIGRATION, body)
