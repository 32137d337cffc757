"""What can be made again from what is there: points' records from their segments, layers, digest maps.

A point's last segment has a manifest. A record is rebuilt only if that is provably the point that was there:

* it wasn't dropped: no thinning record stands for it, and the boundary lies below it;
* its segments are all there and are those that the manifest names, and so is the point that it stands on;
* something names it by its hash (its successor's record or manifest, the end mark, a thinning record), and the record
  made again has that hash: it is then the very same object.

Where nothing names it, it may be the newest point, or one whose writer died before it was committed: nobody can tell.
It is reported, and made only for who asks for it, if it is the only one of its number that left anything.

Everything else is reported, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from homeport.domain.points import PointId
from homeport.store import digests as digests_
from homeport.store import layout, names, sealed
from homeport.store import manifest as manifests
from homeport.store.errors import AlreadyExists, Corrupt, NotFound, PointNotFound, StoreError
from homeport.store.manifest import Manifest
from homeport.store.names import Segment
from homeport.store.records import MemoryIndex, sha256
from homeport.store.segment import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Directory,
    SegmentInfo,
    parse_footer,
    parse_header,
    read_directory,
)
from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)


@dataclass
class Rebuilt:
    """``points``: whose records were made again; ``unproven``: newest points that left all their data, of which nothing
    tells whether they were ever committed; ``maps``: digest maps (keys); ``layers``: how many; ``problems``: what
    couldn't be, and why, in words."""

    points: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)
    layers: int = 0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def rebuild(
    store: MachineStore,
    *,
    newest: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rebuilt:
    """Make again what a machine lacks. ``newest``: also the newest point where nothing proves that it was committed;
    ``dry_run``: only say what would be. ``progress``: segments read, and in all.
    Who writes to a timeline of which a record is rebuilt is fenced. Raises StoreUnavailable."""
    work = _Rebuild(store, newest, dry_run)
    work.look(progress)
    for timeline in work.timelines:
        work.records(timeline)
    if not dry_run:
        work.derived()
    return work.result


class _Rebuild:
    def __init__(self, store: MachineStore, newest: bool, dry_run: bool) -> None:
        self.store = store
        self.newest = newest
        self.dry_run = dry_run
        self.result = Rebuilt()
        self.timelines: list[str] = []
        self.manifests: dict[PointId, list[Manifest]] = {}
        self.hashes: dict[PointId, set[str]] = {}
        self.made: dict[PointId, str] = {}
        """Rebuilt in this run, and their hashes."""
        self.fenced: set[str] = set()

    # -- what is there -------------------------------------------------------------------------------------------------

    def look(self, progress: Callable[[int, int], None]) -> None:
        prefix = names.timelines(self.store.machine)
        segments: list[Segment] = []
        seen: set[str] = set()
        for key, _ in self.store.objects.list(prefix):
            timeline, kind, *rest = key[len(prefix) :].split("/")
            seen.add(timeline)
            if kind == "segment":
                epoch, seq = rest[0].split("-")
                segments.append(Segment(timeline, int(epoch), int(seq)))
            elif kind in ("point", "thin", "part"):
                self.told(key, kind)
        known = [info.id for info in self.store.timelines()]
        self.timelines = known
        for timeline in sorted(seen - set(known)):
            self.result.problems.append(f"timeline {timeline} has no beginning: where it forked from can't be told")
        for done, segment in enumerate(segments, 1):
            self.manifest(segment)
            progress(done, len(segments))

    def told(self, key: str, kind: str) -> None:
        """What a record says of the one that it stands on."""
        kinds = {"point": sealed.POINT, "thin": sealed.THIN, "part": sealed.PART}
        try:
            head = self.store.record(key, kinds[kind]).head
        except (Corrupt, NotFound):
            return
        self.expects(head)
        for number, hashed in head.get("removed", ()):
            self.hashes.setdefault(PointId(head["timeline"], number), set()).add(hashed)

    def expects(self, head: dict[str, Any]) -> None:
        if head.get("parent") and head.get("parent_sha256"):
            self.hashes.setdefault(PointId.parse(head["parent"]), set()).add(head["parent_sha256"])

    def manifest(self, segment: Segment) -> None:
        try:
            info = self.info(segment)
            told = read_directory(self.store.objects, self.store.keys, info).manifest
            if told is None:
                return
            found = Manifest.parse(segment.key(self.store.machine), told)
        except (Corrupt, NotFound) as error:
            self.result.problems.append(error.cause)
            return
        if found.point.timeline != segment.timeline or found.segments[-1] != (segment.seq, info.random):
            self.result.problems.append(f"{found.key}: its manifest is of another segment")
            return
        self.manifests.setdefault(found.point, []).append(found)
        self.expects(found.head)

    def info(self, segment: Segment) -> SegmentInfo:
        """Of a segment, by itself. Raises NotFound, Corrupt."""
        key, objects = segment.key(self.store.machine), self.store.objects
        size = objects.size(key)
        random = parse_header(key, objects.get_range(key, 0, HEADER_SIZE))
        offset, length, _ = parse_footer(key, objects.get_range(key, size - FOOTER_SIZE, FOOTER_SIZE))
        if offset + length + FOOTER_SIZE != size:
            raise Corrupt(f"{key}: footer and size disagree", object=key)
        return SegmentInfo(segment, size, offset, random)

    # -- records -------------------------------------------------------------------------------------------------------

    def records(self, timeline: str) -> None:
        """Oldest first, as each needs the one before."""
        found = self.store.scan(timeline)
        boundary = layout.boundary(self.store.objects, self.store.machine, timeline)
        newest = max((number for number in found.records if self.usable(PointId(timeline, number))), default=-1)
        named = {point.number for point in self.hashes if point.timeline == timeline}
        mine = {point.number for point in self.manifests if point.timeline == timeline}
        for number in sorted(named | mine):
            point = PointId(timeline, number)
            if found.covered(number) or (number in found.records and self.usable(point)):
                continue
            if number not in named and (number < newest or self.is_part(point)):
                continue  # of a writer that was fenced, or a piece of a first copy
            try:
                if number < boundary:
                    raise Corrupt("it lies below what may have been dropped", object=str(point))
                self.record(point, replace=number in found.records)
            except (Corrupt, NotFound, PointNotFound, AlreadyExists) as error:
                self.result.problems.append(f"the record of {point} can't be rebuilt: {error.cause}")

    def usable(self, point: PointId) -> bool:
        key = names.point(self.store.machine, point)
        try:
            sealed.check_bytes(key, self.store.objects.get(key))
            self.store.layer(key)
        except (Corrupt, NotFound):
            return False
        return True

    def is_part(self, point: PointId) -> bool:
        """Of number 0, nothing but its successor tells whether it was a point or a piece of a first copy."""
        return point.number == 0

    def record(self, point: PointId, *, replace: bool) -> None:
        """Raises Corrupt (why it can't be), AlreadyExists."""
        expected = self.hashes.get(point, set())
        candidates = []
        why = "no segment tells of it"
        for found in self.manifests.get(point, ()):
            try:
                candidates.append((found, self.sealed(found, found.salt)))
            except (Corrupt, NotFound) as error:
                why = error.cause
        if expected:
            same = [(found, data) for found, data in candidates if sha256(data) in expected]
            if candidates and not same:
                why = "what its segments give is not the record that its successor names"
            if not same:
                raise Corrupt(why, object=str(point))
            data = same[0][1]
        else:
            if len(self.manifests.get(point, ())) > 1:
                raise Corrupt("several attempts at it are there, and nothing tells which one counts", object=str(point))
            if not candidates:
                raise Corrupt(why, object=str(point))
            if not self.newest:
                self.result.unproven.append(str(point))
                return
            # Nobody names it by its hash: sealed anew, as the same salt must never seal two different records.
            data = self.sealed(candidates[0][0], None)
        self.put(point, data, replace=replace)

    def sealed(self, found: Manifest, salt: bytes | None) -> bytes:
        """The record that a manifest gives. Raises Corrupt, NotFound: it isn't complete."""
        parent = found.parent
        if parent is not None and self.sha256_of(parent) != found.head["parent_sha256"]:
            raise Corrupt(f"it stands on another {parent} than the one that is there", object=found.key)
        own, infos = self.own(found)
        parts: list[MemoryIndex] = []
        pieces = {one.head["built"]: one for one in self.manifests.get(PointId(found.point.timeline, 0), ())}
        for built in found.parts:
            if built not in pieces:
                raise Corrupt("a piece of its first copy left no manifest", object=found.key)
            parts.append(self.own(pieces[built])[0])
        return manifests.record(self.store.keys, found, own, parts, infos, salt)

    def own(self, found: Manifest) -> tuple[MemoryIndex, list[SegmentInfo]]:
        infos: list[SegmentInfo] = []
        directories: list[Directory] = []
        for seq, random in found.segments:
            info = self.info(Segment(found.point.timeline, int(found.head["epoch"]), seq))
            if info.random != random:
                raise Corrupt(f"{info.segment.key(self.store.machine)} isn't the one it was", object=found.key)
            infos.append(info)
            directories.append(read_directory(self.store.objects, self.store.keys, info))
        return manifests.own_index(found, infos, directories), infos

    def sha256_of(self, parent: PointId) -> str:
        """Raises Corrupt: it isn't there."""
        if parent in self.made:
            return self.made[parent]
        try:
            return self.store.record_sha256(parent)
        except PointNotFound as error:
            raise Corrupt(f"it stands on {parent}, which isn't there", object=str(parent)) from error

    def put(self, point: PointId, data: bytes, *, replace: bool) -> None:
        self.made[point] = sha256(data)
        self.result.points.append(str(point))
        if self.dry_run:
            return
        if point.timeline not in self.fenced:
            # A writer that is alive after all must not go on beside what is made here.
            self.store.claim(point.timeline, "rebuild")
            self.fenced.add(point.timeline)
        key = names.point(self.store.machine, point)
        self.store.objects.put(key, data, if_absent=not replace)
        self.store.forget(key)
        log.warning("a record was rebuilt", key=key)

    # -- derived data --------------------------------------------------------------------------------------------------

    def derived(self) -> None:
        """Layers, and the digest maps of each timeline's newest point."""
        for timeline in self.timelines:
            try:
                while built := self.store.maintain(timeline):
                    self.result.layers += built
                last = self.store.last_point(timeline)
                if last is not None:
                    self.maps(last)
            except StoreError as error:
                self.result.problems.append(f"timeline {timeline}: {error.cause}")

    def maps(self, point: PointId) -> None:
        reader = self.store.open(point)
        for disk, size in reader.disks.items():
            key = names.digests(self.store.machine, point, disk)
            try:
                sealed.check_bytes(key, self.store.objects.get(key))
                sealed.open_object(self.store.objects, self.store.keys.key, self.store.keys.vault, key, sealed.DIGESTS)
                continue
            except NotFound:
                continue  # points need none; only what is damaged is replaced
            except Corrupt:
                self.store.objects.delete(key)
            found = reader.digests(disk)
            blocks = _all_blocks(found, size)
            built = self.store.layer(names.point(self.store.machine, point)).head["built"]
            self.store.objects.put(key, digests_.seal_map(self.store.keys, key, size, blocks, built))
            self.result.maps.append(key)


def _all_blocks(found: digests_.PointDigests, size: int) -> Any:
    import numpy as np

    from homeport.domain.units import BLOCK, MiB

    regions = -(-size // (16 * MiB))
    pieces = [found.blocks(region) for region in range(regions)]
    blocks = np.concatenate(pieces) if pieces else np.zeros((0, 16), np.uint8)
    return blocks[: -(-size // BLOCK)]
