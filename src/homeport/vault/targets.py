"""An item's properties at the site where it is recovered: checked when they are chosen, and kept with the item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.states import Direction, State
from homeport.domain.target import Target, validate
from homeport.vault import inventory, items
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, Json
from homeport.vault.workflows.protect import NameTaken, check_name

NAME_FREE = frozenset(
    {
        State.UNPROTECTED,
        State.ENABLING_PROTECTION,
        State.INITIAL_REPLICATION_IN_PROGRESS,
        State.ENABLE_FAILED,
        State.PROTECTED,
        State.RESYNCING,
        State.PAUSED,
    }
)
"""States in which no machine of the item is at the other site, so that its name there may change."""


class NameFixed(HomeportError):
    code = "item.name-fixed"
    remedy = "Clean up the test, or come home first; the other properties can be changed now."


def check(core: Core, away: str, target: Target, machine: Machine, item: str | None = None) -> None:
    """Ranges, the network, and whether a chosen name is free at ``away`` (the site is asked). ``item``: whose
    properties they are, where it is there already. Raises TargetInvalid, NetworkMissing, NameTaken, SiteUnreachable."""
    validate(target)
    name = target.name or machine.name
    with core.database.read() as session:
        row = inventory.site(session, away)
        if target.network is not None:
            inventory.check_network(row, target.network)
        _check_items(session, away, name, item)
    if target.name is not None:
        check_name(away, name, inventory.machines(core, away, fresh=True))


def _check_items(session: Session, away: str, name: str, item: str | None) -> None:
    """Two items must not be recovered under one name."""
    for other in session.scalars(select(ItemRow).where(ItemRow.away == away, ItemRow.removed.is_(None))):
        if other.id != item and name == (Target.from_json(other.target).name or other.name):
            raise NameTaken(
                f"The item {other.name} is recovered as {name!r} at site {away!r} already.", site=away, item=other.id
            )


def change(core: Core, name: str, changes: Json, guard: Callable[[Session, ItemRow], None] | None = None) -> str:
    """Set properties of an item (None: as at home); the item's id. They count from the next machine that is made of it.
    ``guard`` looks at the item in the transaction that changes it. Raises ItemNotFound, :class:`NameFixed`, what
    :func:`check` raises, and what ``guard`` does."""
    with core.database.read() as session:
        item = items.live(session, name)
        before = Target.from_json(item.target)
        machine = Machine.from_json(item.description)
    fields: dict[str, Any] = dict(changes)
    if "tags" in fields:
        fields["tags"] = tuple(fields["tags"] or ())
    wanted = replace(before, **fields)
    if wanted.name == machine.name:
        wanted = replace(wanted, name=None)
    renamed = wanted.name != before.name
    _check_renaming(item, renamed)
    check(core, item.away, wanted if renamed else replace(wanted, name=None), machine, item.id)
    with core.database.write() as session:
        row = items.live(session, item.id)
        if guard is not None:
            guard(session, row)
        _check_renaming(row, renamed)
        row.target = wanted.to_json()
    return item.id


def _check_renaming(item: ItemRow, renamed: bool) -> None:
    free = item.state in NAME_FREE and item.direction is Direction.FORWARD and item.recovery_machine is None
    if renamed and not free:
        raise NameFixed(
            f"The machine of {item.name} at site {item.away!r} has its name while the item is {item.state}.",
            state=str(item.state),
        )
