"""Taking a deleted item up again while its points are kept: it goes on in a fork of its timeline, with the points that
there were, and its next one ships what differs from the newest of them, found by digests.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation
from homeport.domain.points import new_timeline
from homeport.domain.states import Direction, State
from homeport.domain.target import Target, check_excluded
from homeport.vault import checks, deleted, inventory, operations, targets
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, now


class NotRestorable(HomeportError):
    code = "item.not-restorable"
    remedy = (
        "Protect the machine anew (`homeport protect`); points that are there still can be restored from the store."
    )


def restore(core: Core, name: str) -> str:
    """The id of the job that protects the item's machine again. Raises ItemNotFound, NotDeleted,
    :class:`NotRestorable`, and what protecting a machine raises."""
    with core.database.read() as session:
        item = deleted.find(session, name)
        _must_be_restorable(item)
        inventory.site(session, item.home)
        inventory.site(session, item.away)
    operations.require_policy(core, item.policy)
    machine = operations.protectable(core, item.home, item.machine)
    with core.database.read() as session:
        operations.refuse_protected(session, machine)
    target = Target.from_json(item.target)
    check_excluded(target.excluded_disks, machine)
    targets.check(core, item.away, target, machine, item.id)
    checked = checks.before_protect(core, machine, item.home, item.away, item.policy, target)
    with core.database.write() as session:
        row = session.get_one(ItemRow, item.id)
        _must_be_restorable(row)
        operations.refuse_protected(session, machine)
        assert row.removed is not None
        assert row.purge_at is not None
        again = {"removed": row.removed.isoformat(), "purge_at": row.purge_at.isoformat()}
        _revive(session, row, machine)
        job = operations.accept(session, row, Operation.PROTECT, {"again": again}, checked)
    return operations.start(core, job, Operation.PROTECT)


def _revive(session: Session, item: ItemRow, machine: Machine) -> None:
    item.removed = item.purge_at = None
    item.name = machine.name
    item.description = machine.to_json()
    item.state = State.UNPROTECTED
    item.timeline = new_timeline()
    item.lineage = [*item.lineage, item.timeline]
    item.replicate, item.replication = None, {}
    session.flush()


def _must_be_restorable(item: ItemRow) -> None:
    """Raises :class:`NotRestorable`."""
    why = None
    if item.removed is None:
        why = "it is protected again already"
    elif item.purge_at is None or item.purge_at <= now() or deleted.PURGING in item.ties:
        why = "its recovery points are deleted, or about to be"
    elif item.direction is not Direction.FORWARD or item.active_site != item.home or item.failover_point is not None:
        why = f"its machine had been failed over to {item.away} and was not at home again"
    elif item.timeline not in item.timelines.get(item.away, []):
        why = f"no recovery point of it lies at {item.away}"
    if why is not None:
        raise NotRestorable(f"{item.name} can't be taken up again: {why}.", item=item.id)
