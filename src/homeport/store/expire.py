"""Dropping points, and clearing what nothing needs any more.

    merge the indexes of a run of dropped points → thinning record → look again (leases, forks, others who expire)
    → boundary → delete the points' records → delete the segments that no record names

A crash anywhere leaves leftovers, never a gap: until the thinning record lies there, nothing was dropped; from then on
the rest only deletes what it made superfluous, and the next call goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import layout, names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, NotFound
from homeport.store.layout import Layout, Range, contains, crosses
from homeport.store.names import Segment
from homeport.store.records import Record, caps, disks_list, merge, pack

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)

_ABSORB = 4
"""A neighbouring thinning record is taken into the new one unless it is this many times as large."""


@dataclass
class Expired:
    """``dropped``: numbers dropped now; ``kept``: numbers asked for that stay, and why; ``deleted``: objects."""

    dropped: list[int] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    deleted: int = 0
    deleted_bytes: int = 0


def expire(store: MachineStore, timeline: str, drop: Sequence[int]) -> Expired:
    """Drop points of a timeline by number, but never its newest point, one that is leased or that another timeline
    forks from. Numbers that aren't there: fine. Idempotent, also after a crash. One at a time for a timeline: of two at
    once, one may give up (its points are in ``kept``). Raises Corrupt, StoreUnavailable."""
    result = Expired()
    for run in _runs(store, timeline, drop, result):
        _thin(store, timeline, run, result)
    sweep(store, timeline, result)
    return result


def _protected(store: MachineStore, timeline: str) -> dict[int, str]:
    """Numbers that must stay, and why."""
    result = {lease.point.number: f"leased by {lease.owner}" for lease in store.leases() if lease.point[0] == timeline}
    for other in store.timeline_ids():
        parent = store._timeline_head(other)["parent"]
        if parent and PointId.parse(parent).timeline == timeline:
            result[PointId.parse(parent).number] = f"timeline {other} forks from it"
    last = store.last_point(timeline)
    if last is not None:
        result[last.number] = "it is the newest point"
    return result


def _runs(store: MachineStore, timeline: str, drop: Sequence[int], result: Expired) -> list[list[int]]:
    """Maximal runs of neighbouring points to drop."""
    found = store.scan(timeline)
    protected = _protected(store, timeline)
    runs: list[list[int]] = []
    for number in sorted(set(drop) & set(found.live)):
        if store.is_end(PointId(timeline, number)):
            continue
        why = protected.get(number) or _uneven(store, PointId(timeline, number))
        if why:
            result.kept[number] = why
        elif runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _uneven(store: MachineStore, point: PointId) -> str:
    """A disk that shrank here to a size that isn't a multiple of the block: rows can't say that, only its record."""
    record = store.layer(names.point(store.machine, point))
    if all(size % BLOCK == 0 for size in record.disks.values()) or record.parent is None:
        return ""
    below = store.chain(record.parent, dropped=True)[0][1]
    shrank = [disk for disk, size in record.disks.items() if size % BLOCK and below.disks.get(disk, 0) > size]
    return f"{', '.join(shrank)} shrank here" if shrank else ""


def _thin(store: MachineStore, timeline: str, numbers: list[int], result: Expired) -> None:
    found = store.scan(timeline)
    first, last = _absorb(store, found, numbers)
    # Oldest first: the records of the run, and what earlier thinning left within it.
    layers: list[Record] = []
    number = last
    while number >= first:
        key = layout.layer_key(store.machine, found, number)
        if key is None:
            raise Corrupt(f"point {timeline}/{number} is missing", object=f"{timeline}/{number}")
        record = store.layer(key)
        layers.append(record)
        ending = found.thin_ending_at(number)
        number = (ending[0] if ending else number) - 1
    layers.reverse()
    head, sections = merged(store, timeline, (first, last), layers)
    key = names.thin(store.machine, timeline, first, last)
    try:
        store.objects.put(key, store.seal(key, sealed.THIN, head, sections))
    except AlreadyExists:
        log.info("thinned already", key=key)
    found = store.scan(timeline)
    if any(
        crosses(reach, (first, last)) and not contains((first, last), reach) and not contains(reach, (first, last))
        for reach in [*found.thins, *found.idle_thins]
    ):
        _withdraw(store, timeline, (first, last))
        result.kept.update(dict.fromkeys(numbers, "someone else drops points here"))
        return
    result.dropped += numbers


def _withdraw(store: MachineStore, timeline: str, reach: Range) -> None:
    key = names.thin(store.machine, timeline, *reach)
    store.objects.delete(key)
    store.forget(key)


def _settle(store: MachineStore, timeline: str, result: Expired) -> None:
    """Look again at thinning records after which nothing was deleted yet (just written, or left by a crash): where a
    point was leased or forked from meanwhile, the record is withdrawn. Then set the boundary: what lies below may be
    deleted."""
    found = store.scan(timeline)
    protected = _protected(store, timeline)
    for reach in found.thins:
        inner = [r for r in found.idle_thins if contains(reach, r)]
        mine = [n for n in range(reach[0], reach[1] + 1) if not any(a <= n <= b for a, b in inner)]
        if not mine or any(number not in found.records for number in mine):
            continue  # deleting has begun: it was looked at
        held = {number: protected[number] for number in mine if number in protected}
        if held:
            _withdraw(store, timeline, reach)
            result.kept.update({number: held.get(number, "its neighbour must stay") for number in mine})
            result.dropped = [number for number in result.dropped if number not in mine]
    upto = max((last for _, last in store.scan(timeline).thins), default=-1) + 1
    if upto > layout.boundary(store.objects, store.machine, timeline):
        with contextlib.suppress(AlreadyExists):
            key = names.boundary(store.machine, timeline, upto)
            store.put_sealed(key, sealed.BOUNDARY, {"timeline": timeline, "number": upto})


def merged(
    store: MachineStore, timeline: str, reach: Range, layers: list[Record]
) -> tuple[dict[str, Any], list[bytes]]:
    """The thinning record over ``layers`` (oldest first, without a gap): head and sections."""
    removed: list[list[Any]] = []
    freed: set[Segment] = set()
    floor: dict[str, int] = {}
    for position, record in enumerate(layers):
        if "/thin/" in record.key:
            removed += record.head["removed"]
            freed.update(Segment(timeline, epoch, seq) for epoch, seq in record.head["freed"])
        else:
            number = record.head["number"]
            removed.append([number, store.record_sha256(PointId(timeline, number))])
        freed.update(info.segment for info in store.segments_of(record) if info.segment.timeline == timeline)
        floor = (
            dict(record.floor)
            if position == 0
            else {disk: min(size, record.floor.get(disk, 0)) for disk, size in floor.items()}
        )
    newest, oldest = layers[-1], layers[0]
    index = merge(list(zip(layers, caps(layers), strict=True)), keep_zeros=oldest.parent is not None)
    freed -= {info.segment for info in index.segments}
    there = {key for key, _ in store.objects.list(names.timeline(store.machine, timeline) + "segment/")}
    fields, sections = pack(index)
    head = {
        "kind": "thin",
        "timeline": timeline,
        "first": reach[0],
        "last": reach[1],
        "parent": str(oldest.parent) if oldest.parent else None,
        "parent_sha256": oldest.parent_sha256,
        "removed": removed,
        "disks": disks_list(newest.disks),
        "floor": disks_list({disk: floor.get(disk, 0) for disk in newest.disks}),
        "instant": newest.head["instant"],
        "freed": sorted((s.epoch, s.seq) for s in freed if s.key(store.machine) in there),
        **fields,
    }
    return head, sections


def _absorb(store: MachineStore, found: Layout, numbers: list[int]) -> Range:
    """The run, and the thinning records beside it unless they are much larger: a point costs what it changed, so what
    was folded long ago isn't folded again with each."""
    prefix = names.timeline(store.machine, found.timeline)
    sizes = {_range_of(key): size for key, size in store.objects.list(prefix + "thin/")}
    records = {int(key.rsplit("/", 1)[1]): size for key, size in store.objects.list(prefix + "point/")}
    first, last = numbers[0], numbers[-1]
    weight = sum(records.get(number, 0) for number in numbers)
    grown = True
    while grown:
        grown = False
        for reach in found.thins:
            beside = reach[1] == first - 1 or reach[0] == last + 1
            if beside and sizes.get(reach, 0) <= _ABSORB * weight:
                first, last = min(first, reach[0]), max(last, reach[1])
                weight += sizes.get(reach, 0)
                grown = True
    return first, last


