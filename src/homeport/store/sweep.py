"""Deleting what nothing needs any more: what settled thinning records replaced, and what crashes left.

Everything that is deleted here could be deleted at any later time as well, by anyone: no key of it is ever used again.
So it does no harm if two do it at once, or if one was paused for long.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.store import folds, layout, names, sealed
from homeport.store.errors import AlreadyExists, NotFound, StoreError
from homeport.store.layers import useless_layers
from homeport.store.layout import Layout, Range, crosses
from homeport.store.names import FOLD_EPOCHS, Segment

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)

Listed = list[tuple[str, int]]


@dataclass
class Swept:
    """``deleted``: objects; ``locked``: objects that the storage keeps for a time yet (object lock): a later run gets
    them."""

    deleted: int = 0
    deleted_bytes: int = 0
    locked: int = 0


def delete(store: MachineStore, key: str, size: int, swept: Swept) -> bool:
    """False: the storage doesn't let go of it yet."""
    try:
        store.objects.delete(key)
    except StoreError as error:
        if error.code != "store.locked":
            raise
        swept.locked += 1
        return False
    store.forget(key)
    swept.deleted += 1
    swept.deleted_bytes += size
    return True


# -- thinning records that aren't settled ------------------------------------------------------------------------------


def resolve(store: MachineStore, timeline: str, number: int, swept: Swept) -> tuple[Layout, list[Range]]:
    """Withdraw what doesn't stand and never will, since ``number`` was begun after it. Returns the timeline as it is
    then, and the ranges of what isn't settled in it (locked, or of a later fold): they must be left alone. Who folds
    builds on this and nothing newer: a record of an earlier fold may come at any later time, and be withdrawn."""
    stuck: list[Range] = []
    while True:
        found, held = folds.survey(store, timeline)
        void = [reach for reach in held if reach not in stuck and found.revision(reach) < number]
        if not void:
            return found, held
        for reach in void:
            key = found.thin_key(reach)
            log.info("thinning that was never settled is withdrawn", key=key)
            if not delete(store, key, 0, swept):
                stuck.append(reach)


def set_boundary(store: MachineStore, timeline: str, upto: int) -> None:
    """Before points below ``upto`` are deleted."""
    if upto > layout.boundary(store.objects, store.machine, timeline):
        with contextlib.suppress(AlreadyExists):
            key = names.boundary(store.machine, timeline, upto)
            store.put_sealed(key, sealed.BOUNDARY, {"timeline": timeline, "number": upto})


# -- leftovers ---------------------------------------------------------------------------------------------------------


@dataclass
class _Kinds:
    """A timeline's objects by kind: name within the kind, key, bytes."""

    by_kind: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: MachineStore, timeline: str) -> _Kinds:
        result = cls()
        prefix = names.timeline(store.machine, timeline)
        for key, size in store.objects.list(prefix):
            kind, _, rest = key[len(prefix) :].partition("/")
            result.by_kind.setdefault(kind, []).append((rest, key, size))
        return result

    def __call__(self, kind: str) -> list[tuple[str, str, int]]:
        return self.by_kind.get(kind, [])


def leftovers(store: MachineStore, timeline: str) -> Listed:
    """Objects of a timeline that nothing needs, ``(key, bytes)``, in an order in which they may be deleted. Reads the
    heads of thinning records; other records only where a segment may be a dead writer's."""
    # What is listed later than the thinning records is newer than they are: nothing on its way is taken for dropped.
    # And whoever the newest point or the end fences has brought his last record before: the later list shows it.
    found, held = folds.survey(store, timeline)
    last = store.last_point(timeline, found)
    newest_epoch = _epoch(store, last)
    ended = store.ended(timeline)
    kinds = _Kinds.of(store, timeline)

    def dropped(number: int) -> bool:
        over = found.thin_over(number)
        return over is not None and over not in held

    result = [(key, size) for name, key, size in kinds("point") if dropped(int(name))]
    result += [
        (key, size)
        for name, key, size in kinds("digests")
        if dropped(number := int(name.split("/")[0])) and found.thin_ending_at(number) is None
    ]
    result += [
        (key, size)
        for name, key, size in kinds("thin")
        if key in found.replaceable and not any(crosses(layout.parse_thin(name)[0], reach) for reach in held)
    ]
    if ended or last is not None:
        result += [(key, size) for _, key, size in kinds("part")]
    result += [(key, size) for _, key, size in kinds("boundary")[:-1]]
    dead = _dead_segments(store, found, kinds, held, newest_epoch, ended)
    doomed = {segment for segment, _, _ in dead}
    result += _layers(store, found, kinds, doomed)
    result += [(key, size) for _, key, size in dead]
    return result + _old_folds(store, found, kinds, doomed)


def _epoch(store: MachineStore, last: PointId | None) -> int:
    """Of the newest point's writer. 0: there is no point, or that one was dropped since (a newer one came)."""
    try:
        return int(store.layer(names.point(store.machine, last)).head["epoch"]) if last is not None else 0
    except NotFound:
        return 0


