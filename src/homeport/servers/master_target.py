"""The master target: writes the original's disks at failback, and can put them back.

What is overwritten goes to the retention drive first, once, fsynced:

    for each batch:  old bytes → retention file (same offsets, sparse) ─ fsync ─ journal line ─ fsync ─ new bytes → disk

A rerun after a kill at any extent reads the journal: what is saved is not saved again, what is written is written
again with the same bytes. A rollback copies the saved extents back.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homeport.disks.images import Image, open_image
from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.logs import get_logger
from homeport.domain.machines import Machine
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.difference import PointBase
from homeport.servers.durable import sync_folder, write_all, write_durably
from homeport.store.digests import block_digests
from homeport.store.errors import PointNotFound
from homeport.store.reader import PointReader

log = get_logger(__name__)

PIECE = MiB
BATCH = 64 * MiB
STARTED = "started"
"""A mark on the retention drive: the machine ran on disks that were written."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


class DiskChanged(HomeportError):
    """The original's disk is smaller than the recovery point's, or gone."""

    code = "failback.disk-changed"
    remedy = (
        "Make the original's disk as large as the recovery point's (raw: `truncate -s BYTES FILE`, qcow2: `qemu-img "
        "resize FILE BYTES`), then restart the job."
    )


class RetentionFull(HomeportError):
    code = "failback.retention-full"
    remedy = "Free space at the original's site, then restart the job; nothing was overwritten that isn't kept."


class NothingToRollBack(HomeportError):
    code = "failback.nothing-retained"
    remedy = "The retention drive holds nothing of this machine: its disks were not written."


@dataclass(frozen=True)
class Written:
    """Bytes."""

    written: int
    retained: int


class MasterTarget:
    """``retention``: the retention drive's folder; a folder per machine in it."""

    def __init__(self, retention: Path) -> None:
        self._retention = retention

    def write_disks(
        self,
        folder: Path,
        machine: Machine,
        base: PointReader,
        target: PointReader,
        progress: Progress,
        imported: dict[str, list[int]] | None = None,
    ) -> Written:
        """Bring the powered-off ``machine``'s disks (paths relative to ``folder``) to ``target``.

        ``imported``: each disk's :func:`stamp` when it was taken as ``base``. A disk that still bears it holds the
        base, so only what differs between the two points is looked at; any other disk is compared in full, locally.
        A disk that has grown since the point was taken keeps its size, and what it has beyond the point's.

        Idempotent; may be called again after a kill. Raises DiskChanged, RetentionFull.
        """
        for disk in machine.disks:
            held = target.disks.get(disk.id)
            if held is None or disk.size < held:
                raise DiskChanged(
                    f"{machine.name}/{disk.id} has {disk.size} bytes, the recovery point {held or 'no such disk'}"
                )
        place = self._retention / machine.uuid
        if _Drive.aims_elsewhere(place, base.info.id, target.info.id):
            self.roll_back(folder, machine)
        drive = _Drive(place, base.info.id, target.info.id)
        untouched = not (place / STARTED).exists() and drive.retained() == 0
        done = 0
        for disk in machine.disks:
            path = folder / disk.path
            holds_base = untouched and imported is not None and imported.get(disk.id) == stamp(path)
            with ExitStack() as stack:
                image = stack.enter_context(open_image(path, disk.format, writable=True))
                saved = stack.enter_context(drive.disk(disk.id, disk.size))
                plan = _since(target, base, disk.id) if holds_base else None
                if plan is None:
                    plan = _differences(image, target, disk.id)
                self._must_have_room(plan.subtract(saved.extents).total)
                for batch in _batches(plan):
                    saved.save(image, batch)
                    for offset, length in batch.pieces(PIECE):
                        image.write(offset, memoryview(target.read(disk.id, offset, length)))
                        done += length
                        progress(done, max(done, plan.total))
                image.flush()
        return Written(done, drive.retained())

    def _must_have_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self._retention).free
        if wanted > free:
            raise RetentionFull(f"the retention drive has {free} bytes free, and {wanted} will be overwritten")

    def note_start(self, machine: str) -> None:
        """The original is about to be started on disks that were written: what it writes is in no journal."""
        place = self._retention / machine
        if (place / "plan.json").exists():
            write_durably(place / STARTED, b"")

    def roll_back(self, folder: Path, machine: Machine) -> int:
        """Give the original's bytes back; bytes restored. Raises NothingToRollBack."""
        place = self._retention / machine.uuid
        drive = _Drive.existing(place)
        restored = 0
        for disk in machine.disks:
            with (
                open_image(folder / disk.path, disk.format, writable=True) as image,
                drive.disk(disk.id, disk.size) as saved,
            ):
                for offset, length in saved.extents.pieces(PIECE):
                    image.write(offset, memoryview(saved.read(offset, length)))
                    restored += length
                image.flush()
        started = (place / STARTED).exists()
        self.discard(machine.uuid)
        if started:
            write_durably(place / STARTED, b"")  # what it wrote meanwhile is still there: the next time compares
        return restored

    def discard(self, machine: str) -> None:
        """Forget what was retained of a machine (uuid): its failback is committed or rolled back."""
        place = self._retention / machine
        if place.exists():
            (place / "plan.json").unlink(missing_ok=True)
            sync_folder(place)
            shutil.rmtree(place)


