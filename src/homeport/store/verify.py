"""Looking for damage: every object explained, every link of the chain, with ``deep`` every byte that a point needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import digests as digests_
from homeport.store import names, sealed, sweep
from homeport.store.errors import Corrupt, LayerGone, NotFound, PointNotFound, StoreError
from homeport.store.index import ZERO, Rows
from homeport.store.layers import check_layer
from homeport.store.names import Segment
from homeport.store.pointmap import PointMap
from homeport.store.records import Record
from homeport.store.segment import (
    FOOTER_SIZE,
    HEADER_SIZE,
    SegmentCipher,
    SegmentInfo,
    open_frame,
    parse_footer,
    parse_header,
    read_directory,
)

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

_KEYS = re.compile(
    r"^machines/[^/]+/(key/\d{10}|description/\d{10}|lease/[0-9a-f]{16}-\d{16}/[^/]+"
    r"|t/[0-9a-f]{16}/(timeline|epoch/\d{10}|point/\d{16}|part/\d{16}|segment/\d{10}-\d{10}|thin/\d{16}-\d{16}(-\d{10})?"
    r"|layer/\d{16}-\d{16}|fold/\d{10}|hide/\d{16}|boundary/\d{16}|digests/\d{16}/[^/]+))$"
)
_KINDS = {
    "point": sealed.POINT,
    "part": sealed.PART,
    "thin": sealed.THIN,
    "layer": sealed.LAYER,
    "fold": sealed.FOLD,
    "epoch": sealed.EPOCH,
    "hide": sealed.HIDE,
    "boundary": sealed.BOUNDARY,
    "timeline": sealed.TIMELINE,
    "digests": sealed.DIGESTS,
    "description": sealed.DESCRIPTION,
    "lease": sealed.LEASE,
}


_TRIES = 8


@dataclass(frozen=True)
class Problem:
    """One finding. ``object``: a key; ``frame``, ``disk``, ``first_block``, ``blocks``: where known; ``points``: the
    retained points that it makes unusable, wholly or in that range."""

    object: str
    cause: str
    frame: int | None = None
    disk: str | None = None
    first_block: int | None = None
    blocks: int | None = None
    points: tuple[PointId, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "points": [str(point) for point in self.points]}


@dataclass
class Verified:
    """``problems``: empty means sound. ``leftovers``: keys that nothing needs, harmless. Counts of what was seen."""

    problems: list[Problem] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    points: int = 0
    objects: int = 0
    segments: int = 0
    frames: int = 0
    bytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def unusable(self) -> list[PointId]:
        """Points that a problem touches."""
        return sorted({point for problem in self.problems for point in problem.points})

    def to_json(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "ok": self.ok,
            "problems": [problem.to_json() for problem in self.problems],
            "unusable": [str(point) for point in self.unusable],
        }


def verify(
    store: MachineStore,
    point: PointId | None = None,
    *,
    deep: bool = False,
    expect_head: PointId | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Look at all points of a machine, or at one ``point`` and what it stands on. ``deep``: also decrypt, decompress
    and digest every frame that they need. ``expect_head``: the newest point that should be there, as somebody outside
    remembers it: a cut-off end shows only so. ``progress``: points done, and in all. Raises StoreUnavailable; damage is
    reported, not raised."""
    return _Verification(store, point, deep).run(expect_head, progress or (lambda done, total: None))


