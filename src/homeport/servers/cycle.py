"""One item's replication cycle: source → frames → cache (handed) → store (committed).

    begin_point ──▶ read what changed ──▶ builder ──▶ spool, fsynced ──▶ handed ──▶ publish ──▶ commit
        source                                          process server                store        source

Truth is the store's head and the tracker's base. The digest files and the spool are re-derived or done without.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.units import BLOCK
from homeport.servers.cache_room import CacheFull, CacheRoom
from homeport.servers.difference import Base, Difference, FileBase, PointBase, differing_regions, mismatches
from homeport.servers.digest_file import UNKNOWN, DigestFile, Digests, known
from homeport.servers.first_copy import FirstCopy, Look, of_parts
from homeport.servers.group_barrier import Attendance
from homeport.servers.replication_spec import ReplicationSpec
from homeport.servers.traffic import Traffic
from homeport.sources.interface import DiskView, Knowledge, PointView, Source
from homeport.sources.verify import sample_clean_blocks
from homeport.store.builder import PointBuilder
from homeport.store.errors import Corrupt, Fenced, PointNotFound, StoreUnavailable
from homeport.store.reader import PointReader
from homeport.store.spool import SpooledPoint, spooled_points
from homeport.store.timeline import MachineStore
from homeport.store.uploads import Progress
from homeport.store.writer import UPLOADS

log = structlog.get_logger(__name__)

SAMPLED_BLOCKS = 64


@dataclass
class Taken:
    """What became of a point: ``found_by`` says how its changes were found, per disk."""

    point: PointId
    instant: str
    consistency: Consistency
    logical_bytes: int
    stored_bytes: int
    found_by: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    group: str | None = None
    changed: dict[str, int] = field(default_factory=dict)
    """Bytes of each disk that the point carries, in whole blocks."""


class Cycle:
    """Takes points of one machine on one timeline. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        spec: ReplicationSpec,
        source: Source,
        store: MachineStore,
        own_store: MachineStore,
        cache: Path,
        owner: str,
        look: Look,
        machine: Callable[[], dict[str, Any]],
        room: CacheRoom | None = None,
        threads: int = UPLOADS,
        shipped: Progress | None = None,
        claimed: Callable[[int], None] = lambda epoch: None,
        traffic: Traffic | None = None,
    ) -> None:
        """``room``: in the cache (None: all of its volume's). ``threads``: that ship at once. ``shipped``: told bytes
        done and in all after each segment of a point, by whichever thread; raises to stop. ``claimed``: told the
        epoch in which this one writes, before anything else is done. ``traffic``: told what disks change and what of it
        is shipped."""
        self._shipped = shipped
        self._traffic = traffic or Traffic()
        self._room = room or CacheRoom(cache)
        self._spec = spec
        self._source = source
        self._store = store
        self._own_store = own_store
        self._cache = cache
        self._look = look
        self._machine = machine
        self._spool = cache / "spool" / spec.timeline
        self._digest_folder = cache / "digests" / spec.timeline
        self._files: dict[str, DigestFile] = {}
        self._writer = store.writer(spec.timeline, owner, threads)
        claimed(self._writer.epoch)
        self._resync = False
        self._early = False
        """Whether segments may leave while their point is built: those of one that is given up stay in the store. So
        not before one came to its end."""
        self._incarnation: str | None = None
        self._pending = self._still_ours(spooled_points(self._spool))
        self._head = self._pending[-1].point if self._pending else store.head(spec.timeline)
        if self._pending:
            self._incarnation = self._writer.record_of(self._pending[-1]).head["incarnation"]
        if self._head is not None:
            shutil.rmtree(cache / "part", ignore_errors=True)  # of a first copy that another process server finished
        source.recover([spooled.point for spooled in self._pending])

    @property
    def head(self) -> PointId | None:
        """The newest point that is handed; it may still wait in the cache."""
        return self._head

    @property
    def backlog(self) -> int:
        """Points waiting in the cache for the store."""
        return len(self._pending)

    @property
    def oldest(self) -> float | None:
        """When the point that has waited longest was handed (seconds since the epoch); None: none waits."""
        return self._pending[0].handed if self._pending else None

    @property
    def full(self) -> CacheFull | None:
        """Why no point may be begun now."""
        try:
            self._room.require(self.backlog)
        except CacheFull as error:
            return error
        return None

    def resync(self) -> None:
        """The next point compares everything by digests."""
        self._resync = True

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._writer.close()
        self._source.close()

    def _still_ours(self, spooled: list[SpooledPoint]) -> list[SpooledPoint]:
        """What waits in the cache, if it is in the store as it is here, or can still come there. Otherwise another
        process server replicated since, from what is in the store (from parts of a first copy, perhaps, that a first
        point which waits here lacks), and all that this one has is void, or there. Its source was not told to forget:
        what it carried is taken again."""
        if not spooled or self._fits(spooled):
            return spooled
        log.warning(
            "another process server replicated meanwhile: what waits here is dropped",
            item=self._spec.item, points=len(spooled), from_point=str(spooled[0].point),
        )  # fmt: skip
        self._void_digests()
        for each in spooled:
            each.remove()
        return []

    def _void_digests(self) -> None:
        """They are of what isn't in the store, or not all that is."""
        shutil.rmtree(self._digest_folder, ignore_errors=True)

    def _fits(self, spooled: list[SpooledPoint]) -> bool:
        head = self._store.head(self._spec.timeline)
        newest = head.number if head is not None and head.timeline == self._spec.timeline else -1
        there = [one for one in spooled if one.point.number <= newest]
        ahead = spooled[len(there) :]
        if not ahead and there[-1].point.number < newest:
            return False  # the other one went on, from these perhaps
        try:
            if any(self._store.record_sha256(one.point) != one.record_sha256 for one in there):
                return False
            if ahead:
                self._writer.require_fit(ahead[0])
        except (PointNotFound, Fenced):  # published and thinned away since; or it stands on what isn't there
            return False
        return True

    # ── shipping ────────────────────────────────────────────────────────────────────────────────────────────────

    def ship(self) -> list[PointInfo]:
        """Publish what waits in the cache, in order. Raises StoreUnavailable (the rest goes on waiting), Fenced."""
        published = []
        while self._pending:
            published.append(self.publish(self._pending[0]))
            self.published(self._pending[0])
        return published

    @property
    def waiting(self) -> list[SpooledPoint]:
        """What waits in the cache, the oldest first."""
        return list(self._pending)

    def publish(self, spooled: SpooledPoint) -> PointInfo:
        """Bring what waits longest into the store: the one call that another thread may make, one at a time, while
        points are taken; ``published`` must follow in the cycle's own. Raises StoreUnavailable, Fenced."""
        return self._writer.publish(spooled, self._shipped)

    def published(self, spooled: SpooledPoint) -> None:
        """It is in the store: its source may forget, and so may the cache."""
        assert spooled is self._pending[0]
        self._source.commit(spooled.point)
        self._traffic.note_shipped(spooled.stored)
        spooled.remove()
        self._pending.pop(0)

    @property
    def needs_store(self) -> bool:
        """Whether the next point is compared with what the store has: all that waits should be there, then."""
        head = self._head
        return head is not None and (self._resync or self._incarnation is None or not self._digests_valid_for(head))

    # ── the first copy ──────────────────────────────────────────────────────────────────────────────────────────

    def first_copy(self) -> None:
        """Copy all disks live, in hidden parts; resumable while the tracker lives. The first point is what changed
        meanwhile. Raises CacheFull, StoreUnavailable, SourceError."""
        copy = FirstCopy(
            self._spec, self._source, self._writer, self._cache / "part", self._room, self._file,
            self._machine, self._look, self._shipped, self._traffic,
        )  # fmt: skip
        self._incarnation = copy.run()

    # ── points ──────────────────────────────────────────────────────────────────────────────────────────────────

    def take_point(
        self,
        consistency: Consistency = Consistency.CRASH,
        tags: tuple[str, ...] = (),
        attendance: Attendance | None = None,
        *,
        last: bool = False,
    ) -> Taken:
        """Take a point and hand it to the cache. ``attendance``: at the round of the machine's group, whose instant the
        point shall be of. ``last``: it is taken as long as anything fits into the cache. Raises SourceError, CacheFull;
        the changes are put back then."""
        if not last:
            self._room.require(self.backlog)
        head = self._head
        number = head.number + 1 if head and head.timeline == self._spec.timeline else 1
        point = PointId(self._spec.timeline, number)
        base = self._tracker_base(head)
        self._confirm_ours(base)
        reader = self._reader(head, base)
        with attendance or nullcontext():
            view = self._source.begin_point(
                point, base, consistency, incarnation=self._incarnation_of(base, reader), cut=attendance
            )
        group = attendance.mark if attendance else None
        if attendance and attendance.trouble:
            view = replace(view, notes=(*view.notes, f"not of one instant with its group: {attendance.trouble}"))
        try:
            spooled, found_by, complete = self._build(view, head, base, reader, tags, group)
        except BaseException as error:
            self._source.abort(point)
            if _no_space(error):
                raise CacheFull(f"the process server's cache is full: {error}") from error
            raise
        self._source.handed(point)
        self._head = point
        self._incarnation = view.incarnation
        self._pending.append(spooled)
        changed = self._remember(view, spooled, complete)
        self._traffic.note_changed(changed)
        self._resync = False
        notes = list(view.notes)
        return Taken(
            point, view.instant.isoformat(), view.consistency, spooled.logical_bytes, spooled.stored_bytes,
            found_by, notes, group, changed,
        )  # fmt: skip

    def _confirm_ours(self, base: PointId) -> None:
        """Where the tracker isn't as this one left it, or has something newer, another process server may have the
        machine: whoever has lost it must not disturb the other's view, nor send anything. Raises Fenced, SourceError.
        While the store is away points go on: what is published is checked again."""
        if self._incarnation is None:
            return
        newest = next(reversed(self._source.tracked().items()), None)
        if newest == (base, self._incarnation):
            return
        self._early = False
        with suppress(StoreUnavailable):
            self._writer.check()

    def _tracker_base(self, head: PointId | None) -> PointId:
        """What to ask the tracker for."""
        if head is None:
            return PointId(self._spec.timeline, 0)
        start = head.timeline != self._spec.timeline or head.number == 0
        if start and self._spec.tracker_base and head not in self._source.tracked():
            return self._spec.tracker_base
        return head

    def _reader(self, head: PointId | None, base: PointId) -> PointReader | None:
        """The head as it lies in the store, to compare with; None where the tracker and the digest files will do (a
        point that waits in the cache can't be read there yet)."""
        if head is None or self._pending:
            return None
        usual = base == head and self._incarnation is not None and not self._resync
        return None if usual and self._digests_valid_for(head) else self._store.open(head)

    def _digests_valid_for(self, point: PointId) -> bool:
        label = _label(point, self._incarnation)
        return bool(self._files) and all(file.valid_for == label for file in self._files.values())

    def _incarnation_of(self, base: PointId, reader: PointReader | None) -> str | None:
        """What the tracker of a point of this timeline must be, by the point's own record. A machine that was started
        on a point got a fresh one then: None. Before the first point: that of the tracker of the first copy."""
        if self._head is None:
            return self._incarnation
        if base != self._head or base.timeline != self._spec.timeline or base.number == 0:
            return None
        if self._incarnation is None and reader is not None:
            return reader.incarnation
        return self._incarnation

    def _build(
        self,
        view: PointView,
        head: PointId | None,
        base: PointId,
        reader: PointReader | None,
        tags: tuple[str, ...],
        group: str | None,
    ) -> tuple[SpooledPoint, dict[str, str], dict[str, Digests]]:
        builder = self._writer.builder(view.point.number, self._spool, head, early=self._early)
        found_by: dict[str, str] = {}
        complete: dict[str, Digests] = {}
        try:
            for disk in view.disks:
                found_by[disk.id] = self._ship_disk(disk, view, head, base, reader, builder, complete)
            spooled = self._finish(builder, view, self._machine(), tags, group)
        except BaseException as error:
            builder.discard()
            self._early = False
            if head is None and isinstance(error, Fenced):
                self._void_digests()  # parts are in the store that they don't follow
            raise
        self._early = True
        return spooled, found_by, complete

    def _ship_disk(
        self,
        disk: DiskView,
        view: PointView,
        head: PointId | None,
        base: PointId,
        reader: PointReader | None,
        builder: PointBuilder,
        complete: dict[str, Digests],
    ) -> str:
        file = self._file(disk)
        known_as = self._incarnation if reader is None or self._incarnation else reader.incarnation
        valid = file.valid_for == _label(head, known_as) if head else of_parts(file.valid_for)
        if not valid:
            file.invalidate()  # it may bear the name of the very point that is taken now, from an attempt that was lost
        if self._is_new(disk, head, reader):
            file.reset(0)
            self._walk(disk, builder, FileBase(file.digests), Extents.whole(disk.size), self._allocated(disk))
            return "a new disk"
        candidates = self._candidates(disk, base, head, reader)
        added = self._added(disk, file, reader)
        if candidates is not None and added is not None:
            held: Base
            if valid:
                held = FileBase(file.digests)
            elif base != head and reader is not None:
                held = PointBase(reader.digests(disk.id), file.blocks)
                file.reset(UNKNOWN)
            else:
                file.reset(UNKNOWN)
                held = FileBase(file.digests)
            grown = added.total > 0
            candidates = candidates.union(added)
            wrong = self._sample(disk, candidates, held if valid else None, view.incarnation)
            if not wrong:
                self._walk(disk, builder, held, candidates, self._allocated(disk) if grown else None)
                return "tracking, and what was added" if grown else "tracking"
            log.warning("the tracker missed changes", disk=disk.id, blocks=wrong, item=self._spec.item)
        return self._compare_all(disk, file, valid, reader, builder, complete)

    def _is_new(self, disk: DiskView, head: PointId | None, reader: PointReader | None) -> bool:
        """A disk that the head does not have: it was added to the machine since."""
        if head is None or disk.changed.knowledge is Knowledge.EXTENTS:
            return False
        if reader is None and not self._pending:
            reader = self._store.open(head)
        return reader is not None and disk.id not in reader.disks

    def _candidates(
        self, disk: DiskView, base: PointId, head: PointId | None, reader: PointReader | None
    ) -> Extents | None:
        """What may differ from the head, or None where only a comparison can tell."""
        if self._resync or disk.changed.knowledge is not Knowledge.EXTENTS:
            return None
        if base == head or head is None:
            return disk.changed.extents
        if self._spec.same_as is None or reader is None:
            return None
        try:
            same = self._own_store.open(self._spec.same_as)
            if disk.id not in same.disks or disk.id not in reader.disks:
                return None
            if not np.array_equal(same.digests(disk.id).regions(), reader.digests(disk.id).regions()):
                log.warning(
                    "the timeline's base is not the point it was said to be", disk=disk.id, item=self._spec.item
                )
                return None
            apart = same.changed_since(base, disk.id)
        except (PointNotFound, Corrupt) as error:
            log.warning(
                "this site's store can't tell what differs", disk=disk.id, item=self._spec.item, why=error.cause
            )
            return None
        return disk.changed.extents.union(apart).clip(0, disk.size)

    def _added(self, disk: DiskView, file: DigestFile, reader: PointReader | None) -> Extents | None:
        """By how much a disk is larger than the head's: no tracker marks that, and it needn't be zeroes (a volume's may
        be what lay there before). None where only a comparison can tell: it shrank, or its former size isn't known."""
        covers = reader.disks.get(disk.id) if reader is not None else file.covers
        if covers is None or covers > disk.size:
            return None
        if covers == disk.size:
            return Extents()
        log.info("a disk has grown", disk=disk.id, item=self._spec.item, was=covers, size=disk.size)
        begin = covers // BLOCK * BLOCK
        return Extents.of([(begin, disk.size - begin)])

    def _sample(self, disk: DiskView, candidates: Extents, held: Base | None, seed: str) -> list[int]:
        if held is None:
            return []
        blocks = sample_clean_blocks(disk.size, candidates, SAMPLED_BLOCKS, seed)
        return mismatches(disk, self._spec.keys, held, blocks)

    def _compare_all(
        self,
        disk: DiskView,
        file: DigestFile,
        valid: bool,
        reader: PointReader | None,
        builder: PointBuilder,
        complete: dict[str, Digests],
    ) -> str:
        whole = Extents.whole(disk.size)
        allocated = self._allocated(disk)
        if valid and known(file.digests).all():
            self._walk(disk, builder, FileBase(file.digests), whole, allocated)
            return "digests at the process server"
        if reader is None and self._head is not None and not self._pending:
            reader = self._store.open(self._head)
        if reader is None:
            file.reset(UNKNOWN)
            self._walk(disk, builder, FileBase(file.digests), whole, allocated)
            return "full copy"
        self._look("resyncing", 0, allocated.total)
        point = reader.digests(disk.id)
        regions, own = differing_regions(disk, self._spec.keys, point, allocated, self._progress(allocated.total))
        self._walk(disk, builder, PointBase(point, file.blocks), regions, allocated)
        complete[disk.id] = own
        return "digests in two levels"

    def _walk(
        self, disk: DiskView, builder: PointBuilder, held: Base, candidates: Extents, allocated: Extents | None
    ) -> None:
        Difference(disk, self._spec.keys, builder, held, self._progress(candidates.total)).ship(candidates, allocated)

    def _progress(self, total: int) -> Callable[[int], None]:
        done = [0]

        def progress(count: int) -> None:
            done[0] += count
            self._look("reading", min(done[0], total), total)

        return progress

    def _finish(
        self,
        builder: PointBuilder,
        view: PointView,
        machine: dict[str, Any],
        tags: tuple[str, ...] = (),
        group: str | None = None,
    ) -> SpooledPoint:
        return builder.finish(
            instant=view.instant,
            consistency=view.consistency,
            disks={disk.id: disk.size for disk in view.disks},
            incarnation=view.incarnation,
            tags=tags,
            machine=machine,
            notes=view.notes,
            group=group,
        )

    def _remember(self, view: PointView, spooled: SpooledPoint, complete: dict[str, Digests]) -> dict[str, int]:
        """The digest files say what the point holds; bytes that it carries of each disk."""
        changes = spooled.changed_digests()
        for gone in self._files.keys() - {disk.id for disk in view.disks}:
            self._files.pop(gone).close()
        for disk in view.disks:
            file = self._file(disk)
            file.invalidate()
            if disk.id in complete:
                file.digests[:] = complete[disk.id]
            if disk.id in changes:
                numbers, digests = changes[disk.id]
                file.digests[numbers] = digests
            file.validate(_label(view.point, view.incarnation))
        return {disk.id: len(changes[disk.id][0]) * BLOCK if disk.id in changes else 0 for disk in view.disks}

    def _allocated(self, disk: DiskView) -> Extents:
        return disk.allocated().align(BLOCK, disk.size)

    def _file(self, disk: DiskView) -> DigestFile:
        file = self._files.get(disk.id)
        if file is not None and file.size != disk.size:  # the disk was resized
            self._files.pop(disk.id).close()
            file = None
        if file is None:
            file = self._files[disk.id] = DigestFile(self._digest_folder / disk.id, disk.size)
        return file


def _label(point: PointId, incarnation: str | None) -> str:
    """What a digest file says that it is valid for: another process server's point of this number is another."""
    return f"{point} {incarnation}"


def _no_space(error: BaseException) -> bool:
    """While a point is built only the cache is written to."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or (isinstance(error, StoreUnavailable) and error.code == "store.full")
