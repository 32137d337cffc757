"""Dropping points, and clearing what nothing needs any more.

    begin a fold → merge the indexes of each run of dropped points → thinning record → look again (leases, forks) →
    settle → boundary → delete the points' records → delete the segments that no record names

A crash anywhere leaves leftovers, never a gap: until it is settled, nothing was dropped; from then on the rest only
deletes what it made superfluous, and the next call goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import folds, names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, NotFound, PointNotFound
from homeport.store.layout import Layout, Range, crosses, parse_thin
from homeport.store.names import Segment
from homeport.store.records import Record, caps, disks_list, lacking, merge, pack, sha256
from homeport.store.sweep import Swept, clear, delete, resolve, set_boundary, sweep
from homeport.store.worth import absorbs

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)

_AT_ONCE = 8
"""Records fetched at once."""


@dataclass
class Expired(Swept):
    """``dropped``: numbers dropped now; ``kept``: numbers asked for that stay, and why."""

    dropped: list[int] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)


def expire(store: MachineStore, timeline: str, drop: Sequence[int]) -> Expired:
    """Drop points of a timeline by number, but never its newest point, one that is leased or that another timeline
    forks from. Numbers that aren't there: fine. Idempotent, also after a crash. Of two at once on a timeline (or one
    beside a compaction) one may give up: its points are in ``kept``. Raises Corrupt, StoreUnavailable."""
    result = Expired()
    if not store.scan(timeline).known.isdisjoint(drop):
        _expire(store, timeline, drop, result)
        clear(store, timeline, result)
    else:
        sweep(store, timeline, result)
    return result


def _expire(store: MachineStore, timeline: str, drop: Sequence[int], result: Expired) -> None:
    number = folds.begin(store, timeline)
    found, held = resolve(store, timeline, number, result)
    made: dict[Range, list[int]] = {}
    try:
        for reach, run in _reaches(store, found, held, _runs(store, found, drop, result)).items():
            _thin(store, found, reach, number)
            made[reach] = run
    except (NotFound, Corrupt):
        if folds.newest(store, timeline) == number:
            raise
        # Another began since, and what this one was to merge is gone: so its record can't come to stand.
        for reach in made:
            _withdraw(store, timeline, reach, number, result)
        result.kept.update(dict.fromkeys(drop, "someone else folds here"))
        return
    protected = _protected(store, timeline) if made else {}
    for reach, run in list(made.items()):
        stay = {point: protected[point] for point in run if point in protected}
        if stay:
            _withdraw(store, timeline, reach, number, result)
            result.kept.update({point: stay.get(point, "its neighbour must stay") for point in run})
            del made[reach]
    if not made:
        return
    settled = folds.settle(store, timeline, number, made)
    if not settled:
        for reach, run in made.items():
            if settled is False:
                _withdraw(store, timeline, reach, number, result)
            result.kept.update(dict.fromkeys(run, "someone else folds here"))
        return
    set_boundary(store, timeline, max(last for _, last in made) + 1)
    result.dropped = sorted(number for run in made.values() for number in run)


def _withdraw(store: MachineStore, timeline: str, reach: Range, number: int, result: Expired) -> None:
    """Where the storage keeps it locked, it is left: its points are not offered until a later run deletes it."""
    delete(store, names.thin(store.machine, timeline, *reach, number), 0, result)


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


def _runs(store: MachineStore, found: Layout, drop: Sequence[int], result: Expired) -> list[list[int]]:
    """Maximal runs of neighbouring points to drop."""
    timeline = found.timeline
    protected = _protected(store, timeline)
    wanted = [PointId(timeline, number) for number in sorted(set(drop) & set(found.live))]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ended = list(pool.map(store.is_end, wanted))
    runs: list[list[int]] = []
    for point, end in zip(wanted, ended, strict=True):
        if end:
            continue
        number = point.number
        why = protected.get(number) or _uneven(store, point)
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
    link = store.scan(record.parent.timeline).link(record.parent.number)
    if link is None:
        raise PointNotFound(f"{point} stands on {record.parent}, which isn't there", point=str(point))
    below = store.layer(link[1])
    shrank = [disk for disk, size in record.disks.items() if size % BLOCK and below.disks.get(disk, 0) > size]
    return f"{', '.join(shrank)} shrank here" if shrank else ""


def _thin(store: MachineStore, found: Layout, reach: Range, revision: int) -> None:
    """Write the thinning record over a range. Raises Corrupt."""
    timeline = found.timeline
    first, last = reach
    # Oldest first: the records of the run, and what earlier thinning left within it.
    layers: list[Record] = []
    number = last
    while number >= first:
        link = found.link(number)
        if link is None:
            raise Corrupt(f"point {timeline}/{number} is missing", object=f"{timeline}/{number}")
        (start, _), key = link
        try:
            layers.append(store.layer(key))
        except NotFound:
            raise Corrupt(f"point {timeline}/{number} is missing", object=key) from None
        number = start - 1
    layers.reverse()
    head, sections = merged(store, timeline, reach, layers)
    key = names.thin(store.machine, timeline, first, last, revision)
    # The key is this fold's alone: what lies there is this very record, put once already by a repeated call.
    try:
        store.objects.put(key, store.seal(key, sealed.THIN, head, sections))
    except AlreadyExists:
        log.info("thinned already", key=key)


def merged(
    store: MachineStore, timeline: str, reach: Range, layers: list[Record]
) -> tuple[dict[str, Any], list[bytes]]:
    """The thinning record over ``layers`` (oldest first, without a gap): head and sections. Raises Corrupt: a segment
    that it would name isn't there (nothing is dropped on such a word)."""
    removed: list[list[Any]] = []
    freed: set[Segment] = set()
    floor: dict[str, int] = {}
    for position, record in enumerate(layers):
        if "/thin/" in record.key:
            removed += record.head["removed"]
            freed.update(Segment(timeline, epoch, seq) for epoch, seq in record.head["freed"])
        else:
            removed.append([record.head["number"], _record_sha256(store, record)])
        freed.update(segment for segment in store.segments_of(record).names() if segment.timeline == timeline)
        floor = (
            dict(record.floor)
            if position == 0
            else {disk: min(size, record.floor.get(disk, 0)) for disk, size in floor.items()}
        )
    newest, oldest = layers[-1], layers[0]
    index = merge(list(zip(layers, caps(layers), strict=True)), keep_zeros=oldest.parent is not None)
    there = segments_there(store, timeline)
    named = set(index.segments.names())
    missing(store, named, there)
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
        "freed": sorted((s.epoch, s.seq) for s in (freed - named) & there),
        "pruned": lacking(layers),
        "built": newest.head.get("built"),
        **fields,
    }
    return head, sections


