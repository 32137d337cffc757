"""A recovery point's disk as something to serve over NBD."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from homeport.disks.nbd.export import Pieces
from homeport.disks.nbd.server import NbdServer
from homeport.disks.nbd.status import status_of
from homeport.domain.units import GiB
from homeport.store.read_ahead import AHEAD, FRAME, FetchPool, ReadAhead
from homeport.store.reader import PointReader

STATUS_RUNS = 4096
"""Runs in one answer about a disk's holes; a client asks on from where it ends."""

CACHE_MOST = GiB
"""Bytes of decoded frames kept by default, where a quarter of the memory is more."""


def default_cache() -> int:
    """Bytes of decoded frames that a process which serves a point keeps: a quarter of the memory that it may use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/proc/self/cgroup").read_text().partition("0::")[2].partition("\n")[0]
        memory = min(memory, int(Path(f"/sys/fs/cgroup{group}/memory.max").read_text()))
    except (OSError, ValueError):
        pass  # no such group, or no limit ("max")
    return min(memory // 4, CACHE_MOST)


class PointExport:
    """Read-only. See :class:`homeport.disks.nbd.export.PieceExport`."""

    read_only = True

    def __init__(self, reader: PointReader, disk: str, pool: FetchPool) -> None:
        """``pool``: shared by the exports of a server."""
        self._reader = reader
        self._name = disk
        self._disk = reader.disk(disk)
        self.size = self._disk.size
        self._data = reader.extents(disk)
        self._ahead = ReadAhead(self._disk, pool, min(AHEAD, max(reader.frames.limit // 8, FRAME)))
        self.pieces = self._disk.pieces
        self._at_hand = self._disk.at_hand

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._reader.read_into(self._name, offset, buffer)

    def at_hand(self, offset: int, length: int) -> Pieces | None:
        if (offset + length) % FRAME < length:
            self._ahead.reached(offset, length)
        return self._at_hand(offset, length)

    def prepare(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._ahead.prepare(ranges)

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(length, flags) over the range, as NBD's base:allocation has it."""
        return status_of(self._data, offset, length, STATUS_RUNS)


@contextmanager
def served(reader: PointReader, exports: dict[str, str]) -> Iterator[NbdServer]:
    """A server of the point's disks (id → name of its export), to be told where to listen and started. Closed behind
    the context."""
    pool = FetchPool()
    try:
        server = NbdServer({name: PointExport(reader, disk, pool) for disk, name in exports.items()})
        try:
            yield server
        finally:
            server.close()
    finally:
        pool.close()
