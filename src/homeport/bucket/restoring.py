"""A disk of a recovery point as an image or on a block device: whole, or only what differs from what is there.

A new image grows as ``NAME.partial`` and gets its name when it is whole and on stable storage; beside it lies a
journal, so that an interrupted restore goes on where it was. Every frame is authenticated as it is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport.bucket import restore_stamp
from homeport.bucket.comparing import differing, to_compare
from homeport.bucket.holding import holding
from homeport.bucket.restore_formats import RAW, Format, by_name
from homeport.bucket.restore_journal import Journal
from homeport.bucket.restore_plan import plan
from homeport.bucket.restore_stamp import Held
from homeport.bucket.restore_work import Advance, Copy
from homeport.disks.errors import DiskError, DiskInUse
from homeport.disks.raw import RawImage
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK
from homeport.store.errors import PointNotFound
from homeport.store.local import fsync_path
from homeport.store.reader import PointReader
from homeport.store.timeline import MachineStore

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""``progress(stage, bytes)``: shows how far a stage has come."""


class TargetExists(HomeportError):
    """Nothing is overwritten by a restore that wasn't asked to."""

    code = "store.target-exists"
    remedy = "Choose another --to, or move that file away; or say --differences or --overwrite."


class TargetBusy(HomeportError):
    """Another restore writes the same file."""

    code = "store.target-busy"
    remedy = "Wait for it to end, or choose another --to."


class TargetUnsuitable(HomeportError):
    """The target can't take the disk: too small a device, a folder, a format that can't be changed in place."""

    code = "store.target-unsuitable"
    remedy = "Choose another --to or --format."


class CheckFailed(HomeportError):
    """What was written reads back as something else. ``details``: ``disk`` and ``blocks``."""

    code = "store.check-failed"
    remedy = "Look at the target's storage (its kernel log, its cables); then restore to another one."


@dataclass
class Restored:
    """What a restore did. Bytes, but for the words: ``way`` is how it found what to write: ``full``, ``resumed`` (the
    rest of an interrupted one), ``map`` (the points' difference), ``digests`` (of what the target held)."""

    disk: str
    path: Path
    format: str
    size: int
    data: int
    way: str
    why: str = ""
    """Why not a quicker way, in words; "" where there was none."""
    fetched: int = 0
    written: int = 0
    zeroed: int = 0
    compared: int = 0
    """Read from the target to know what differs."""
    skipped: int = 0
    """Of the disk: was there already."""
    checked: bool = False
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "disk": self.disk,
            "path": str(self.path.absolute()),
            "format": self.format,
            "size": self.size,
            "data_bytes": self.data,
            "way": self.way,
            "why": self.why,
            "fetched_bytes": self.fetched,
            "written_bytes": self.written,
            "zeroed_bytes": self.zeroed,
            "compared_bytes": self.compared,
            "skipped_bytes": self.skipped,
            "checked": self.checked,
            "notes": self.notes,
        }