def _dead_segments(
    store: MachineStore, found: Layout, kinds: _Kinds, held: list[Range], newest_epoch: int, ended: bool
) -> list[tuple[Segment, str, int]]:
    freed: set[Segment] = set()
    for reach in found.thins:
        if reach not in held:
            freed |= _freed(store, found, reach)
    newest_fold = max((int(name) for name, _, _ in kinds("fold")), default=0)
    result = []
    doubtful = []
    for name, key, size in kinds("segment"):
        epoch, seq = map(int, name.split("-"))
        segment = Segment(found.timeline, epoch, seq)
        if segment in freed:
            result.append((segment, key, size))
        # What no record names may be on its way still, unless who wrote it can't add a record any more: one of a newer
        # epoch has built the newest point, or the timeline has ended; a fold of a higher number was begun.
        elif epoch - FOLD_EPOCHS < newest_fold if epoch >= FOLD_EPOCHS else epoch < newest_epoch or ended:
            doubtful.append((segment, key, size))
    named = _named(store, kinds, {segment for segment, _, _ in doubtful}) if doubtful else None
    if named is not None:
        unnamed = [
            entry
            for entry in doubtful
            if entry[0] not in named
            and (entry[0].epoch < FOLD_EPOCHS or _given_up(store, found, entry[0].epoch - FOLD_EPOCHS, held))
        ]
        if unnamed and _up_to_date(store, found.timeline, kinds):
            result += unnamed
    return result


def _freed(store: MachineStore, found: Layout, reach: Range) -> frozenset[Segment]:
    key = found.thin_key(reach)
    known = store.freed.get(key)
    if known is None:
        try:
            head = store.layer(key).head
        except NotFound:
            return frozenset()  # replaced meanwhile: the next run sees by what
        known = store.freed[key] = frozenset(Segment(found.timeline, epoch, seq) for epoch, seq in head["freed"])
    return known


def _given_up(store: MachineStore, found: Layout, number: int, held: list[Range]) -> bool:
    """A fold whose record, written late, wouldn't come into force: another of a higher number is over its range."""
    head = folds.begun(store, found.timeline, number)
    if head is None or head["range"] is None:
        return True
    reach = (int(head["range"][0]), int(head["range"][1]))
    return any(crosses(other, reach) and found.revision(other) > number and other not in held for other in found.thins)


def _named(
    store: MachineStore, kinds: _Kinds, wanted: set[Segment], among: tuple[str, ...] = ("thin", "point", "part")
) -> set[Segment] | None:
    """Those of ``wanted`` that any record of the timeline names (records name segments of their own timeline only).
    None: a record is gone, so another may name them now. Who acts on what isn't named must ask :func:`_up_to_date`
    afterwards."""
    result: set[Segment] = set()
    for kind in among:
        for _, key, _ in kinds(kind):
            if len(result) == len(wanted):
                return result
            known = store.named.get(key)
            if known is None:
                try:
                    record = store.record(key, sealed.PART) if kind == "part" else store.layer(key)
                    known = frozenset(() if record.ended else record.segments.names())
                except NotFound:
                    return None
                store.named[key] = known
            result |= wanted & known
    return result


def _up_to_date(store: MachineStore, timeline: str, kinds: _Kinds) -> bool:
    """No thinning record came or went since the list: so what its records name is still named by these."""
    prefix = names.timeline(store.machine, timeline) + "thin/"
    return [key for key, _ in store.objects.list(prefix)] == [key for _, key, _ in kinds("thin")]


def unnamed(store: MachineStore, timeline: str, segments: set[Segment]) -> bool:
    """No thinning record names any of a fold's segments (and no other record does). False also if that can't be said
    now."""
    kinds = _Kinds.of(store, timeline)
    return _named(store, kinds, segments, ("thin",)) == set() and _up_to_date(store, timeline, kinds)


def _layers(store: MachineStore, found: Layout, kinds: _Kinds, doomed: set[Segment]) -> Listed:
    """Layers that can't be used any more, before the segments that they name."""
    if not doomed:
        return useless_layers(store, found)
    there = (tuple(map(int, name.split("-"))) for name, _, _ in kinds("segment"))
    return useless_layers(store, found, {Segment(found.timeline, *numbers) for numbers in there} - doomed)


def _old_folds(store: MachineStore, found: Layout, kinds: _Kinds, doomed: set[Segment]) -> Listed:
    """Numbers that say nothing any more, from the lowest up and without a gap."""
    if len(kinds("fold")) < 3:
        return []
    # A mark of this very list: whoever had a number below it has brought his segments before, or never names them.
    try:
        mark, _ = folds.newest_mark(store, found.timeline, (int(name) for name, _, _ in kinds("fold")))
    except NotFound:
        return []
    stop = min({mark - 1, *_unnamed_folds(store, found, kinds, doomed)})
    return [(key, size) for name, key, size in kinds("fold") if int(name) < stop]


def _unnamed_folds(store: MachineStore, found: Layout, kinds: _Kinds, doomed: set[Segment]) -> set[int]:
    """Numbers of folds some of whose segments no record names (or that can't be said now), and that stay."""
    segments = set()
    for name, _, _ in kinds("segment"):
        epoch, seq = map(int, name.split("-"))
        if epoch >= FOLD_EPOCHS and Segment(found.timeline, epoch, seq) not in doomed:
            segments.add(Segment(found.timeline, epoch, seq))
    named = _named(store, kinds, segments) if segments else None
    if named is None or not _up_to_date(store, found.timeline, kinds):
        named = set()
    return {segment.epoch - FOLD_EPOCHS for segment in segments - named}


def clear(store: MachineStore, timeline: str, swept: Swept) -> None:
    """Delete leftovers. Numbers of folds go in their order, and none after one that the storage keeps."""
    for key, size in leftovers(store, timeline):
        if not delete(store, key, size, swept) and "/fold/" in key:
            return


def sweep(store: MachineStore, timeline: str, swept: Swept) -> None:
    """See to what others left: withdraw what was never settled, delete what nothing needs."""
    if folds.survey(store, timeline)[1]:
        resolve(store, timeline, folds.begin(store, timeline), swept)
    clear(store, timeline, swept)
