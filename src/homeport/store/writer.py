"""The writer of a timeline: the only one whose points count, until another claims a newer epoch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homeport.domain.extents import Extents
from homeport.domain.logs import get_logger
from homeport.domain.points import PointId, PointInfo
from homeport.domain.units import BLOCK
from homeport.store import layout, names, sealed
from homeport.store.builder import PointBuilder
from homeport.store.crew import share_out
from homeport.store.errors import AlreadyExists, Fenced, NotFound, PointNotFound, StoreUnavailable
from homeport.store.names import Segment
from homeport.store.records import Record, all_rows
from homeport.store.segment import FOOTER_SIZE, HEADER_SIZE
from homeport.store.spool import BuiltPoint, SpooledPoint, folder_name
from homeport.store.uploads import Progress, Uploads

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)
UPLOADS = 4
"""Segments of a point that are uploaded at once, unless told otherwise."""
_AT_ONCE = 8
"""Records of parts fetched at once."""
Finished = SpooledPoint | BuiltPoint
"""A point that only has to be published: what :meth:`PointBuilder.finish` and ``finish_uploaded`` return."""


@dataclass(frozen=True)
class PartInfo:
    """What the parts of a first copy hold of one disk so far (zeroes included)."""

    disk: str
    ranges: Extents


class Writer:
    """Made by :meth:`homeport.store.timeline.MachineStore.writer`. One thread publishes; builders may be many."""

    def __init__(self, store: MachineStore, timeline: str, epoch: int, owner: str, uploads: int = UPLOADS) -> None:
        self._uploads = Uploads(self._put_segment, uploads)
        self.timeline = timeline
        self.epoch = epoch
        self.owner = owner
        self._store = store
        self._objects = store.objects
        self._machine = store.machine
        self._seqs = itertools.count(1)
        self._builders = itertools.count(1)
        self._hashes: dict[PointId, str] = {}
        self._parts: dict[int, str] = {}
        """Of the parts of a first copy, as far as they were looked at, what tells one attempt from another."""
        self._expected: set[int] | None = None
        """The parts that whoever copies knows of. None: nobody asked for them."""
        self._has_points = store.last_point(timeline) is not None

    def check(self) -> None:
        """Raises Fenced when another writer has taken over or the timeline has ended, StoreUnavailable."""
        newest = max(layout.epochs(self._objects, self._machine, self.timeline), default=0)
        if newest == 0:
            # An empty folder where a volume isn't mounted looks like this too, and comes back. A timeline that was
            # dropped doesn't; its writer is told so by whoever dropped it.
            raise StoreUnavailable(
                f"the store has nothing of timeline {self.timeline}, not even its beginning: is it the right one?"
            )
        if newest > self.epoch:
            raise Fenced(
                f"timeline {self.timeline} is written by another since (epoch {newest}, this writer has {self.epoch})",
                epoch=newest,
            )
        if newest < self.epoch:
            raise Fenced(f"timeline {self.timeline} is gone, or its store was set back")

    def close(self) -> None:
        """Nothing is on its way any more when this returns."""
        self._uploads.close()

    # -- building ------------------------------------------------------------------------------------------------------

    def builder(
        self, number: int, spool: Path, parent: PointId | None, *, upload: bool = False, early: bool = False
    ) -> PointBuilder:
        """Begin point ``number``, in a folder of its own within ``spool``.

        ``parent``: the point that it changes, in the store or complete in the same spool; None: it begins from nothing.
        Number 0 is for parts of a first copy (see :meth:`publish_part`) and for a whole import; the first point after
        parts is number 1 with the parent None, and takes all parts in. ``upload``: segments go into the store while
        others are being built (end with ``finish_uploaded``), instead of waiting in the spool for :meth:`publish`.
        ``early``: they wait there, and are on their way meanwhile, behind those of what was built before.
        """
        if number < 0 or (parent is not None and parent.timeline == self.timeline and number != parent.number + 1):
            raise ValueError(f"point {number} can't follow {parent}")
        point = PointId(self.timeline, number)
        if parent is not None and parent.timeline != self.timeline:
            self._store.timeline(self.timeline)
        return PointBuilder(
            self._store.keys,
            point,
            parent,
            self.epoch,
            spool / folder_name(point, self.epoch, next(self._builders)),
            next_seq=self._seqs.__next__,
            parent_sha256=lambda: self._sha256(parent, spool) if parent else None,
            parts=lambda: self._foldable(point, parent),
            upload=self._put_segment if upload else None,
            told=self._uploads.begin if early else None,
        )

    def _sha256(self, point: PointId, spool: Path | None) -> str:
        """Of a record, published or (newest first) waiting in the spool."""
        known = self._hashes.get(point)
        if known is None and spool is not None:
            known = next((s.record_sha256 for s in reversed(spooled_complete(spool, point))), None)
            if known is not None:
                return known
        if known is None:
            known = self._hashes[point] = self._store.record_sha256(point)
        return known

    def _foldable(self, point: PointId, parent: PointId | None) -> list[tuple[int, Record]]:
        """The parts that a point takes in: all, if it is the timeline's first. Raises Fenced where a part came there
        that its maker doesn't know of: from a writer that was paused, and newer than the point perhaps."""
        follows = parent is not None and parent.timeline == self.timeline
        if point.number == 0 or follows or self._has_points:
            return []
        parts = self._all_parts()
        strange = [number for number, _ in parts if self._expected is not None and number not in self._expected]
        if strange:
            what = f"part {strange[0]}"
            raise Fenced(f"another {what} is in the store already")
        return parts

    def part_records(self) -> list[tuple[int, Record]]:
        """The parts of the first copy that are there, the oldest first, each with its number. The first point takes in
        these and what this writer publishes afterwards, no others."""
        parts = self._all_parts()
        self._expected = {number for number, _ in parts}
        return parts

    def _all_parts(self) -> list[tuple[int, Record]]:
        numbers = layout.part_numbers(self._objects, self._machine, self.timeline)
        found = self._part_records(numbers)
        return [(number, found[number]) for number in numbers]

    def _part_records(self, numbers: list[int]) -> dict[int, Record]:
        found: dict[int, Record] = {}

        def fetch(number: int) -> None:
            found[number] = self._store.record(names.part(self._machine, self.timeline, number), sealed.PART)

        share_out(numbers, fetch, min(_AT_ONCE, 1 + len(numbers) // _AT_ONCE))
        return found

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, spooled: Finished, progress: Progress | None = None) -> PointInfo:
        """Bring a finished point into the store: its segments, then its record. The record is the commit.

        Idempotent, also across restarts and newer writers of the timeline, as long as the point's parent is the head.
        ``progress``: called with bytes done and in all. Raises Fenced (the source must not forget what the point
        carries), StoreUnavailable (try again).
        """
        point = spooled.point
        if point.timeline != self.timeline:
            raise ValueError(f"{point} is not of timeline {self.timeline}")
        self.check()
        record = self.record_of(spooled)
        if layout.boundary(self._objects, self._machine, self.timeline) > point.number:
            # Its number may have been published, dropped and deleted since.
            if self._dropped_sha256(point) != spooled.record_sha256:
                raise Fenced(f"{point} lies below what was dropped already, and is not the point that was there")
            return record.info(point, False)
        self._check_parent(point, record)
        self._upload(spooled, progress)
        self._create(names.point(self._machine, point), spooled.record(), f"point {point}")
        self._has_points = True
        self.check()
        if layout.boundary(self._objects, self._machine, self.timeline) > point.number:
            raise Fenced(f"{point} was dropped while it was published")
        self._hashes = {point: spooled.record_sha256}
        return record.info(point, False)

    def _dropped_sha256(self, point: PointId) -> str | None:
        try:
            return self._store.record_sha256(point)
        except PointNotFound:
            return None

    def record_of(self, spooled: Finished) -> Record:
        """What a finished point says. Raises Corrupt."""
        keys = self._store.keys
        key = names.point(self._machine, spooled.point)
        return Record(sealed.open_bytes(keys.key, keys.vault, key, sealed.POINT, spooled.record()))

    def require_fit(self, spooled: Finished) -> None:
        """That a point which isn't in the store can be published on what is there. Raises Fenced where it can't, nor
        ever will; StoreUnavailable, Corrupt."""
        self._check_parent(spooled.point, self.record_of(spooled))

    def _check_parent(self, point: PointId, record: Record) -> None:
        """The point stands on the head: no other point can have come between."""
        parent = record.parent
        if parent is None or parent.timeline != self.timeline:
            self._check_first(point, record)
        if parent is None:
            return
        try:
            found = self._sha256(parent, None)
        except PointNotFound:
            raise Fenced(f"{point} stands on {parent}, which is not in the store", parent=str(parent)) from None
        if found != record.parent_sha256:
            raise Fenced(f"{point} stands on another {parent} than the one in the store", parent=str(parent))

    def _check_first(self, point: PointId, record: Record) -> None:
        others = [number for number in self._store.scan(self.timeline).records if number != point.number]
        real = [number for number in others if not self._store.is_end(PointId(self.timeline, number))]
        if [number for number in real if number < point.number] or point.number > 1:
            raise Fenced(f"{point} doesn't stand on the timeline's points, and isn't its first")
        parts = set(layout.part_numbers(self._objects, self._machine, self.timeline))
        missing = parts - set(record.head["folds"])
        if missing and point.number not in self._store.scan(self.timeline).records:
            raise Fenced(f"{point} is the first point, but leaves out parts {sorted(missing)} of the first copy")

    def _upload(self, spooled: Finished, progress: Progress | None) -> None:
        """What isn't there yet: segments, several at a time, then digest maps."""
        wanted = [(segment, size, spooled.file(segment.file)) for segment, size in spooled.waiting]
        early = self._uploads.begun(segment for segment, _, _ in wanted)
        self._uploads.finish(wanted, progress)
        for segment, size, path in wanted:
            # It was taken before the store was looked at, by what may have been another folder in its place.
            if segment in early and not self._has(segment, size):
                log.warning("a segment that was sent early isn't in the store", segment=segment.file)
                self._put_segment(segment, path)
        for number, disk in enumerate(spooled.digest_maps):
            key = names.digests(self._machine, spooled.point, disk)
            # A map left by another attempt at this number would describe another content.
            self._put_or_replace(key, spooled.digest_map(number))

    def _has(self, segment: Segment, size: int) -> bool:
        try:
            return self._objects.size(segment.key(self._machine)) == size
        except NotFound:
            return False

    def _put_segment(self, segment: Segment, path: Path) -> None:
        """Upload a finished segment. It being there changes nothing: only a record makes it count. Raises Fenced
        (another segment has its key), StoreUnavailable."""
        key = segment.key(self._machine)
        if segment.epoch != self.epoch and self._has(segment, path.stat().st_size):
            # Of a session that ended between bringing it and being told so.
            return self._compare(key, path)
        try:
            self._objects.put_file(key, path)
        except AlreadyExists:
            self._compare(key, path)

    def _put_or_replace(self, key: str, data: bytes) -> None:
        try:
            self._objects.put(key, data)
        except AlreadyExists:
            if self._objects.get(key) != data:
                self.check()
                self._objects.put(key, data, if_absent=False)

    def _compare(self, key: str, path: Path) -> None:
        """A segment that is there already must be this one: same length, same random bytes, same end."""
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER_SIZE)
            file.seek(size - FOOTER_SIZE)
            end = file.read()
        same = (
            self._objects.size(key) == size
            and self._objects.get_range(key, 0, HEADER_SIZE) == start
            and self._objects.get_range(key, size - FOOTER_SIZE, FOOTER_SIZE) == end
        )
        if not same:
            raise Fenced(f"{key} is there already, written by another")

    def _create(self, key: str, data: bytes, what: str) -> None:
        try:
            self._objects.put(key, data)
        except AlreadyExists:
            try:
                there = self._objects.get(key)
            except NotFound:
                raise Fenced(f"{what} was there and is gone") from None
            if there != data:
                raise Fenced(f"another {what} is in the store already") from None

    # -- the first copy ------------------------------------------------------------------------------------------------

    def publish_part(self, spooled: Finished, progress: Progress | None = None) -> None:
        """Bring a piece of a first copy into the store: hidden, until the first point takes it in. Idempotent."""
        if spooled.point.timeline != self.timeline:
            raise ValueError(f"{spooled.point} is not of timeline {self.timeline}")
        self.check()
        keys = self._store.keys
        data = spooled.record()
        old = sealed.open_bytes(keys.key, keys.vault, names.point(self._machine, spooled.point), sealed.POINT, data)
        if old.head["folds"]:
            raise ValueError("a part can't take in other parts: build it as number 0")
        numbers = layout.part_numbers(self._objects, self._machine, self.timeline)
        fresh = self._part_records([number for number in numbers if number not in self._parts])
        self._parts |= {number: record.head["built"] for number, record in fresh.items()}
        there = [number for number in numbers if self._parts[number] == old.head["built"]]
        if there:
            self._expect(there[0])
            return
        if self._store.last_point(self.timeline) is not None:
            raise Fenced(f"timeline {self.timeline} has points already: its first copy is over")
        self._upload(spooled, progress)
        number = max(numbers, default=0) + 1
        key = names.part(self._machine, self.timeline, number)
        sections = [old.section(section) for section in range(1, len(old.head["sections"]) + 1)]
        head = {**old.head, "kind": "part", "number": number}
        self._create(key, self._store.seal(key, sealed.PART, head, sections), f"part {number}")
        self._parts[number] = old.head["built"]
        self._expect(number)
        self.check()

    def _expect(self, part: int) -> None:
        if self._expected is not None:
            self._expected.add(part)

    def wrote_all_parts(self) -> bool:
        """Every part of the first copy is by a writer of this one's owner."""
        epochs = {int(record.head["epoch"]) for _, record in self.part_records()} - {self.epoch}
        return all(self._store.owner_of(self.timeline, epoch) == self.owner for epoch in sorted(epochs))

    def parts(self) -> list[PartInfo]:
        """How far the first copy is, by disk: what needn't be copied again. Empty once the first point is there."""
        if self._store.last_point(self.timeline) is not None:
            return []
        ranges: dict[str, Extents] = {}
        for _, part in self.part_records():
            for disk in part.index_disks():
                rows = all_rows(part, disk)
                found = Extents.of(zip((rows["first"] * BLOCK).tolist(), (rows["count"] * BLOCK).tolist(), strict=True))
                found = found.clip(0, part.disks[disk])
                ranges[disk] = ranges.get(disk, Extents()).union(found)
        return [PartInfo(disk, found) for disk, found in sorted(ranges.items())]


def spooled_complete(spool: Path, point: PointId) -> list[SpooledPoint]:
    """Complete attempts at a point in a spool that others may be building in: nothing is deleted."""
    result = []
    for path in sorted(spool.glob(f"{point.timeline}-{point.number:016d}-*")):
        try:
            result.append(SpooledPoint(path))
        except ValueError:
            continue
    return result