class _Drive:
    """What the retention drive holds of one machine, for one way from ``base`` to ``target``."""

    def __init__(self, place: Path, base: PointId, target: PointId) -> None:
        self._place = place
        plan = {"base": str(base), "target": str(target)}
        path = place / "plan.json"
        if path.exists():
            found = json.loads(path.read_bytes())
            if found["base"] != plan["base"]:
                raise HomeportError(
                    f"the retention drive holds an unfinished failback from {found['base']}",
                    code="failback.retention-in-use",
                    remedy="Roll that failback back or commit it first.",
                )
        else:
            # Left by a discard that was interrupted: bytes of a failback that is over.
            for left in (*place.glob("*.journal"), *place.glob("*.data")):
                left.unlink()
        write_durably(path, json.dumps(plan).encode())

    @staticmethod
    def aims_elsewhere(place: Path, base: PointId, target: PointId) -> bool:
        """The drive holds an unfinished way from the same base to another point."""
        path = place / "plan.json"
        if not path.exists():
            return False
        plan = json.loads(path.read_bytes())
        return bool(plan["base"] == str(base) and plan["target"] != str(target))

    @classmethod
    def existing(cls, place: Path) -> _Drive:
        path = place / "plan.json"
        if not path.exists():
            raise NothingToRollBack(f"nothing retained in {place.name}")
        plan = json.loads(path.read_bytes())
        return cls(place, PointId.parse(plan["base"]), PointId.parse(plan["target"]))

    def disk(self, disk: str, size: int) -> _SavedDisk:
        return _SavedDisk(self._place / f"{disk}.data", self._place / f"{disk}.journal", size)

    def retained(self) -> int:
        return sum(_journal(path).total for path in self._place.glob("*.journal"))


class _SavedDisk:
    """Old bytes of one disk: a sparse file with the same offsets, and a journal of which extents are whole in it."""

    def __init__(self, data: Path, journal: Path, size: int) -> None:
        self._data = os.open(data, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._data, size)
        self.extents = _journal(journal)
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT, 0o600)
        sync_folder(data.parent)

    def __enter__(self) -> _SavedDisk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._data)
        os.close(self._journal)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._data, length, offset)

    def save(self, image: Image, batch: Extents) -> None:
        fresh = batch.subtract(self.extents)
        if not fresh:
            return
        for offset, length in fresh.pieces(PIECE):
            buffer = new_buffer(length)
            image.read_into(offset, buffer)
            write_all(self._data, buffer, offset)
        os.fdatasync(self._data)
        # A torn line before these is closed by a newline of its own, and is not a valid line.
        lines = b"\n" + b"".join(_line(offset, length) for offset, length in fresh)
        write_all(self._journal, lines, os.fstat(self._journal).st_size)
        os.fdatasync(self._journal)
        self.extents = self.extents.union(fresh)


def _line(offset: int, length: int) -> bytes:
    body = f"{offset} {length}"
    return f"{body} {zlib.crc32(body.encode()):08x}\n".encode()


def _journal(path: Path) -> Extents:
    """The extents of whole lines; a line that a crash tore is none."""
    if not path.exists():
        return Extents()
    pairs = []
    for line in path.read_bytes().split(b"\n"):
        words = line.split()
        whole = len(words) == 3 and words[0].isdigit() and words[1].isdigit()
        if whole and _line(int(words[0]), int(words[1])) == line + b"\n":
            pairs.append((int(words[0]), int(words[1])))
    return Extents.of(pairs)


def stamp(path: Path) -> list[int]:
    """What tells that an image was written to: [bytes, time of the last change in nanoseconds]."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _since(target: PointReader, base: PointReader, disk: str) -> Extents | None:
    """What may differ between two points; None: the base was dropped meanwhile, and the store can't say."""
    try:
        return target.changed_since(base.info.id, disk)
    except PointNotFound as error:
        log.info("the disk is compared in full", disk=disk, why=error.cause)
        return None


def _differences(image: Image, target: PointReader, disk: str) -> Extents:
    """Where an image differs from a point, by reading the one and asking the other for digests; both are local."""
    size = target.disks[disk]
    held = PointBase(target.digests(disk), -(-size // BLOCK))
    found: list[tuple[int, int]] = []
    for offset, length in Extents.whole(size).pieces(PIECE):
        buffer = new_buffer(length)
        image.read_into(offset, buffer)
        digests = block_digests(target.keys, buffer)
        first = offset // BLOCK
        differ = np.flatnonzero((digests != held.digests(first, len(digests))).any(axis=1))
        found += [(offset + int(number) * BLOCK, min(BLOCK, length - int(number) * BLOCK)) for number in differ]
    return Extents.of(found)


def _batches(extents: Extents) -> Iterator[Extents]:
    """Cut into sets of at most :data:`BATCH` bytes (about)."""
    batch: list[tuple[int, int]] = []
    size = 0
    for piece in extents.pieces(PIECE):
        batch.append(piece)
        size += piece[1]
        if size >= BATCH:
            yield Extents.of(batch)
            batch, size = [], 0
    if batch:
        yield Extents.of(batch)
