"""Reading a running machine's disks over the NBD server inside its QEMU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from homeport.disks.nbd.errors import NbdClosed, NbdError
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.status import allocated, dirty, dirty_bitmap
from homeport.disks.nbd.wire import BASE_ALLOCATION
from homeport.domain.extents import Extents
from homeport.qemu.qmp import Qmp, QmpGone, QmpSilent
from homeport.sources.errors import SourceGone, ViewBroken
from homeport.sources.interface import Changed
from homeport.sources.scratch import CLUSTER

CONNECTIONS = 4


class QemuDiskView:
    """One disk of a machine, as its QEMU exports it now. Thread-safe. ``size`` in bytes.

    ``bitmap``: the name of a dirty bitmap that is exported with it, or None.
    """

    changed: Changed

    def __init__(self, id: str, address: Path, export: str, qmp_path: Path, bitmap: str | None = None) -> None:
        self.id = id
        self._qmp_path = qmp_path
        self._bitmap = bitmap
        contexts = (BASE_ALLOCATION, *((dirty_bitmap(bitmap),) if bitmap else ()))
        self._pool = NbdPool(address, export, connections=CONNECTIONS, meta_contexts=contexts)
        self.size = self._pool.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._told():
            self._pool.read_into(offset, buffer)

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        with self._told(), self._pool.client() as client:
            client.read_ranges(ranges)

    def allocated(self) -> Extents:
        with self._told():
            return allocated(self._pool)

    def marked(self) -> Extents:
        """What the exported bitmap marks, cut to the disk's size."""
        assert self._bitmap is not None
        with self._told():
            return dirty(self._pool, dirty_bitmap(self._bitmap)).clip(0, self.size)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What it means that the export does not serve a request."""
        try:
            yield
        except NbdError as error:
            if isinstance(error, NbdClosed):
                self._pool.close()
                self._raise_if_gone()
            raise ViewBroken(f"{self.id}: the view can't be read any more: {error}", disk=self.id) from error

    def _raise_if_gone(self) -> None:
        try:
            Qmp.connect(self._qmp_path, 2.0).close()
        except QmpSilent:
            return  # the process is there, only somebody else talks to it
        except QmpGone as gone:
            raise SourceGone(f"{self.id}: the machine's process ended: {gone}", disk=self.id) from gone

    def close(self) -> None:
        """Twice does no harm. Reads raise :class:`ViewBroken` afterwards."""
        self._pool.close()


class InstantView(QemuDiskView):
    """One disk as of an instant: an exported snapshot-access node, read so as to avoid two faults of QEMU.

    * Before 8.0 a request that begins in what was saved to the scratch image and goes on beyond it is answered from the
      *live* disk altogether (``hbitmap_status`` returned the wrong truth value). What was saved are whole clusters, so
      no request here crosses a cluster's boundary.
    * Before 9.2 two reads at the same time whose ranges overlap abort QEMU (an assertion in ``block/reqlist.c``), and
      the guest with it. So overlapping reads wait for each other, and none is repeated after its connection broke.

    For the first reason the block status of the view can't be trusted where the guest wrote since: ``written`` tells
    what that is.
    """

    def __init__(
        self,
        id: str,
        address: Path,
        export: str,
        qmp_path: Path,
        bitmap: str | None,
        written: Callable[[], Extents],
    ) -> None:
        super().__init__(id, address, export, qmp_path, bitmap)
        self._written = written
        self._readers: dict[int, tuple[int, int]] = {}
        self._tickets = 0
        self._turn = threading.Condition()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        with self._told(), self._alone(offset, offset + len(view)), self._pool.client() as client:
            client.maximum_block = CLUSTER
            head = min(-offset % CLUSTER, len(view))
            if head:
                client.read_into(offset, view[:head])
            if head < len(view):
                client.read_into(offset + head, view[head:])

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        if not ranges:
            return
        end = ranges[-1][0] + len(ranges[-1][1])
        with self._told(), self._alone(ranges[0][0], end), self._pool.client() as client:
            for wave in _waves(ranges):
                client.read_ranges(wave)

    def allocated(self) -> Extents:
        # A hole of now that was data at the instant was written since, and is marked as that: so look at holes first.
        with self._alone(0, self.size):
            now = super().allocated()
        return now.union(self._written()).clip(0, self.size)

    @contextmanager
    def _alone(self, start: int, end: int) -> Iterator[None]:
        """Wait for whoever came earlier and reads, or will, any cluster of ``[start, end)``."""
        low, high = start // CLUSTER * CLUSTER, -(-end // CLUSTER) * CLUSTER
        with self._turn:
            self._tickets += 1
            ticket = self._tickets
            self._readers[ticket] = (low, high)
            self._turn.wait_for(
                lambda: (
                    not any(
                        earlier < ticket and first < high and low < last
                        for earlier, (first, last) in self._readers.items()
                    )
                )
            )
        try:
            yield
        finally:
            with self._turn:
                del self._readers[ticket]
                self._turn.notify_all()


def _waves(ranges: Sequence[tuple[int, memoryview]]) -> Iterator[list[tuple[int, memoryview]]]:
    """What may be asked for at once: nothing that crosses a cluster's boundary, and no two of one cluster."""
    wave: list[tuple[int, memoryview]] = []
    last = -1
    for offset, buffer in ranges:
        view = buffer.cast("B")
        while view:
            cluster = offset // CLUSTER
            if cluster == last:
                yield wave
                wave = []
            last = cluster
            length = min(len(view), (cluster + 1) * CLUSTER - offset)
            wave.append((offset, view[:length]))
            offset, view = offset + length, view[length:]
    yield wave