@contextlib.contextmanager
def no_progress(stage: str, total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None


def restore(
    store: MachineStore,
    reader: PointReader,
    disk: str,
    target: Path,
    *,
    format: str = "",
    differences: bool = False,
    overwrite: bool = False,
    check: bool = False,
    progress: Progress = no_progress,
) -> Restored:
    """Write ``disk`` as of the reader's point to ``target``, a file or a block device.

    ``format``: one of :data:`homeport.bucket.restore_formats.FORMATS`; "": by the target's name. ``differences``: what
    the target holds is kept where it is right. ``overwrite``: an image that exists is replaced when the new one is
    whole; a block device is written over. ``check``: the target is read back and compared by digests.

    Raises TargetExists, TargetBusy, TargetUnsuitable, CheckFailed, DiskInUse, DiskError, OSError (no space), Corrupt (a
    damaged frame: disk and blocks named), PointNotFound, StoreUnavailable. A new image that failed stays as its partial
    file, and the next restore of the same goes on; a target that was being changed stays marked so.
    """
    kind = by_name(format, target)
    work = _Restore(store, reader, disk, target, kind, check, progress)
    status = _status(target)
    with holding(store, reader.point, "restore") as refusal:
        if refusal is not None:
            work.result.notes.append(f"The point isn't held against retention while it is read: {refusal}")
        if status is not None and stat.S_ISBLK(status.st_mode):
            if not (differences or overwrite):
                raise TargetExists(f"{target} is a block device: what it holds would be lost", path=str(target))
            work.onto_device(differences)
        elif differences and status is not None:
            work.differences()
        else:
            if not overwrite and (status is not None or target.is_symlink()):
                raise TargetExists(f"{target} exists already", path=str(target))
            work.anew(overwrite)
    return work.result


def _status(target: Path) -> os.stat_result | None:
    """Of what is there, links followed. Raises TargetUnsuitable where that is neither a file nor a block device."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TargetUnsuitable(f"{target} can't be looked at: {error.strerror}", path=str(target)) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise TargetUnsuitable(f"{target} is neither a file nor a block device", path=str(target))
    return status


class _Restore:
    def __init__(
        self,
        store: MachineStore,
        reader: PointReader,
        disk: str,
        target: Path,
        kind: Format,
        check: bool,
        progress: Progress,
    ) -> None:
        self._store, self._reader, self._disk = store, reader, disk
        self._target, self._kind, self._check, self._progress = target, kind, check, progress
        self._size = reader.disks[disk]
        self._data = reader.extents(disk)
        self.result = Restored(disk, target, kind.name, self._size, self._data.total, "full")

    def _held(self) -> Held:
        keys, point = self._reader.keys, self._reader.point
        sha256 = self._store.record_sha256(point)
        return Held(keys.vault, keys.machine, point, sha256, self._disk, self._size)

    # -- a new image ---------------------------------------------------------------------------------------------------

    def anew(self, overwrite: bool) -> None:
        if self._kind.resumable:
            self._file(overwrite)
        else:
            self._converted(overwrite)

    def _file(self, overwrite: bool) -> None:
        """A raw image, or one that begins as one: written at any place, so that it can be gone on with."""
        partial = _partial(self._target)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(partial, self._target):
                partial.unlink()  # the last restore died when it had just named its file
        with _open_partial(partial) as image:
            held = self._held()
            status = os.stat(partial)
            facts = {**held.to_json(), "format": self._kind.name, "inode": status.st_ino}
            with Journal(partial.with_name(partial.name + "-journal"), facts) as journal:
                done = journal.done if image.size == self._size else Extents()
                if not done:
                    image.resize(0)
                    image.resize(self._size)
                wanted = self._data.subtract(done)
                if done:
                    self.result.way = "resumed"
                    self.result.skipped = self._data.total - wanted.total
                self._copy(image, wanted, zeroes=False, checkpoint=journal.add)
                if self._check:
                    self._compare(image)
                tail = self._kind.tail(self._size) if self._kind.tail else b""
                if tail:
                    end = -(-self._size // 512) * 512
                    image.resize(end + len(tail))
                    image.write(end, tail)
                    image.flush()
                _rename(partial, self._target, overwrite)
                fsync_path(self._target.absolute().parent)
                journal.remove()
            if self._kind is RAW:
                self._stamp(held, self._target)

    def _converted(self, overwrite: bool) -> None:
        partial = _partial(self._target)
        partial.unlink(missing_ok=True)
        kind = self._kind
        if kind.stream is not None:
            with self._progress("restoring", self._data.total) as advance:
                kind.stream(self._reader, self._disk, partial, self._target.name, advance)
        else:
            assert kind.make is not None
            with kind.make(partial, self._size, self._target.name) as image:
                self._copy(image, self._data, zeroes=False)
        if self._check:
            self.result.notes.append(f"An image of format {kind.name} isn't read back: --check knows raw images.")
        fsync_path(partial)
        _rename(partial, self._target, overwrite)
        fsync_path(self._target.absolute().parent)

    # -- what is there already -----------------------------------------------------------------------------------------

    def onto_device(self, differences: bool) -> None:
        if self._kind is not RAW:
            raise TargetUnsuitable(f"a block device holds a raw disk, not {self._kind.name}", path=str(self._target))
        with RawImage(self._target, writable=True) as image:
            if image.size < self._size:
                raise TargetUnsuitable(
                    f"{self._target} has {image.size} bytes, the disk {self._size}", path=str(self._target)
                )
            if image.size > self._size:
                self.result.notes.append(f"The device is larger: what lies beyond byte {self._size} stays as it is.")
            if differences:
                self._bring(image, self._by_digests(image, "a block device has no stamp"))
            else:
                self._bring(image, Extents.whole(self._size))

    def differences(self) -> None:
        """Bring an image that exists to the point, in place."""
        if self._kind is not RAW:
            raise TargetUnsuitable(
                f"an image of format {self._kind.name} can't be changed in place",
                remedy="Restore to a new file, or to a raw image.",
                path=str(self._target),
            )
        target = self._target.resolve()
        held = self._held()
        with RawImage(target, writable=True) as image:
            known, why = restore_stamp.read(target)
            wanted = self._by_map(known) if known else why
            if isinstance(wanted, str):
                wanted = self._by_digests(image, wanted)
            if wanted or image.size != self._size:
                restore_stamp.write_changing(target, self._reader.point)
                if image.size != self._size:
                    image.resize(self._size)
                self._bring(image, wanted)
            elif self._check:
                self._compare(image)
            self._stamp(held, target)

    def _by_map(self, known: Held) -> Extents | str:
        """What may differ from the point that the target holds; in words why that can't be said."""
        keys = self._reader.keys
        if (known.vault, known.machine, known.disk) != (keys.vault, keys.machine, self._disk):
            return "it holds another disk"
        try:
            if self._store.record_sha256(known.point) != known.record_sha256:
                return f"this store has another point {known.point}"
            wanted = self._reader.changed_since(known.point, self._disk)
        except PointNotFound:
            return f"the store no longer knows {known.point}, which it holds, well enough"
        self.result.way = "map"
        return wanted.align(BLOCK, self._size)

    def _by_digests(self, image: RawImage, why: str) -> Extents:
        self.result.way, self.result.why = "digests", why
        allocated = image.allocated()
        where = to_compare(self._reader, self._disk, allocated)
        with self._progress("comparing", where.total) as advance:
            wanted, self.result.compared = differing(self._reader, self._disk, image, allocated, where, advance)
        return wanted

    def _bring(self, image: RawImage, wanted: Extents) -> None:
        self.result.skipped = self._size - wanted.total
        self._copy(image, wanted, zeroes=True)
        if self._check:
            self._compare(image)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _copy(
        self,
        image: Any,
        wanted: Extents,
        *,
        zeroes: bool,
        checkpoint: Callable[[Extents], None] = lambda done: None,
    ) -> None:
        copy = Copy(self._store, self._reader, self._disk, image)
        parts = plan(self._reader, self._disk, wanted, zeroes=zeroes)
        with self._progress("restoring", wanted.total) as advance:
            copy.run(parts, advance, checkpoint)
        moved = copy.moved
        self.result.fetched, self.result.written, self.result.zeroed = moved.fetched, moved.written, moved.zeroed

    def _compare(self, image: RawImage) -> None:
        """Raises CheckFailed."""
        image.forget()
        allocated = image.allocated()
        where = to_compare(self._reader, self._disk, allocated)
        with self._progress("checking", where.total) as advance:
            wrong, _ = differing(self._reader, self._disk, image, allocated, where, advance)
        if wrong:
            blocks = wrong.blocks(BLOCK).tolist()
            raise CheckFailed(
                f"{self._target} doesn't hold what was written: {self._disk}, {len(blocks)} blocks of 16 KiB "
                f"from block {blocks[0]}",
                disk=self._disk,
                blocks=blocks[:1000],
            )
        self.result.checked = True

    def _stamp(self, held: Held, target: Path) -> None:
        """While the image is locked: nobody else writes to it."""
        try:
            restore_stamp.write_held(target, held)
        except OSError as error:
            self.result.notes.append(f"No stamp could be written beside {target}: {error.strerror}")


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _open_partial(partial: Path) -> RawImage:
    """The partial file, made where it isn't there, ours alone. Raises TargetBusy, OSError."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(partial, flags, 0o600))
        try:
            image = RawImage(partial, writable=True)
        except DiskInUse:
            raise TargetBusy(f"another process writes {partial}", path=str(partial)) from None
        except DiskError as error:
            if isinstance(error.__context__, FileNotFoundError):
                continue
            raise
        # Another restore may have ended between the opening and the lock: the file has its real name then.
        with contextlib.suppress(FileNotFoundError):
            if image.is_at(partial):
                return image
        image.close()


def _rename(partial: Path, target: Path, overwrite: bool) -> None:
    """Give the whole file its name. Raises TargetExists (without ``overwrite``), OSError."""
    if overwrite:
        partial.rename(target)
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise TargetExists(f"{target} appeared while it was restored; the new one is {partial}") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without links.
        if target.exists() or target.is_symlink():
            raise TargetExists(f"{target} appeared while it was restored; the new one is {partial}") from None
        partial.rename(target)
    else:
        partial.unlink()
