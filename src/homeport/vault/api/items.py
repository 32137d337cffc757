"""Replicated items and their recovery points."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.choice import offered_as
from homeport.domain.points import PointId, PointInfo
from homeport.domain.states import State
from homeport.domain.target import Target
from homeport.vault import deleted, items, jobs, operations, targets, undelete
from homeport.vault.api.context import TheCore
from homeport.vault.api.etags import IfMatch, require_match
from homeport.vault.api.paging import CursorInvalid, Page, ThePage, keyset
from homeport.vault.api.schemas import Accepted, DeletedItemList, Item, ItemList, JobAccepted, PointList, PurgeAccepted
from homeport.vault.database import ItemRow
from homeport.vault.tagged import tagged_of

router = APIRouter(prefix="/v1/items", tags=["items"], default_response_class=Accepted)


class TargetProperties(BaseModel):
    """What the machine shall be where it is recovered. ``memory`` in bytes; null: as at home."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    cpus: StrictInt | None = None
    memory: StrictInt | None = None
    network: str | None = None
    ip: str | None = None
    tags: list[str] = []


class NewItem(TargetProperties):
    """``machine``: name or uuid at the site ``from``. ``exclude_disks``: ids of disks that are not replicated.
    ``seed``: by disk id the path of an image below the folder of the site ``to``, which the first copy begins from;
    ``group``: the replication group that it becomes a member of, which begins with its first member;
    ``process_server``: of the site ``from``, that it begins with; null: the site chooses."""

    machine: str
    home: str = Field(alias="from")
    away: str = Field(alias="to")
    policy: str
    exclude_disks: list[str] = []
    seed: dict[str, str] = {}
    group: str | None = None
    process_server: str | None = None


class ItemChanges(TargetProperties):
    """What is left out stays as it is."""

    policy: str | None = None


@router.get("", response_model=ItemList)
def list_items(
    core: TheCore,
    page: ThePage,
    state: Annotated[list[str] | None, Query(description="In one of these states; give it several times")] = None,
    site: Annotated[str | None, Query(description="Protected at this site, or to it")] = None,
    policy: str | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """By name."""
    wanted = select(ItemRow).where(ItemRow.removed.is_(None))
    if state:
        wanted = wanted.where(ItemRow.state.in_([known for known in State if known in state]))
    if site is not None:
        wanted = wanted.where((ItemRow.home == site) | (ItemRow.away == site))
    if policy is not None:
        wanted = wanted.where(ItemRow.policy == policy)
    if group is not None:
        wanted = wanted.where(ItemRow.group_name == group)
    with core.database.read() as session:
        rows = session.scalars(keyset(wanted, page, ItemRow.name, ItemRow.id)).all()
        found, following = page.cut(rows, lambda item: (item.name, item.id))
        return {"items": [items.to_json(core, session, row) for row in found], "next": following}


@router.post("", status_code=202, response_model=JobAccepted)
def protect(core: TheCore, body: NewItem) -> dict[str, Any]:
    target = Target(
        name=body.name,
        cpus=body.cpus,
        memory=body.memory,
        network=body.network,
        ip=body.ip,
        excluded_disks=tuple(dict.fromkeys(body.exclude_disks)),
        tags=tuple(body.tags),
    )
    job = operations.protect(
        core, body.machine, body.home, body.away, body.policy, target, seed=body.seed, group=body.group,
        process_server=body.process_server,
    )  # fmt: skip
    with core.database.read() as session:
        return {"job": jobs.to_json(session, jobs.find(session, job))}


@router.get("/deleted", response_model=DeletedItemList)
def list_deleted(core: TheCore) -> dict[str, Any]:
    """Items whose protection ended and whose points are still kept, the newest first."""
    with core.database.read() as session:
        return {"items": [deleted.to_json(session, row) for row in deleted.listed(session)]}


@router.post("/deleted/{item}/purge", status_code=202, response_model=PurgeAccepted)
def purge_deleted(core: TheCore, item: str) -> dict[str, Any]:
    """Its points are dropped now; sites that are not there are told when they return."""
    found = deleted.purge(core, item)
    with core.database.read() as session:
        return {"item": deleted.to_json(session, deleted.find(session, found))}


@router.post("/deleted/{item}/restore", status_code=202, response_model=JobAccepted)
def restore_deleted(core: TheCore, item: str) -> dict[str, Any]:
    """It is protected again, with the points that are kept: only what differs from the newest of them is sent."""
    job = undelete.restore(core, item)
    with core.database.read() as session:
        return {"job": jobs.to_json(session, jobs.find(session, job))}


@router.patch("/{item}", response_model=Item)
def change_item(core: TheCore, item: str, body: ItemChanges, if_match: IfMatch = None) -> dict[str, Any]:
    """Properties count from the next machine that is made of the item; a policy at once."""

    def unchanged(session: Session, row: ItemRow) -> None:
        require_match(if_match, items.to_json(core, session, row))

    changes = {name: getattr(body, name) for name in body.model_fields_set}
    policy = changes.pop("policy", None)
    if policy is not None:
        operations.require_policy(core, policy)
    if changes:
        targets.change(core, item, changes, unchanged)
    if policy is not None:
        operations.change_policy(core, item, policy, None if changes else unchanged)
    with core.database.read() as session:
        return items.to_json(core, session, items.find(session, item))


@router.get("/{item}", response_model=Item)
def get_item(core: TheCore, item: str) -> dict[str, Any]:
    with core.database.read() as session:
        return items.to_json(core, session, items.find(session, item))


@router.get("/{item}/points", response_model=PointList)
def list_points(core: TheCore, page: ThePage, item: str, refresh: bool = False, tagged: bool = False) -> dict[str, Any]:
    """Oldest first. ``refresh``: ask the store's site now instead of telling what it last reported; ``tagged``: the
    tagged ones instead of those that are offered, also those that only their tag keeps in the store (all at once)."""
    if refresh:
        with core.database.read() as session:
            row = items.find(session, item)
        operations.refresh_points(core, row, limit=core.timeouts.inventory)
    with core.database.read() as session:
        row = items.find(session, item)
        points = items.points_of(session, row)
        kept = tagged_of(session, row) if tagged else []
    if tagged:
        return {
            "points": [{**point.to_json(), "offered_as": offered_as(points, point)} for point in kept],
            "next": None,
        }
    wanted, following = page_of_points(points, list(row.lineage), page)
    shown = [{**point.to_json(), "offered_as": offered_as(points, point)} for point in wanted]
    return {"points": shown, "next": following}


@router.post("/{item}/points/{timeline}/{number}/untag", response_model=Item)
def untag_point(core: TheCore, item: str, timeline: str, number: int) -> dict[str, Any]:
    """It is kept no longer than others of its age; where those are gone it is dropped now."""
    found = operations.untag(core, item, f"{timeline}/{number}")
    with core.database.read() as session:
        return items.to_json(core, session, items.find(session, found))


def page_of_points(points: list[PointInfo], lineage: list[str], page: Page) -> tuple[list[PointInfo], str | None]:
    """``points``: oldest first, so by timeline and number. Raises CursorInvalid."""
    key = page.key(1)
    if key is not None:
        try:
            last = PointId.parse(key[0])
            place = (lineage.index(last.timeline), last.number)
        except ValueError as error:
            raise CursorInvalid(f"{key[0]!r} is no point of this item.") from error
        points = [point for point in points if (lineage.index(point.id.timeline), point.id.number) > place]
    return page.cut(points, lambda point: (str(point.id),))
