"""Folds: who replaces thinning records of a timeline takes a number first, and *settles* before acting on its word.

    fold/<n>        begun: whoever holds a lower number and hasn't settled can't any more
    … records of revision n, segments of epoch 1 000 000 000 + n …
    fold/<n+1>      settles n: create-if-absent, so nobody began in between, and whoever begins later sees the records

The newest settling mark lists the thinning records that *stand*. A record that stands is final: what it replaced may
be deleted, by anyone, at any later time. One that doesn't, while a higher number is taken, never will: it may be
withdrawn, by anyone, since all that it was to replace is there still.

Old numbers are deleted from the lowest up, and only below the newest settling mark and its fold. So a mark that could
be created only because its number had been deleted is never the newest, and who made it finds its fold gone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from homeport.store import layout, names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, NotFound
from homeport.store.layout import Layout, Range

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

Thin = tuple[Range, int]
"""A thinning record: range and revision."""


def numbers(store: MachineStore, timeline: str) -> list[int]:
    """Numbers that are there, ascending."""
    prefix = names.folds(store.machine, timeline)
    return sorted(int(key[len(prefix) :]) for key, _ in store.objects.list(prefix))


def newest(store: MachineStore, timeline: str) -> int:
    """The highest number that was ever begun; 0: none. (A copy of a store may have records without their numbers.)"""
    thins = store.objects.list(names.timeline(store.machine, timeline) + "thin/")
    revisions = [layout.parse_thin(key.rsplit("/", 1)[1])[1] for key, _ in thins]
    return max([*revisions, *numbers(store, timeline)], default=0)


def begin(store: MachineStore, timeline: str, reach: Range | None = None) -> int:
    """Take the next number. ``reach``: the range of the thinning record that its segments are for."""
    number = newest(store, timeline) + 1
    while not _create(store, timeline, number, {"range": list(reach) if reach else None}):
        number = max(number, newest(store, timeline)) + 1
    return number


def settle(store: MachineStore, timeline: str, number: int, mine: Collection[Range]) -> bool | None:
    """Make the records of revision ``number`` and of the ranges ``mine`` final, beside those that stand. (One of
    another range was withdrawn, but the storage keeps it.) False: another began since, and they never will be. None, or
    where this raises: unknown; whoever begins next finds out."""
    found, others = survey(store, timeline)
    stand = [(reach, found.revision(reach)) for reach in found.thins]
    stand = [thin for thin in stand if (thin[0] in mine if thin[1] == number else thin[0] not in others)]
    what = {"settles": number, "standing": [[*reach, revision] for reach, revision in stand]}
    if not _create(store, timeline, number + 1, what):
        return False
    return True if begun(store, timeline, number) is not None else None


def newest_mark(store: MachineStore, timeline: str, listed: Iterable[int]) -> tuple[int, dict[str, Any]]:
    """The newest settling mark among numbers: its number and head. 0 and nothing: there is none. Raises NotFound: a
    number isn't there any more, so the list is out of date."""
    for number in sorted(listed, reverse=True):
        head = store.open_sealed(names.fold(store.machine, timeline, number), sealed.FOLD)
        if "settles" in head:
            return number, head
    return 0, {}


def standing(store: MachineStore, timeline: str) -> frozenset[Thin]:
    """The thinning records that are final. (Some of them may be replaced and deleted.) Raises Corrupt."""
    gone: set[str] = set()
    while True:
        try:
            head = newest_mark(store, timeline, numbers(store, timeline))[1]
        except NotFound as error:
            # Deleted meanwhile, so a newer mark is there: the new list shows it.
            key = error.details.get("key", "")
            if key in gone:
                raise Corrupt(f"{key} is listed, but isn't there", object=key) from None
            gone.add(key)
            continue
        return frozenset(((first, last), revision) for first, last, revision in head.get("standing", ()))


def survey(store: MachineStore, timeline: str) -> tuple[Layout, list[Range]]:
    """The timeline, and those of its thinning records in force on whose word nothing may be deleted: no mark says that
    they stand, and all that they are to replace is there still. Where it isn't, somebody acted on their word; but only
    if they are in force after the points were listed, too: else they were withdrawn, and others dropped the points."""
    while True:
        found = store.scan(timeline)
        stand = standing(store, timeline) if found.thins else frozenset()
        doubtful = [reach for reach in found.thins if (reach, found.revision(reach)) not in stand]
        held = [reach for reach in doubtful if whole_beneath(found, reach)]
        if held == doubtful:
            return found, held
        after = store.scan(timeline)
        keys = {after.thin_key(reach) for reach in after.thins}
        if all(found.thin_key(reach) in keys for reach in doubtful if reach not in held):
            return found, held


def whole_beneath(found: Layout, reach: Range) -> bool:
    """Each number's own record is there, or a thinning record over it that isn't in force."""
    first, last = reach
    below = [layout.parse_thin(key.rsplit("/", 1)[1])[0] for key in found.replaceable]
    below = [other for other in below if layout.contains(reach, other)]
    records = np.array(found.records, np.int64)
    inside = records[np.searchsorted(records, first) : np.searchsorted(records, last, side="right")]
    if not below and len(inside) <= last - first:
        return False
    there = np.zeros(last - first + 1, np.bool_)
    there[inside - first] = True
    for start, stop in below:
        there[start - first : stop - first + 1] = True
    return bool(there.all())


def begun(store: MachineStore, timeline: str, number: int) -> dict[str, Any] | None:
    """The head of the fold; None: it isn't there (any more), or the number settles another."""
    head = _head(store, timeline, number)
    return None if head is None or "settles" in head else head


def _head(store: MachineStore, timeline: str, number: int) -> dict[str, Any] | None:
    try:
        return store.open_sealed(names.fold(store.machine, timeline, number), sealed.FOLD)
    except NotFound:
        return None


def _create(store: MachineStore, timeline: str, number: int, what: dict[str, Any]) -> bool:
    """False: taken by another."""
    key = names.fold(store.machine, timeline, number)
    token = os.urandom(16).hex()
    head = {"timeline": timeline, "fold": number, "token": token, "claimed": datetime.now(UTC).isoformat(), **what}
    try:
        store.put_sealed(key, sealed.FOLD, head)
    except AlreadyExists:
        # A put that was repeated because its answer was lost finds itself.
        found = _head(store, timeline, number)
        return found is not None and found["token"] == token
    return True