def _range_of(key: str) -> Range:
    first, last = key.rsplit("/", 1)[1].split("-")
    return int(first), int(last)


def leftovers(store: MachineStore, timeline: str) -> list[tuple[str, int]]:
    """Objects of a timeline that nothing needs, ``(key, bytes)``, in an order in which they may be deleted."""
    found = store.scan(timeline)
    prefix = names.timeline(store.machine, timeline)
    result: list[tuple[str, int]] = []
    points, segments = [], []
    maps: list[tuple[str, int]] = []
    thins: dict[Range, tuple[str, int]] = {}
    parts: list[tuple[str, int]] = []
    ended = store.ended(timeline)
    last = store.last_point(timeline, found)
    barriers: list[tuple[str, int]] = []
    for key, size in store.objects.list(prefix):
        kind, _, rest = key[len(prefix) :].partition("/")
        if kind == "point" and found.covered(int(rest)):
            points.append((key, size))
        elif kind == "digests":
            number = int(rest.split("/")[0])
            if found.covered(number) and found.thin_ending_at(number) is None:
                maps.append((key, size))
        elif kind == "thin":
            thins[_range_of(key)] = (key, size)
        elif kind == "part" and (ended or last is not None):
            parts.append((key, size))
        elif kind == "segment":
            epoch, seq = rest.split("-")
            segments.append((Segment(timeline, int(epoch), int(seq)), key, size))
        elif kind == "boundary":
            barriers.append((key, size))
    result += points + maps + [thins[r] for r in found.idle_thins if r in thins] + parts + barriers[:-1]
    gone = {key for key, _ in result}
    live, freed, newest_epoch = _needed(store, timeline, gone)
    for segment, key, size in segments:
        # What no record names may be on its way still, unless its writer can't add a point any more: one of a newer
        # epoch has built the newest point, or the timeline has ended.
        if segment not in live and (segment in freed or segment.epoch < newest_epoch or ended):
            result.append((key, size))
    return result