class _Verification:
    def __init__(self, store: MachineStore, point: PointId | None, deep: bool) -> None:
        self.store = store
        self.only = point
        self.deep = deep
        self.result = Verified()
        self.checked: dict[Segment, list[Problem]] = {}
        self.layers: dict[str, list[Problem]] = {}
        #: segments that were found missing: damage, if a map that was made later names them still
        self.missed: set[Segment] = set()
        self.frames: dict[tuple[Segment, int], Problem | None] = {}

    def report(self, error: StoreError | str, object: str, **where: Any) -> Problem:
        """Add a problem, or the point to it where it is known already."""
        if isinstance(error, StoreError):
            details = error.details
            where = {name: details.get(name) for name in ("frame", "disk", "first_block", "blocks")} | where
            object = details.get("object", object)
            error = error.cause
        problem = Problem(object, error, **where)
        for place, known in enumerate(self.result.problems):
            if (known.object, known.cause, known.frame) == (problem.object, problem.cause, problem.frame):
                problem = Problem(
                    **{**known.__dict__, "points": tuple(dict.fromkeys((*known.points, *problem.points)))}
                )
                self.result.problems[place] = problem
                return problem
        self.result.problems.append(problem)
        return problem

    def run(self, expect_head: PointId | None, progress: Callable[[int, int], None]) -> Verified:
        if self.only is None:
            self._objects()
        targets = [self.only] if self.only else self._points()
        for done, target in enumerate(targets, 1):
            self._point(target)
            progress(done, len(targets))
        if expect_head is not None:
            self._head(expect_head)
        return self.result

    def _points(self) -> list[PointId]:
        result = []
        for timeline in self.store.timeline_ids():
            for number in self.store.scan(timeline).live:
                point = PointId(timeline, number)
                try:
                    if not self.store.is_end(point):
                        result.append(point)
                except Corrupt:
                    result.append(point)
        return result

    def _head(self, expected: PointId) -> None:
        found = self.store.scan(expected.timeline)
        key = names.point(self.store.machine, expected)
        if expected.number not in found.records and not found.covered(expected.number):
            newest = f"the newest is {found.live[-1]}" if found.live else "there are none"
            self.report(f"point {expected} should be there: the end of the timeline was cut off ({newest})", key)

    # -- objects -------------------------------------------------------------------------------------------------------

    def _objects(self) -> None:
        """Every key explained, every sealed object opened; what a newer list has and an older has not is no matter."""
        machine = self.store.machine
        keys = self.store.keys
        garbage: dict[str, int] = {}
        timelines = set(self.store.timeline_ids())
        for timeline in timelines:
            try:
                garbage.update(sweep.leftovers(self.store, timeline))
            except Corrupt as error:
                self.report(error, names.timeline(machine, timeline))
        self.result.leftovers = sorted(garbage)
        for key, size in self.store.objects.list(names.machine(machine)):
            self.result.objects += 1
            self.result.bytes += size
            if not _KEYS.match(key):
                self.report(f"{key} is no object of this format", key)
                continue
            parts = key.split("/")
            if parts[2] == "t" and parts[3] not in timelines:
                self.report(f"{key} belongs to a timeline that was never begun", key)
                continue
            kind = parts[4] if parts[2] == "t" else parts[2]
            if kind in _KINDS and key not in garbage:
                try:
                    data = self.store.objects.get(key)
                    sealed.check_bytes(key, data)
                    sealed.open_bytes(keys.key, keys.vault, key, _KINDS[kind], data)
                except NotFound:
                    continue
                except Corrupt as error:
                    points: tuple[PointId, ...] = ()
                    if kind == "point":
                        points = (PointId(parts[3], int(parts[5])),)
                    self.report(error, key, points=points)
        for timeline in timelines:
            self._layers(timeline)

    def _layers(self, timeline: str) -> None:
        """Merged indexes are what the records that they stand for say."""
        found = self.store.scan(timeline)
        for reach in found.layers:
            key = names.layer(self.store.machine, timeline, *reach)
            try:
                wrong = check_layer(self.store, found, reach)
            except NotFound:
                continue
            except Corrupt as error:
                self.report(error, key)
            else:
                if wrong:
                    self.report(wrong, key)

    # -- points --------------------------------------------------------------------------------------------------------

    def _point(self, point: PointId) -> None:
        """Where records or segments go meanwhile, the point is looked at again by a map made after."""
        self.result.points += 1
        for attempt in range(_TRIES):
            try:
                found = self._by_map(point)
            except LayerGone as error:
                if attempt == _TRIES - 1:
                    self.report(error, names.point(self.store.machine, point), points=(point,))
                found = set()
            else:
                if not found:
                    return
            self.missed |= found

    def _by_map(self, point: PointId) -> set[Segment]:
        """Segments that are missing, and weren't known to be before the map was made."""
        key = names.point(self.store.machine, point)
        try:
            point_map = PointMap(self.store, point, layers=False)
        except PointNotFound as error:
            if self.only or point.number in self.store.scan(point.timeline).live:
                self.report(error, key, points=(point,))
            return set()  # dropped meanwhile
        except Corrupt as error:
            self.report(error, key, points=(point,))
            return set()
        below: tuple[PointId, Record] | None = None
        for at, record in zip(point_map.points, point_map.layers, strict=True):
            for problem in self._layer(at, record, below):
                self.report(problem.cause, problem.object, points=(point,))
            below = (at, record)
        fresh: set[Segment] = set()
        for disk in point_map.disks:
            try:
                for info, rows in point_map.live_rows(disk):
                    try:
                        self._segment(point, info)
                        if self.deep:
                            self._frames(point, disk, info, rows)
                    except NotFound:
                        fresh.add(info.segment)
            except Corrupt as error:
                self.report(error, key, points=(point,))
        return fresh

    def _layer(self, at: PointId, record: Record, below: tuple[PointId, Record] | None) -> list[Problem]:
        """The record names its parent's record by its hash."""
        found = self.layers.get(record.key)
        if found is None:
            found = []
            try:
                if "/point/" in record.key:
                    sealed.check_bytes(record.key, self.store.objects.get(record.key))
                if below is not None and self.store.record_sha256(below[0]) != record.parent_sha256:
                    found.append(Problem(record.key, f"{at} was made on another {below[0]} than the one that is there"))
            except (Corrupt, NotFound, PointNotFound) as error:
                link = self.store.scan(at.timeline).link(at.number)
                if not isinstance(error, Corrupt) and (link is None or link[1] != record.key):
                    return []  # thinned meanwhile
                found.append(Problem(record.key, error.cause))
            self.layers[record.key] = found
        return found

    def _segment(self, point: PointId, info: SegmentInfo) -> None:
        """Length, header, footer and directory of a segment."""
        if info.segment not in self.checked:
            self.result.segments += 1
            self.checked[info.segment] = self._segment_problems(info)
        for problem in self.checked[info.segment]:
            self.report(problem.cause, problem.object, points=(point,))

    def _segment_problems(self, info: SegmentInfo) -> list[Problem]:
        objects = self.store.objects
        key = info.segment.key(self.store.machine)
        try:
            size = objects.size(key)
            if size != info.size:
                return [Problem(key, f"{key} has {size} bytes, {info.size} were written")]
            found = []
            if parse_header(key, objects.get_range(key, 0, HEADER_SIZE)) != info.random:
                found.append(Problem(key, f"{key} is not the segment that the record names"))
            offset, _, frames = parse_footer(key, objects.get_range(key, size - FOOTER_SIZE, FOOTER_SIZE))
            directory = read_directory(objects, self.store.keys, info)
            if offset != info.directory or frames != len(directory.first):
                found.append(Problem(key, f"{key}: footer and directory disagree"))
            return found
        except NotFound:
            if info.segment not in self.missed:
                raise
            return [Problem(key, f"{key} is missing")]
        except Corrupt as error:
            return [Problem(key, error.cause)]

    def _frames(self, point: PointId, disk: str, info: SegmentInfo, rows: Rows) -> None:
        """Every frame that the point needs opens and holds what the directory's digests say."""
        key = info.segment.key(self.store.machine)
        cipher = SegmentCipher(self.store.keys, info.segment, info.random)
        try:
            directory = read_directory(self.store.objects, self.store.keys, info)
        except (Corrupt, NotFound):
            directory = None  # reported with the segment
        rows = rows[rows["segment"] != ZERO]
        _, unique = np.unique(rows["frame"], return_index=True)
        for row in rows[unique]:
            number = int(row["frame"])
            name = (info.segment, number)
            if name not in self.frames:
                self.result.frames += 1
                self.frames[name] = self._frame(cipher, disk, info, row, directory)
            problem = self.frames[name]
            if problem is not None:
                self.report(
                    problem.cause,
                    key,
                    frame=number,
                    disk=disk,
                    first_block=problem.first_block,
                    blocks=problem.blocks,
                    points=(point,),
                )

    def _frame(self, cipher: SegmentCipher, disk: str, info: SegmentInfo, row: Any, directory: Any) -> Problem | None:
        key = info.segment.key(self.store.machine)
        number, first = int(row["frame"]), int(row["first"] - row["skip"])
        try:
            data = self.store.objects.get_range(key, int(row["offset"]), int(row["length"]))
            blocks = open_frame(self.store.keys, cipher, info.segment, disk, number, first, memoryview(data))
        except NotFound:
            if info.segment not in self.missed:
                raise
            return Problem(key, f"{key} is missing", number, disk, first)
        except Corrupt as error:
            return Problem(key, error.cause, number, disk, first, error.details.get("blocks"))
        if directory is not None:
            found = digests_.block_digests(self.store.keys, blocks)
            directory.check(row, key)
            start = int(directory.starts[number])
            if not np.array_equal(found, directory.digests[start : start + len(found)]):
                count = -(-len(blocks) // BLOCK)
                return Problem(key, f"{key}: frame {number} isn't what its digests say", number, disk, first, count)
        return None
