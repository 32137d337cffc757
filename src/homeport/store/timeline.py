"""The recovery points of one machine: its timelines, and everything that can be asked of them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId, PointInfo
from homeport.domain.units import MiB
from homeport.store import layout, leases, names, sealed
from homeport.store.cache import Cache
from homeport.store.chain import Link, chain
from homeport.store.errors import (
    AlreadyExists,
    Corrupt,
    Fenced,
    NotFound,
    PointNotFound,
    StoreError,
    TimelineNotFound,
)
from homeport.store.frame_cache import FrameCache
from homeport.store.index import Rows
from homeport.store.keys import MachineKey
from homeport.store.leases import Lease
from homeport.store.names import Segment
from homeport.store.objects import Objects
from homeport.store.reader import PointReader
from homeport.store.records import Record, sha256
from homeport.store.segment import Directory, SegmentCipher
from homeport.store.table import SegmentTable
from homeport.store.worth import THRESHOLD
from homeport.store.writer import UPLOADS, Writer

if TYPE_CHECKING:
    from homeport.store.compact import Compacted
    from homeport.store.expire import Expired
    from homeport.store.verify import Verified

log = get_logger(__name__)

_LINKS = {"point": sealed.POINT, "thin": sealed.THIN, "layer": sealed.LAYER}
_AT_ONCE = 8
"""Records fetched at once."""
_HEAD_READ = 8 << 10
"""Bytes asked for where only the head is wanted."""
_HASH_READ = 8 * MiB


@dataclass(frozen=True)
class TimelineInfo:
    """``parent``: the point that this timeline forks from, its data shared; ``origin``: a point (of another store
    perhaps) that this timeline begins at, named only; ``created``: UTC."""

    id: str
    parent: PointId | None
    origin: PointId | None
    created: datetime
    ended: bool


class MachineStore:
    """All timelines of a machine. Thread-safe. What it opened stays in caches of bounded size, which readers share."""

    def __init__(self, objects: Objects, keys: MachineKey, *, cache_bytes: int = 64 * MiB) -> None:
        """``cache_bytes``: decoded frames kept in memory."""
        self.objects = objects
        self.keys = keys
        self.machine = keys.machine
        self.frames = FrameCache(cache_bytes)
        self.index_rows: Cache[Rows] = Cache(64 * MiB, lambda rows: rows.nbytes + 64)
        self.directories: Cache[Directory] = Cache(32 * MiB, lambda found: found.digests.nbytes * 3 + 1024)
        self.ciphers: Cache[SegmentCipher] = Cache(4096, lambda _: 1)
        self._records: Cache[Record] = Cache(64 * MiB, lambda record: len(record.opened.have) + 4096)
        self._segments: Cache[SegmentTable] = Cache(32 * MiB, lambda table: table.rows.nbytes + 256)
        self._infos: dict[str, PointInfo | None] = {}
        self._distrusted: set[tuple[str, bytes]] = set()
        #: of each timeline, how many runs of layers' shortest length were seen to; and runs that can't have a layer
        self.layered: dict[str, int] = {}
        self.unlayered: set[tuple[str, int, int]] = set()
        #: by key of a record: the segments that it names; of a thinning record: those that it freed
        self.named: dict[str, frozenset[Segment]] = {}
        self.freed: dict[str, frozenset[Segment]] = {}

    # -- records -------------------------------------------------------------------------------------------------------

    def record(self, key: str, kind: sealed.Kind) -> Record:
        """An opened record. Raises NotFound, Corrupt, StoreUnavailable."""
        found = self._records.get(key)
        if found is None:
            found = Record(sealed.open_object(self.objects, self.keys.key, self.keys.vault, key, kind))
            self._records.put(key, found)
        return found

    def layer(self, key: str) -> Record:
        """The record under a point's, thinning record's or layer's key."""
        return self.record(key, _LINKS[key.rsplit("/", 2)[1]])

    def remembers(self, key: str) -> bool:
        """The record can be had without asking the storage."""
        return key in self._records

    def segments_of(self, record: Record) -> SegmentTable:
        """The segments that a record names, remembered."""
        found = self._segments.get(record.key)
        if found is None:
            found = self._segments.put(record.key, record.segments)
        return found

    def forget(self, key: str) -> None:
        """The object is gone: drop what is remembered of it."""
        self._records.drop(key)
        self._segments.drop(key)
        self._infos.pop(key, None)
        self.named.pop(key, None)
        self.freed.pop(key, None)

    def distrust(self, layer: Record) -> None:
        """A layer turned out to be damaged or out of date: it is left aside from now on."""
        log.info("a layer is left aside", key=layer.key)
        self._distrusted.add((layer.key, layer.opened.salt))
        self.forget(layer.key)

    def trusts(self, layer: Record) -> bool:
        return (layer.key, layer.opened.salt) not in self._distrusted

    def seal(self, key: str, kind: sealed.Kind, head: dict[str, Any], sections: Sequence[bytes] = ()) -> bytes:
        return sealed.seal(self.keys.key, self.keys.vault, key, kind, head, sections)

    def put_sealed(self, key: str, kind: sealed.Kind, head: dict[str, Any], *, if_absent: bool = True) -> None:
        self.objects.put(key, self.seal(key, kind, head), if_absent=if_absent)

    def open_sealed(self, key: str, kind: sealed.Kind) -> dict[str, Any]:
        return sealed.open_object(self.objects, self.keys.key, self.keys.vault, key, kind).head

    def scan(self, timeline: str) -> layout.Layout:
        return layout.scan(self.objects, self.machine, timeline)

    # -- timelines -----------------------------------------------------------------------------------------------------

    def timelines(self) -> list[TimelineInfo]:
        """All timelines of the machine, oldest first."""
        found = [self.timeline(timeline) for timeline in self.timeline_ids()]
        return sorted(found, key=lambda info: (info.created, info.id))

    def timeline_ids(self) -> list[str]:
        prefix = names.timelines(self.machine)
        return sorted(
            {key[len(prefix) :].split("/")[0] for key, _ in self.objects.list(prefix) if key.endswith("/timeline")}
        )

    def timeline(self, timeline: str) -> TimelineInfo:
        """Raises TimelineNotFound."""
        head = self._timeline_head(timeline)
        return TimelineInfo(
            timeline,
            PointId.parse(head["parent"]) if head["parent"] else None,
            PointId.parse(head["origin"]) if head["origin"] else None,
            datetime.fromisoformat(head["created"]),
            self.ended(timeline),
        )

    def _timeline_head(self, timeline: str) -> dict[str, Any]:
        try:
            return self.open_sealed(names.timeline(self.machine, timeline) + "timeline", sealed.TIMELINE)
        except NotFound:
            raise TimelineNotFound(f"machine {self.machine} has no timeline {timeline} here") from None

    def create_timeline(self, id: str, *, parent: PointId | None = None, origin: PointId | None = None) -> None:
        """Idempotent. ``parent``: a point of this store to fork from. Raises PointNotFound (parent), StoreError
        (``store.other-timeline``: it is there with another parent or origin)."""
        if parent is not None:
            self._must_be_offered(parent)
        key = names.timeline(self.machine, id) + "timeline"
        head = {
            "timeline": id,
            "parent": str(parent) if parent else None,
            "origin": str(origin) if origin else None,
            "created": datetime.now(UTC).isoformat(),
        }
        try:
            self.put_sealed(key, sealed.TIMELINE, head)
        except AlreadyExists:
            there = self._timeline_head(id)
            if (there["parent"], there["origin"]) != (head["parent"], head["origin"]):
                raise StoreError(
                    f"timeline {id} is there already, from parent {there['parent']} and origin {there['origin']}",
                    code="store.other-timeline",
                ) from None
            if parent is not None:
                self._must_be_offered(parent)  # who made it may be about to take it back
            return
        if parent is not None:
            try:
                self._must_be_offered(parent)
            except PointNotFound:
                # Its parent was dropped at the same time. Another who creates it may have found that withdrawn, though.
                if not layout.epochs(self.objects, self.machine, id):
                    self.objects.delete(key)
                raise

    def points(self, timeline: str, *, hidden: bool = False) -> list[PointInfo]:
        """The points that are offered, oldest first; with ``hidden`` also those that no longer are."""
        found = self.scan(timeline)
        wanted = [PointId(timeline, number) for number in found.live if hidden or number > found.hidden_upto]
        fresh = [point for point in wanted if names.point(self.machine, point) not in self._infos]
        if len(fresh) >= _AT_ONCE:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda point: self._info(point, False), fresh))
        infos = [self._info(point, point.number <= found.hidden_upto) for point in wanted]
        return [info for info in infos if info is not None]

    def _info(self, point: PointId, hidden: bool) -> PointInfo | None:
        """None: it is the END mark, or was deleted just now."""
        key = names.point(self.machine, point)
        if key not in self._infos:
            try:
                record = self._records.get(key) or Record(
                    sealed.open_object(
                        self.objects, self.keys.key, self.keys.vault, key, sealed.POINT, first_read=_HEAD_READ
                    )
                )
            except NotFound:
                return None
            self._infos[key] = None if record.ended else record.info(point, False)
        info = self._infos[key]
        return replace(info, hidden=True) if info and hidden else info

    def is_end(self, point: PointId) -> bool:
        """The number is taken by the END mark."""
        try:
            return self.layer(names.point(self.machine, point)).ended
        except NotFound:
            return False

    def last_point(self, timeline: str, found: layout.Layout | None = None) -> PointId | None:
        """The newest real point of the timeline itself, hidden or not."""
        for number in reversed((found or self.scan(timeline)).live):
            if self._info(PointId(timeline, number), False) is not None:
                return PointId(timeline, number)
        return None

    def head(self, timeline: str) -> PointId | None:
        """The newest point (hidden or not); else the point that the timeline forks from; else None."""
        last = self.last_point(timeline)
        if last is not None:
            return last
        parent = self._timeline_head(timeline)["parent"]
        return PointId.parse(parent) if parent else None

    def ended(self, timeline: str) -> bool:
        live = self.scan(timeline).live
        return bool(live) and self.is_end(PointId(timeline, live[-1]))

    def end(self, timeline: str, reason: str) -> PointId | None:
        """End the timeline for good: no writer can add a point any more, whatever it believes. Idempotent.
        Returns its last point (None: it has none)."""
        self._timeline_head(timeline)
        while True:
            found = self.scan(timeline)
            last = self.last_point(timeline, found)
            # Without a point, the first could be 0 or 1: both are taken.
            wanted = [last.number + 1] if last else [0, 1]
            missing = [number for number in wanted if number not in found.records]
            if not missing:
                return last
            epoch = self.claim(timeline, f"end: {reason}")
            head = {
                "kind": "end",
                "timeline": timeline,
                "reason": reason,
                "epoch": epoch,
                "parent": str(last) if last else None,
                "parent_sha256": self.record_sha256(last) if last else None,
                "instant": datetime.now(UTC).isoformat(),
            }
            for number in missing:
                # One that is taken just now is a point of a writer that didn't know yet: the mark goes behind it.
                with contextlib.suppress(AlreadyExists):
                    key = names.point(self.machine, PointId(timeline, number))
                    self.put_sealed(key, sealed.POINT, {**head, "number": number})

    def hide(self, timeline: str, upto: int) -> None:
        """Points up to this number are no longer offered. Their data stays until they are expired."""
        self._timeline_head(timeline)
        with contextlib.suppress(AlreadyExists):
            self.put_sealed(names.hide(self.machine, timeline, upto), sealed.HIDE, {"timeline": timeline, "upto": upto})
        for key, _ in list(self.objects.list(names.timeline(self.machine, timeline) + "hide/")):
            if key < names.hide(self.machine, timeline, upto):
                self.objects.delete(key)

    # -- points --------------------------------------------------------------------------------------------------------

    def open(self, point: PointId) -> PointReader:
        """For reading. Raises PointNotFound, Corrupt."""
        return PointReader(self, point)

    def chain(self, point: PointId, *, dropped: bool = False, layers: bool = True) -> list[Link]:
        """The records that a point is made of, newest first. See :func:`homeport.store.chain.chain`."""
        return chain(self, point, dropped=dropped, layers=layers)

    def record_sha256(self, point: PointId) -> str:
        """The SHA-256 of the point's record, which its successor names; also of dropped points.
        Raises PointNotFound."""
        found = self.scan(point.timeline)
        over = found.thin_over(point.number)
        if over is not None:
            removed = dict(self.layer(found.thin_key(over)).head["removed"])
            if point.number in removed:
                return str(removed[point.number])
        try:
            return _sha256(self.objects, names.point(self.machine, point))
        except NotFound:
            raise PointNotFound(f"there is no recovery point {point}", point=str(point)) from None

    def _must_be_offered(self, point: PointId) -> None:
        found = self.scan(point.timeline)
        if found.covered(point.number) or point.number not in found.records or self.is_end(point):
            raise PointNotFound(f"there is no recovery point {point}", point=str(point))

    # -- writing -------------------------------------------------------------------------------------------------------

    def claim(self, timeline: str, owner: str) -> int:
        """The next epoch of the timeline: writers of older ones are fenced from now on."""
        while True:
            number = max(layout.epochs(self.objects, self.machine, timeline), default=0) + 1
            head = {"timeline": timeline, "epoch": number, "owner": owner, "claimed": datetime.now(UTC).isoformat()}
            try:
                self.put_sealed(names.epoch(self.machine, timeline, number), sealed.EPOCH, head)
            except AlreadyExists:
                continue
            return number

    def owner_of(self, timeline: str, epoch: int) -> str:
        """Who claimed that epoch. Raises NotFound."""
        return str(self.open_sealed(names.epoch(self.machine, timeline, epoch), sealed.EPOCH)["owner"])

    def writer(self, timeline: str, owner: str, uploads: int = UPLOADS) -> Writer:
        """Take the timeline over: every other writer is fenced. ``uploads``: segments at once.
        Raises Fenced (it has ended), TimelineNotFound."""
        self._timeline_head(timeline)
        if self.ended(timeline):
            raise Fenced(f"timeline {timeline} has ended")
        epoch = self.claim(timeline, owner)
        self._timeline_head(timeline)  # it may have been taken back before the claim was seen
        if self.ended(timeline):
            raise Fenced(f"timeline {timeline} has ended")
        return Writer(self, timeline, epoch, owner, uploads)

    # -- leases --------------------------------------------------------------------------------------------------------

    def lease(self, point: PointId, owner: str, seconds: float) -> None:
        """Keep a point from being dropped for ``seconds`` from now. Again: renewed. Raises PointNotFound."""
        self._must_be_offered(point)
        leases.put_lease(self.objects, self.keys, point, owner, seconds)
        try:
            self._must_be_offered(point)
        except PointNotFound:
            leases.delete_lease(self.objects, self.keys, point, owner)
            raise

    def release(self, point: PointId, owner: str) -> None:
        """Absent: fine."""
        leases.delete_lease(self.objects, self.keys, point, owner)

    def leases(self) -> list[Lease]:
        """Those that have not expired."""
        return leases.list_leases(self.objects, self.keys)

    # -- descriptions --------------------------------------------------------------------------------------------------

    def describe(self, description: dict[str, Any]) -> None:
        """Keep a description of the machine (and of what protects it) beside its points. The same again: nothing."""
        while True:
            keys = [key for key, _ in self.objects.list(names.descriptions(self.machine))]
            if keys and self._description(keys[-1]) == description:
                return
            number = int(keys[-1].rsplit("/", 1)[1]) + 1 if keys else 1
            try:
                self.put_sealed(
                    names.description(self.machine, number), sealed.DESCRIPTION, {"description": description}
                )
            except AlreadyExists:
                continue
            return

    def description(self) -> dict[str, Any] | None:
        """The newest description that can be opened."""
        keys = [key for key, _ in self.objects.list(names.descriptions(self.machine))]
        return self._description(keys[-1]) if keys else None

    def descriptions(self) -> Iterator[dict[str, Any]]:
        """All of them, newest first; one that can't be opened is passed over."""
        for key, _ in reversed(list(self.objects.list(names.descriptions(self.machine)))):
            with contextlib.suppress(Corrupt, NotFound):
                yield self._description(key)

    def _description(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.open_sealed(key, sealed.DESCRIPTION)["description"]
        return found

    # -- care (loaded when it is asked for: most commands only read or write) ------------------------------------

    def expire(self, timeline: str, drop: Sequence[int]) -> Expired:
        """Drop points by number, and clear leftovers. See :func:`homeport.store.expire.expire`."""
        from homeport.store.expire import expire

        return expire(self, timeline, drop)

    def compact(
        self,
        timeline: str,
        *,
        threshold: float = THRESHOLD,
        budget: int | None = None,
        dry_run: bool = False,
        spool: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Compacted:
        """Give back the space of what no point can see. See :func:`homeport.store.compact.compact`."""
        from homeport.store.compact import compact

        return compact(
            self, timeline, threshold=threshold, budget=budget, dry_run=dry_run, spool=spool, progress=progress
        )

    def maintain(self, timeline: str, newest: int | None = None, *, limit: int = 8) -> int:
        """Keep opening points fast. See :func:`homeport.store.layers.build_layers`."""
        from homeport.store.layers import build_layers

        return build_layers(self, timeline, limit, newest)

    def verify(
        self,
        point: PointId | None = None,
        *,
        deep: bool = False,
        expect_head: PointId | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verified:
        """Look for damage. See :func:`homeport.store.verify.verify`."""
        from homeport.store.verify import verify

        return verify(self, point, deep=deep, expect_head=expect_head, progress=progress)

    def purge(self, timeline: str | None = None) -> None:
        """Delete everything of the machine, or of one timeline that no other forks from, without regard to leases.
        Raises StoreError (``store.timeline-in-use``)."""
        if timeline is None:
            prefix = names.machine(self.machine)
            last = names.machine_keys(self.machine)
        else:
            forks = [info.id for info in self.timelines() if info.parent and info.parent.timeline == timeline]
            if [fork for fork in forks if fork != timeline]:
                raise StoreError(f"timeline {timeline} is what {forks} fork from", code="store.timeline-in-use")
            prefix = names.timeline(self.machine, timeline)
            last = prefix + "timeline"
            for lease in self.leases():
                if lease.point.timeline == timeline:
                    self.release(lease.point, lease.owner)
        # What opens the rest goes last, so that an interrupted purge can be repeated.
        for key in sorted((key for key, _ in self.objects.list(prefix)), key=lambda key: key.startswith(last)):
            self.objects.delete(key)
            self.forget(key)


def _sha256(objects: Objects, key: str) -> str:
    """Of an object, read piece by piece. Raises NotFound."""
    size = objects.size(key)
    if size <= _HASH_READ:
        return sha256(objects.get(key))
    digest = hashlib.sha256()
    for start in range(0, size, _HASH_READ):
        digest.update(objects.get_range(key, start, min(_HASH_READ, size - start)))
    return digest.hexdigest()
