"""A source that works on any powered-off disk image: nothing is tracked, so differences are found by digests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from homeport.disks.errors import DiskError
from homeport.disks.images import Image, open_image
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.qemu.bitmaps import new_incarnation
from homeport.sources.errors import ViewBroken
from homeport.sources.hold import NothingRuns
from homeport.sources.interface import Changed, Cut, DiskView, Knowledge, PointView


class ImageView:
    """One disk image. ``size`` in bytes."""

    def __init__(self, id: str, image: Image, changed: Changed) -> None:
        self.id = id
        self.size = image.size
        self.changed = changed
        self._image = image

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self._image.read_into(offset, buffer)
        except (DiskError, OSError) as error:
            raise ViewBroken(
                f"{self.id}: bytes {offset} to {offset + buffer.nbytes} can't be read: {error}",
                remedy="Look at the disk image and at the storage below it.",
            ) from error

    def allocated(self) -> Extents:
        return self._image.allocated()


class ScanSource:
    """Disks of a machine that is powered off and stays so: opened (and locked) at the first view, till :meth:`close`.

    ``images``: disk id → (path, "raw" or "qcow2"), in the machine's order. ``changed``: disk id → the extents that may
    differ from any base that will be asked for, where the caller knows them; else it is UNKNOWN. Raises DiskInUse
    where the machine runs after all.
    """

    def __init__(self, images: Mapping[str, tuple[Path, str]], changed: Mapping[str, Extents] | None = None) -> None:
        self._images = dict(images)
        self._changed = dict(changed or {})
        self._open: dict[str, Image] = {}

    def track(self, base: PointId) -> None:
        """There is nothing to track with; a disk that is off does not change."""

    def tracked(self) -> dict[PointId, str]:
        return {}

    def live(self) -> PointView:
        disks = self._disks({disk: Changed(Knowledge.EVERYTHING) for disk in self._images})
        return PointView(PointId("0" * 16, 0), None, Consistency.CRASH, datetime.now(UTC), new_incarnation(), disks)

    def begin_point(
        self,
        point: PointId,
        base: PointId,
        consistency: Consistency = Consistency.CRASH,
        *,
        incarnation: str | None = None,
        cut: Cut | None = None,
    ) -> PointView:
        """Crash-consistent always: whether the guest shut down cleanly is for the caller to know."""
        instant = datetime.now(UTC)
        if cut:
            cut.assemble()
            instant = cut.take(NothingRuns(), lambda: None)
        changed = {
            disk: Changed(Knowledge.EXTENTS, self._changed[disk])
            if disk in self._changed
            else Changed(Knowledge.UNKNOWN)
            for disk in self._images
        }
        disks = self._disks(changed)
        return PointView(point, base, Consistency.CRASH, instant, new_incarnation(), disks)

    def _disks(self, changed: Mapping[str, Changed]) -> tuple[DiskView, ...]:
        for disk, (path, form) in self._images.items():
            if disk not in self._open:
                self._open[disk] = open_image(path, form)
        return tuple(ImageView(disk, self._open[disk], changed[disk]) for disk in self._images)

    def handed(self, point: PointId) -> None:
        """Nothing to drop: the disks don't change."""

    def commit(self, point: PointId) -> None:
        """Nothing to forget."""

    def abort(self, point: PointId) -> None:
        """Nothing to put back."""

    def recover(self, handed: list[PointId]) -> None:
        """Nothing to recover."""

    def close(self) -> None:
        images, self._open = self._open, {}
        for image in images.values():
            image.close()

    def __enter__(self) -> ScanSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
