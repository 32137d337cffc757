"""A first copy: all disks as they run, in hidden parts. Some wait for the store, or are on their way, while the next is
read; each counts when it is there, and they come there in order.

    read what is allocated ─▶ builder ─▶ spool, fsynced ─▶ (segments: early) ─▶ publish ─▶ digest file
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.cache_room import CacheFull, CacheRoom
from homeport.servers.difference import Difference, FileBase
from homeport.servers.digest_file import UNKNOWN, DigestFile, known
from homeport.servers.replication_spec import ReplicationSpec
from homeport.servers.shipper import Shipper
from homeport.servers.traffic import Traffic
from homeport.sources.interface import DiskView, PointView, Source
from homeport.store.spool import SpooledPoint, spooled_points
from homeport.store.uploads import Progress
from homeport.store.writer import Writer

PART = 256 * MiB
"""A first copy is published in hidden parts of so many bytes of a disk."""
IN_FLIGHT = 2
"""Parts that are complete in the cache, and not in the store yet, while another is read."""
LOOK_EVERY = 0.5
"""Seconds after which whoever waits for the store looks whether he shall stop."""

PARTS = "parts"
"""What a digest file says while it follows the parts of a first copy; followed by the tracker's incarnation where that
tracker has known of every change since each part was copied."""

Look = Callable[[str, int, int], None]
"""Told (phase, bytes done, bytes in all); raises to stop."""


class _GivenUp(Exception):
    """The copy ends: the rest of a part needn't be shipped first."""