def segments_there(store: MachineStore, timeline: str) -> set[Segment]:
    """All segments of a timeline that lie in the store."""
    prefix = names.timeline(store.machine, timeline) + "segment/"
    files = (key[len(prefix) :].split("-") for key, _ in store.objects.list(prefix))
    return {Segment(timeline, int(epoch), int(seq)) for epoch, seq in files}


def missing(store: MachineStore, named: set[Segment], there: set[Segment]) -> None:
    """Raises Corrupt: a segment that a record is to name isn't there."""
    gone = sorted(named - there)
    if gone:
        key = gone[0].key(store.machine)
        raise Corrupt(f"{key} is missing ({len(gone)} segments are): nothing is folded over damage", object=key)


def _record_sha256(store: MachineStore, record: Record) -> str:
    """Of a point's record as it lies in the store."""
    if len(record.opened.have) == record.opened.total:
        return sha256(record.opened.have)
    return store.record_sha256(PointId(record.head["timeline"], record.head["number"]))


def _reaches(store: MachineStore, found: Layout, held: list[Range], runs: list[list[int]]) -> dict[Range, list[int]]:
    """Ranges to thin, and the points to drop in each: the runs, with settled thinning records beside them that are
    worth taking in. Runs that take in the same one become one."""
    sizes = {parse_thin(key.rsplit("/", 1)[1])[0]: size for key, size in store.objects.list(found.prefix + "thin/")}
    records = {int(key.rsplit("/", 1)[1]): size for key, size in store.objects.list(found.prefix + "point/")}
    settled = {reach: sizes.get(reach, 0) for reach in found.thins if reach not in held}
    result: dict[Range, list[int]] = {}
    for run in runs:
        reach = _absorb(run, sum(records.get(number, 0) for number in run), settled)
        numbers = run
        while result and crosses(before := next(reversed(result)), reach):
            numbers = [*result.pop(before), *numbers]
            reach = min(before[0], reach[0]), max(before[1], reach[1])
        result[reach] = numbers
    return result


def _absorb(run: list[int], weight: int, settled: dict[Range, int]) -> Range:
    """The run, and the thinning records beside it that are worth taking in. ``weight``, ``settled``: bytes."""
    first, last = run[0], run[-1]
    grown = True
    while grown:
        grown = False
        for reach, size in settled.items():
            if (reach[1] == first - 1 or reach[0] == last + 1) and absorbs(weight, size):
                first, last = min(first, reach[0]), max(last, reach[1])
                weight += size
                grown = True
    return first, last
