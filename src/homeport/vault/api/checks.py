"""Checks of an item: what the last look found, and a new look with fresh facts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from homeport.domain.operations import Operation
from homeport.vault import checks, items
from homeport.vault.api.context import TheCore
from homeport.vault.api.schemas import Instant

router = APIRouter(prefix="/v1/items/{item}/checks", tags=["checks"])


class FindingShown(BaseModel):
    """``severity``: error, warning or info. ``unknown``: a fact is missing, so that the check could not be made."""

    code: str
    name: str
    severity: str
    title: str
    found: str
    expected: str
    causes: list[str]
    remedy: str
    unknown: bool


class Findings(BaseModel):
    """The worst first. ``at``: when they were found; null: the item was never looked at. ``due``: the next look."""

    item: str
    item_name: str
    at: Instant | None
    due: Instant | None
    findings: list[FindingShown]


class FindingsBefore(BaseModel):
    """What would be found before an operation now; an error would refuse it. Nothing of it is kept."""

    item: str
    item_name: str
    before: Operation
    findings: list[FindingShown]


@router.get("", response_model=Findings)
def last(core: TheCore, item: str) -> dict[str, Any]:
    """What the last look found."""
    with core.database.read() as session:
        return checks.to_json(session, items.find(session, item))


@router.post("", response_model=Findings | FindingsBefore)
def run(
    core: TheCore,
    item: str,
    before: Annotated[Operation | None, Query(description="As before this operation, without keeping it")] = None,
) -> dict[str, Any]:
    """A look now: sites that are there are asked for fresh facts."""
    if before is None:
        return checks.run(core, item)
    with core.database.read() as session:
        found = items.find(session, item)
    findings = checks.look(core, found.id, before, {})
    told = [finding.to_json() for finding in findings]
    return {"item": found.id, "item_name": found.name, "before": before, "findings": told}