class FirstCopy:
    """One attempt, by one thread. It goes on where an earlier one ended, as long as the tracker lives: what waits in
    ``folder`` is shipped, and what is in the store isn't read again."""

    def __init__(
        self,
        spec: ReplicationSpec,
        source: Source,
        writer: Writer,
        folder: Path,
        room: CacheRoom,
        file: Callable[[DiskView], DigestFile],
        machine: Callable[[], dict[str, Any]],
        look: Look,
        shipped: Progress | None,
        traffic: Traffic,
    ) -> None:
        """``file``: a disk's digest file. ``machine``: describes it. ``shipped``, ``traffic``: as :class:`Cycle` has
        them."""
        self._spec = spec
        self._source = source
        self._writer = writer
        self._folder = folder
        self._room = room
        self._file = file
        self._machine = machine
        self._look = look
        self._shipped = shipped
        self._traffic = traffic
        self._given_up = threading.Event()
        self._line = Shipper(f"parts-{spec.vm}", lambda: threading.TIMEOUT_MAX, lambda: None)
        self._waiting = 0
        self._done = 0
        self._on_its_way = 0
        """Bytes of the part that is being shipped."""
        self._total = 0

    def run(self) -> str:
        """The incarnation of the tracker that has known of every change since. Raises CacheFull, StoreUnavailable: some
        of it may wait in the cache then; SourceError."""
        try:
            seed = PointId(self._spec.timeline, 0)
            if seed not in self._source.tracked():
                self._source.track(seed)
            incarnation = self._source.tracked()[seed]
            self._copy(incarnation)
            return incarnation
        finally:
            self._given_up.set()
            self._line.stop()
            with contextlib.suppress(Exception):  # what isn't noted is looked at again
                self._take_note()

    def _copy(self, incarnation: str) -> None:
        view = self._source.live()
        self._go_on_with(self._left(incarnation), {disk.id: self._file(disk) for disk in view.disks})
        parts = {part.disk: part.ranges for part in self._writer.parts()}
        alone = self._writer.wrote_all_parts()
        plan = [(disk, disk.allocated().align(BLOCK, disk.size)) for disk in view.disks]
        self._total = sum(allocated.total for _, allocated in plan)
        for disk, allocated in plan:
            file = self._file(disk)
            copied = _copied(disk, file, parts.get(disk.id), incarnation, alone)
            self._done += copied.intersect(allocated).total
            for offset, length in Extents.whole(disk.size).subtract(copied).pieces(PART):
                self._make_room()
                window = Extents.of([(offset, length)])
                spooled = self._build(view, disk, file, window, allocated, self._folder / incarnation)
                self._give(spooled, disk.id, file, allocated.intersect(window).total)
            self._then(lambda: None, partial(file.validate, copied_under(incarnation)))
        self._settle(0)

    # ── what an earlier attempt left ────────────────────────────────────────────────────────────────────────────

    def _left(self, incarnation: str) -> list[SpooledPoint]:
        """Parts that wait in the cache. What was copied under another tracker may have changed since."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name != incarnation:
                    shutil.rmtree(path, ignore_errors=True)
        return spooled_points(self._folder / incarnation)

    def _go_on_with(self, left: list[SpooledPoint], files: dict[str, DigestFile]) -> None:
        as_it_was = {disk for disk, file in files.items() if file.covers == file.size}
        for spooled in left:
            disk = next(iter(spooled.disks), "")
            if disk in as_it_was and of_parts(files[disk].valid_for) and _readable(spooled):
                self._give(spooled, disk, files[disk], 0)
            else:
                spooled.remove()  # all of that disk is copied anew, or, where it has grown, what isn't in the store
        self._settle(0)

    # ── one part ────────────────────────────────────────────────────────────────────────────────────────────────

    def _build(
        self, view: PointView, disk: DiskView, file: DigestFile, window: Extents, allocated: Extents, folder: Path
    ) -> SpooledPoint:
        builder = self._writer.builder(0, folder, None, early=True)
        inside = allocated.intersect(window)
        base = FileBase(file.digests)
        try:
            Difference(disk, self._spec.keys, builder, base, lambda count: self._say()).ship(inside)
            Difference(disk, self._spec.keys, builder, base).ship(window.subtract(inside), Extents())
            return builder.finish(
                instant=view.instant,
                consistency=view.consistency,
                disks={disk.id: disk.size for disk in view.disks},
                incarnation=view.incarnation,
                machine=self._machine(),
                notes=view.notes,
            )
        except BaseException:
            builder.discard()
            raise

    def _give(self, spooled: SpooledPoint, disk: str, file: DigestFile, size: int) -> None:
        """``size``: what it counts for."""
        changes = spooled.changed_digests().get(disk)
        if changes is None:
            spooled.remove()
            self._done += size
            return
        numbers, digests = changes
        file.exchange(numbers, UNKNOWN)  # until the part is known to be published

        def publish() -> None:
            self._writer.publish_part(spooled, partial(self._told, size))

        def note() -> None:
            self._on_its_way = 0
            self._done += size
            file.exchange(numbers, digests)
            self._traffic.note_shipped(spooled.stored)
            spooled.remove()

        self._then(publish, note)

    def _told(self, size: int, done: int, total: int) -> None:
        if self._given_up.is_set():
            raise _GivenUp
        self._on_its_way = size * done // max(total, 1)
        if self._shipped is not None:
            self._shipped(done, total)

    # ── the line of those that wait ─────────────────────────────────────────────────────────────────────────────

    def _then(self, job: Callable[[], None], note: Callable[[], None]) -> None:
        """Do ``job`` when all before it is done, and ``note`` after it, in this thread."""

        def done() -> Callable[[], None]:
            job()
            return note

        self._line.give(done)
        self._waiting += 1

    def _take_note(self) -> None:
        for note in self._line.collect():
            self._waiting -= 1
            note()

    def _settle(self, most: int) -> None:
        """Wait until no more than ``most`` are in line. Raises what keeps the first of them."""
        while True:
            self._take_note()
            trouble = self._line.trouble
            if trouble is not None:
                raise trouble
            if self._waiting <= most:
                return
            self._say()
            self._line.settled(LOOK_EVERY)

    def _make_room(self) -> None:
        """Raises CacheFull where none comes by waiting for what is in line."""
        self._settle(IN_FLIGHT)
        while True:
            try:
                self._room.require()
                return
            except CacheFull:
                if not self._waiting:
                    raise
                self._settle(self._waiting - 1)
                self._room.changed()

    def _say(self) -> None:
        self._look("seeding", min(self._done + self._on_its_way, self._total), self._total)


def _copied(disk: DiskView, file: DigestFile, parts: Extents | None, incarnation: str, alone: bool) -> Extents:
    """What of a disk needn't be looked at again. Its digest file says from now on whose parts it follows, until all of
    the disk has been. ``alone``: no other process server has copied parts."""
    label = file.valid_for
    if parts is None:  # nothing of this disk is in the store
        file.reset(0)
        label = copied_under(incarnation)
    elif not of_parts(label) or not alone:
        file.reset(UNKNOWN)
        label = PARTS
    elif label == copied_under(incarnation):
        unsure = Extents.of_blocks(np.flatnonzero(~known(file.digests)), BLOCK, disk.size)
        return parts.subtract(unsure)
    else:
        # Copied under a tracker that was lost: anything may have changed since. The digests still tell what the
        # store holds; only when all was compared may the new tracker be relied on.
        label = PARTS
    file.validate(label)
    return Extents()


def _readable(spooled: SpooledPoint) -> bool:
    try:
        spooled.changed_digests()
    except ValueError:
        return False
    return True


def copied_under(incarnation: str) -> str:
    return f"{PARTS} {incarnation}"


def of_parts(valid_for: str | None) -> bool:
    return valid_for is not None and valid_for.split(" ")[0] == PARTS
