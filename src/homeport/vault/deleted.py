"""Items whose protection ended and whose recovery points are still kept: listed, and dropped when their time has come.

A disabled item is soft-deleted: its points stay for :data:`KEPT`. When that has passed, or at once where the operator
purges it, each site deletes them and, where nothing else of the machine is kept, shreds its key first: what is left
anywhere is noise (reference 12, F63, F64; store/keys.py).
"""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.vault import items
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json, PointRow, SiteRow, now
from homeport.vault.signal import Stopping
from homeport.vault.work import Ask, ask

log = structlog.get_logger(__name__)

KEPT = timedelta(days=14)
"""How long the points of a disabled item stay (the original's soft delete)."""
_SEE = "See `homeport item list --deleted`."

AGAIN = timedelta(minutes=5)
"""Until a purge is tried again that a site did not carry out."""


PURGING = "purging"
"""The tie of an item whose points were begun to be deleted, so that it can't be taken up again."""


class NotDeleted(HomeportError):
    code = "item.not-deleted"
    remedy = "End its protection first: `homeport disable ITEM`; with --purge its points go at once."


def listed(session: Session) -> list[ItemRow]:
    """The items that are deleted and still have points somewhere; the newest first."""
    wanted = select(ItemRow).where(ItemRow.removed.is_not(None), ItemRow.purge_at.is_not(None))
    return list(session.scalars(wanted.order_by(ItemRow.removed.desc())))


def to_json(session: Session, item: ItemRow) -> Json:
    """``points``: how many the vault knows of; ``waiting``: why a purge that is due was not carried out."""
    timelines = [timeline for of_site in item.timelines.values() for timeline in of_site]
    count = session.scalar(select(func.count()).where(PointRow.timeline.in_(timelines))) or 0
    return {
        "id": item.id,
        "name": item.name,
        "machine": item.machine,
        "from": item.home,
        "to": item.away,
        "removed": item.removed.isoformat() if item.removed else None,
        "purge_at": item.purge_at.isoformat() if item.purge_at else None,
        "points": count,
        "waiting": item.ties.get("purge_waiting"),
    }


def find(session: Session, name: str) -> ItemRow:
    """A deleted item by id, or by name where only one of that name is kept. Raises ItemNotFound,
    :class:`NotDeleted`."""
    by_id = session.get(ItemRow, name)
    found = [by_id] if by_id is not None else [item for item in listed(session) if item.name == name]
    if len(found) > 1:
        raise items.ItemNotFound(
            f"{len(found)} deleted items are called {name!r}.", remedy=f"Name one by its id. {_SEE}"
        )
    if not found:
        live = session.scalar(select(ItemRow).where(ItemRow.name == name, ItemRow.removed.is_(None)))
        if live is None:
            raise items.ItemNotFound(f"There is no deleted item {name!r} whose points are kept.", remedy=_SEE)
        found = [live]
    if found[0].removed is None:
        raise NotDeleted(f"{found[0].name} is protected ({found[0].state}).", item=found[0].id)
    return found[0]


def purge(core: Core, name: str) -> str:
    """Drop a deleted item's points now rather than when its time has come; the item's id."""
    with core.database.write() as session:
        item = find(session, name)
        if item.purge_at is not None:
            item.purge_at = now()
        return item.id


def drop_due(core: Core) -> None:
    """Purge all whose time has come; called every few seconds, and waits for none of them. What a site does not do is
    tried again later, as is what a vault that was stopped left undone."""
    with core.database.read() as session:
        wanted = select(ItemRow.id).where(ItemRow.removed.is_not(None), ItemRow.purge_at <= now())
        due = list(session.scalars(wanted))
    for item in due:
        if _claim(core, item):
            threading.Thread(target=_drop, args=(core, item), name=f"purge-{item}", daemon=True).start()


def _claim(core: Core, item: str) -> bool:
    """Of all that look at the same time, instances of the vault too, one purges."""
    with core.database.write() as session:
        row = session.get_one(ItemRow, item)
        if row.purge_at is None or row.purge_at > now():
            return False
        row.purge_at = now() + AGAIN
        row.ties = {**row.ties, PURGING: now().isoformat()}
    return True


def _drop(core: Core, item: str) -> None:
    try:
        outcome = purge_at_sites(core, item)
        with core.database.write() as session:
            row = session.get_one(ItemRow, item)
            waiting = outcome["waiting"]
            row.ties = {name: value for name, value in row.ties.items() if name != "purge_waiting"}
            if waiting:
                row.ties = {**row.ties, "purge_waiting": waiting}
            else:
                row.purge_at = None
        log.info("deleted item purged", item=item, waiting=outcome["waiting"], notes=outcome["notes"])
    except Stopping:
        return
    except Exception:
        if not core.signal.stopped:
            log.exception("a deleted item can't be purged now; tried again later", item=item)


def purge_at_sites(core: Core, item: str) -> Json:
    """Ask every site that holds points of the item to delete them. {"waiting": why of each site that has not yet,
    "notes": what the operator should know}. Twice does no harm; a site may take as long as it is at work."""
    with core.database.read() as session:
        row = session.get_one(ItemRow, item)
        if not row.machine_key:
            return {"waiting": [], "notes": []}  # done before: no site has anything that a key would open
        gone = set(session.scalars(select(SiteRow.name).where(SiteRow.removed.is_not(None))))
        sites = {site: timelines for site, timelines in row.timelines.items() if timelines and site not in gone}
        alone = _alone(session, row)
    waiting: list[str] = []
    notes: list[str] = []
    for site, timelines in sites.items():
        if core.liveness.gone(site, core.timeouts.gone):
            waiting.append(f"The configuration server of site {site!r} is not there.")
            continue
        params: Json = {"timelines": timelines, "shred": alone}
        request = Ask(site, "purge", params, key=f"purge:{item}:{uuid.uuid4().hex}", item=item)
        try:
            notes += ask(core, request).get("notes", [])
        except HomeportError as error:
            waiting.append(f"{site}: {error.cause} ({error.code})")
    if not waiting:
        _forget(core, item, sites, shredded=alone)
    return {"waiting": waiting, "notes": notes}


def _alone(session: Session, item: ItemRow) -> bool:
    """Whether nothing else of the machine is protected or kept, so that its key may go."""
    others = select(ItemRow.id).where(
        ItemRow.machine == item.machine,
        ItemRow.id != item.id,
        ItemRow.removed.is_(None) | ItemRow.purge_at.is_not(None),
    )
    return session.scalar(others.limit(1)) is None


def _forget(core: Core, item: str, sites: dict[str, list[str]], *, shredded: bool) -> None:
    """No site has the points any more: neither does the vault, nor the machine's key."""
    with core.database.write() as session:
        row = session.get_one(ItemRow, item)
        for timelines in sites.values():
            session.execute(delete(PointRow).where(PointRow.timeline.in_(timelines)))
        if not shredded or not _alone(session, row):
            return
        for same in session.scalars(select(ItemRow).where(ItemRow.machine == row.machine)):
            same.machine_key = ""
