"""Operations on an item: each is accepted as a job, or refused at once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict

from homeport.domain.choice import PointKind
from homeport.domain.operations import Operation
from homeport.vault import jobs, operations
from homeport.vault.api.context import TheCore
from homeport.vault.core import Core

router = APIRouter(prefix="/v1/items/{item}/operations", tags=["operations"])


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
    """``shutdown``: shut the machine down first, best effort, so that nothing is lost."""

    point: str = PointKind.LATEST
    shutdown: bool = True


class ChangePoint(Params):
    point: str


class Failback(Params):
    point: str = PointKind.LATEST


class Point(Params):
    app_consistent: bool = False
    tag: str | None = None


class Nothing(Params):
    pass


def begin(core: Core, item: str, operation: Operation, params: Params) -> dict[str, Any]:
    job = operations.begin(core, item, operation, params.model_dump(mode="json"))
    with core.database.read() as session:
        return {"job": jobs.to_json(session, jobs.find(session, job))}


Empty = Annotated[Nothing, Body(default_factory=Nothing)]


@router.post("/test-failover", status_code=202)
def test_failover(
    core: TheCore, item: str, body: Annotated[TestFailover, Body(default_factory=TestFailover)]
) -> dict[str, Any]:
    return begin(core, item, Operation.TEST_FAILOVER, body)


@router.post("/cleanup", status_code=202)
def cleanup(core: TheCore, item: str, body: Annotated[Cleanup, Body(default_factory=Cleanup)]) -> dict[str, Any]:
    return begin(core, item, Operation.CLEANUP, body)


@router.post("/failover", status_code=202)
def failover(core: TheCore, item: str, body: Annotated[Failover, Body(default_factory=Failover)]) -> dict[str, Any]:
    return begin(core, item, Operation.FAILOVER, body)


@router.post("/change-point", status_code=202)
def change_point(core: TheCore, item: str, body: ChangePoint) -> dict[str, Any]:
    return begin(core, item, Operation.CHANGE_POINT, body)


@router.post("/commit", status_code=202)
def commit(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.COMMIT, body)


@router.post("/reprotect", status_code=202)
def reprotect(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.REPROTECT, body)


@router.post("/failback", status_code=202)
def failback(core: TheCore, item: str, body: Annotated[Failback, Body(default_factory=Failback)]) -> dict[str, Any]:
    return begin(core, item, Operation.FAILBACK, body)


@router.post("/resync", status_code=202)
def resync(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.RESYNC, body)


@router.post("/disable", status_code=202)
def disable(core: TheCore, item: str, body: Empty) -> dict[str, Any]:
    return begin(core, item, Operation.DISABLE, body)


@router.post("/point", status_code=202)
def point(core: TheCore, item: str, body: Annotated[Point, Body(default_factory=Point)]) -> dict[str, Any]:
    return begin(core, item, Operation.POINT, body)