def _needed(store: MachineStore, timeline: str, gone: set[str]) -> tuple[set[Segment], set[Segment], int]:
    """Of all timelines' records that stay: the segments that they name; those that thinning freed in this timeline;
    and the epoch in which this timeline's newest point was built."""
    live: set[Segment] = set()
    freed: set[Segment] = set()
    newest = 0
    for other in store.timeline_ids():
        found = store.scan(other)
        keys = [names.thin(store.machine, other, *reach) for reach in found.thins]
        keys += [names.point(store.machine, PointId(other, number)) for number in found.live]
        for key in keys:
            record = store.layer(key)
            if record.ended:
                continue
            live.update(info.segment for info in store.segments_of(record))
            if other == timeline and "/thin/" in key:
                freed.update(Segment(timeline, epoch, seq) for epoch, seq in record.head["freed"])
            elif other == timeline:
                newest = max(newest, int(record.head["epoch"]))
        for number in layout.part_numbers(store.objects, store.machine, other):
            key = names.part(store.machine, other, number)
            if key not in gone:
                with contextlib.suppress(NotFound):
                    live.update(info.segment for info in store.segments_of(store.record(key, sealed.PART)))
    return live, freed, newest


def sweep(store: MachineStore, timeline: str, result: Expired) -> None:
    """Delete leftovers."""
    _settle(store, timeline, result)
    for key, size in leftovers(store, timeline):
        store.objects.delete(key)
        store.forget(key)
        result.deleted += 1
        result.deleted_bytes += size
