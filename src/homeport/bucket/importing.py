"""Adding a recovery point from disk images: a full copy first, later only what differs.

What changed is told by extents that the caller has from a tracker, or found by digests. Trackers are verified, not
trusted: some blocks that are said to be unchanged are compared, and if one differs, all are.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homeport.bucket.import_base import Base
from homeport.bucket.import_target import Target, find_target
from homeport.bucket.opening import Bucket
from homeport.disks.images import Image, open_image
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointInfo
from homeport.domain.units import BLOCK, GiB
from homeport.store.builder import PointBuilder
from homeport.store.digests import hash_blocks
from homeport.store.intake import take_in
from homeport.store.reader import PointReader

PART = 4 * GiB
"""Bytes of a first copy after which what was copied is kept, should the rest be interrupted."""

SAMPLES = 64
"""Blocks that are said to be unchanged and are compared all the same."""

Progress = Callable[[int], None]
"""Called with the bytes looked at since the last call, from any thread."""


@dataclass(frozen=True)
class Facts:
    """What the new point says of itself. ``instant``: UTC, None: now."""

    instant: datetime | None = None
    tags: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass
class DiskPlan:
    """How a disk is taken in. ``found_by``: "copy", "extents" or "scan"; ``candidates``: what is read; ``zeros``: what
    became zeroes without being read."""

    id: str
    image: Image
    found_by: str
    candidates: Extents
    zeros: Extents = field(default_factory=Extents)
    base: Base | None = None
    looked_at: int = 0
    changed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "disk": self.id,
            "size": self.image.size,
            "found_by": self.found_by,
            "looked_at": self.looked_at,
            "changed": self.changed,
        }


@dataclass
class Import:
    """A planned import. Made by :func:`plan_import`. ``total``: bytes that :meth:`run` will look at."""

    bucket: Bucket
    target: Target
    disks: list[DiskPlan]
    facts: Facts
    notes: list[str]
    part_bytes: int = PART

    @property
    def total(self) -> int:
        return sum(disk.candidates.total for disk in self.disks)

    def run(self, progress: Progress | None = None) -> PointInfo:
        """Take the disks in and publish the point. On an error nothing is said to be there that isn't; run it again
        (planned anew). Raises Fenced, StoreUnavailable, DiskError, OSError."""
        writer, head = self.target.writer, self.target.head
        own = head is not None and head.timeline == writer.timeline
        number = head.number + 1 if head is not None and own else 1
        with _spool(self.bucket) as spool:
            builder = writer.builder(number, spool / "point", head, upload=True)
            try:
                taken = _Taken(self, spool, builder, progress)
                for disk in self.disks:
                    taken.take(disk)
                built = builder.finish_uploaded(
                    instant=self.facts.instant or datetime.now(UTC),
                    consistency=Consistency.CRASH,
                    disks=self.sizes,
                    incarnation="import",
                    tags=self.facts.tags,
                    machine={"uuid": self.target.machine.uuid, "name": self.target.machine.name},
                    notes=(*self.facts.notes, *self.notes),
                )
            except BaseException:
                builder.discard()
                raise
            return writer.publish(built)

    @property
    def sizes(self) -> dict[str, int]:
        return {disk.id: disk.image.size for disk in self.disks}


class _Taken:
    """Disks on their way into the point; a long first copy goes into parts first."""

    def __init__(self, job: Import, spool: Path, builder: PointBuilder, progress: Progress | None) -> None:
        self._job = job
        self._spool = spool
        self._builder = builder
        self._progress = progress

    def take(self, disk: DiskPlan) -> None:
        for window, last in _windows(disk.candidates, self._job.part_bytes):
            if last or self._job.target.head is not None:
                self._take(self._builder, disk, window)
            else:
                self._part(disk, window)
        for offset, length in disk.zeros:
            self._builder.zero(disk.id, offset, length)

    def _part(self, disk: DiskPlan, window: Extents) -> None:
        writer = self._job.target.writer
        builder = writer.builder(0, self._spool / "part", None, upload=True)
        try:
            self._take(builder, disk, window)
            built = builder.finish_uploaded(instant=datetime.now(UTC), disks=self._job.sizes, incarnation="import")
            if built.logical_bytes:
                writer.publish_part(built)
        finally:
            builder.discard()

    def _take(self, builder: PointBuilder, disk: DiskPlan, window: Extents) -> None:
        keys = self._job.target.machine.store.keys
        known = None if disk.base is None else disk.base.known
        taken = take_in(builder, keys, disk.id, disk.image, window, known=known, progress=self._progress)
        disk.looked_at += taken.looked_at
        disk.changed += taken.changed


def _windows(extents: Extents, size: int) -> Iterator[tuple[Extents, bool]]:
    """Extents in pieces of about ``size`` bytes; with each whether it is the last. At least one."""
    piece: list[tuple[int, int]] = []
    total = 0
    for offset, length in extents.pieces(size):
        if piece and total + length > size:
            yield Extents.of(piece), False
            piece, total = [], 0
        piece.append((offset, length))
        total += length
    yield Extents.of(piece), True


# -- planning ----------------------------------------------------------------------------------------------------------


def plan_import(
    bucket: Bucket,
    machine: str,
    images: Mapping[str, Image],
    changed: Mapping[str, Extents] | None = None,
    facts: Facts | None = None,
) -> Import:
    """Look what has to be done to add a point of ``images`` (by disk id) to the machine of this name or UUID, which is
    made where there is none.

    ``changed``: by disk id, the bytes that may differ from the newest point; a disk that isn't named there is compared
    by digests. Raises MachineNotFound, Fenced, HomeportError (``import.…``), and the store's errors.
    """
    for disk, extents in (changed or {}).items():
        _check_extents(disk, extents, images)
    target = find_target(bucket, machine)
    store = target.machine.store
    reader = store.open(target.head) if target.head else None
    missing = sorted(set(reader.disks) - set(images)) if reader else []
    if missing:
        raise HomeportError(
            f"the newest point has the disks {', '.join(missing)} too",
            code="import.disk-missing",
            remedy="Give all disks of the machine in one import, each as ID=PATH.",
            disks=missing,
        )
    parts = [part for _, part in target.writer.part_records()] if target.head is None else []
    notes: list[str] = []
    plans = []
    for disk, image in images.items():
        if reader is not None and disk in reader.disks:
            plans.append(_changes(target, reader, disk, image, (changed or {}).get(disk), notes))
        elif parts:
            plans.append(_scan(disk, image, Base.of_parts(store, parts, disk), "copy"))
        else:
            plans.append(DiskPlan(disk, image, "copy", image.allocated().align(BLOCK, image.size)))
    return Import(bucket, target, plans, facts or Facts(), notes)


def _check_extents(disk: str, extents: Extents, images: Mapping[str, Image]) -> None:
    image = images.get(disk)
    if image is None:
        raise HomeportError(
            f"changed extents are given for {disk}, which isn't imported",
            code="import.bad-extents",
            remedy=f"The disks are {', '.join(images)}: name them as ID=PATH.",
        )
    if extents and int(extents.ends[-1]) > -(-image.size // BLOCK) * BLOCK:
        raise HomeportError(
            f"the changed extents of {disk} go up to byte {int(extents.ends[-1])}, its size is {image.size}",
            code="import.bad-extents",
            remedy="Give the extents of this disk; or none, to compare the whole disk.",
        )


def _scan(disk: str, image: Image, base: Base, found_by: str = "scan") -> DiskPlan:
    """Everything is compared; of holes only whether the store holds something there."""
    allocated = image.allocated().align(BLOCK, image.size)
    return DiskPlan(disk, image, found_by, allocated, _voided(base, Extents.whole(image.size), allocated, image), base)


def _voided(base: Base, within: Extents, allocated: Extents, image: Image) -> Extents:
    """Where the store holds data and the image a hole."""
    return base.extents.clip(0, image.size).intersect(within).subtract(allocated)


def _changes(
    target: Target, reader: PointReader, disk: str, image: Image, changed: Extents | None, notes: list[str]
) -> DiskPlan:
    base = Base.of_point(reader, disk)
    if changed is None:
        return _scan(disk, image, base)
    before = reader.disks[disk]
    # Where it grew or shrank, and the block that its end cut and cuts now.
    ends = Extents.of([(before, max(image.size - before, 0)), (before - 1, 1), (image.size - 1, 1)])
    given = changed.union(ends if before != image.size else Extents()).clip(0, image.size).align(BLOCK, image.size)
    allocated = image.allocated().align(BLOCK, image.size)
    wrong = _unlike(target, base, disk, image, allocated, given)
    if wrong is not None:
        notes.append(
            f"{disk}: the changed extents given leave out block {wrong}, which changed; the whole disk was compared"
        )
        return _scan(disk, image, base)
    zeros = _voided(base, given, allocated, image)
    return DiskPlan(disk, image, "extents", given.intersect(allocated), zeros, base)


def _unlike(target: Target, base: Base, disk: str, image: Image, allocated: Extents, given: Extents) -> int | None:
    """A block outside ``given`` that isn't what the store holds, if one of a few shows that."""
    clean = allocated.union(base.extents.clip(0, image.size).align(BLOCK, image.size)).subtract(given)
    key = target.machine.store.keys.digest_key
    buffer = memoryview(bytearray(BLOCK))
    for offset in _sample(clean):
        data = buffer[: min(BLOCK, image.size - offset)]
        image.read_into(offset, data)
        block = offset // BLOCK
        if hash_blocks(key, data) != base.known(block, 1).tobytes():
            return block
    return None


def _sample(clean: Extents) -> list[int]:
    """Offsets of blocks, at most SAMPLES, each as likely as any other."""
    blocks = (clean.ends - clean.starts + BLOCK - 1) // BLOCK
    total = int(blocks.sum())
    ends = blocks.cumsum()
    found = []
    for chosen in sorted(random.sample(range(total), min(SAMPLES, total))):
        run = int(ends.searchsorted(chosen, side="right"))
        found.append(int(clean.starts[run]) + (chosen - int(ends[run] - blocks[run])) * BLOCK)
    return found


@contextmanager
def opened_images(paths: Mapping[str, tuple[Path, str]]) -> Iterator[dict[str, Image]]:
    """Images by disk id, from paths and formats, while the body runs. Raises DiskError, DiskInUse."""
    with ExitStack() as stack:
        yield {disk: stack.enter_context(open_image(path, format)) for disk, (path, format) in paths.items()}


@contextmanager
def _spool(bucket: Bucket) -> Iterator[Path]:
    """A folder for segments on their way: where the store is a local folder, on the same file system."""
    scratch = getattr(bucket.objects, "scratch", None)
    path = scratch() if scratch is not None else Path(tempfile.mkdtemp(prefix="homeport-import-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
