"""Replicated items and their recovery points."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import select

from homeport.domain.choice import offered_as
from homeport.vault import items, jobs, operations
from homeport.vault.api.context import TheCore
from homeport.vault.database import ItemRow

router = APIRouter(prefix="/v1/items", tags=["items"])


class NewItem(BaseModel):
    """``machine``: name or uuid at the site ``from``."""

    machine: str
    home: str = Field(alias="from")
    away: str = Field(alias="to")
    policy: str


@router.get("")
def list_items(core: TheCore) -> dict[str, Any]:
    with core.database.read() as session:
        rows = session.scalars(select(ItemRow).where(ItemRow.removed.is_(None)).order_by(ItemRow.name))
        return {"items": [items.to_json(core, session, row) for row in rows]}


@router.post("", status_code=202)
def protect(core: TheCore, body: NewItem) -> dict[str, Any]:
    job = operations.protect(core, body.machine, body.home, body.away, body.policy)
    with core.database.read() as session:
        return {"job": jobs.to_json(session, jobs.find(session, job))}


@router.get("/{item}")
def get_item(core: TheCore, item: str) -> dict[str, Any]:
    with core.database.read() as session:
        return items.to_json(core, session, items.find(session, item))


@router.get("/{item}/points")
def list_points(core: TheCore, item: str, refresh: bool = False) -> dict[str, Any]:
    """Oldest first. ``refresh``: ask the store's site now instead of telling what it last reported."""
    if refresh:
        with core.database.read() as session:
            row = items.find(session, item)
        operations.refresh_points(core, row, limit=core.timeouts.inventory)
    with core.database.read() as session:
        points = items.points_of(session, items.find(session, item))
    return {"points": [{**point.to_json(), "offered_as": offered_as(points, point)} for point in points]}
