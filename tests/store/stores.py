"""What the store's tests share: a machine's key, points made of bytes, a bucket that fails."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import MachineKey, MachineStore, MemoryObjects, Objects, SpooledPoint, Writer

VAULT = "11111111-2222-3333-4444-555555555555"
MACHINE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
KEYS = MachineKey(VAULT, MACHINE, bytes(range(32)))
T1, T2, T3 = "1" * 16, "2" * 16, "3" * 16
NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)

Content = dict[str, bytearray]


def noise(seed: int, length: int) -> bytes:
    """Incompressible bytes, the same for the same seed."""
    return np.random.default_rng(seed).bytes(length)


@lru_cache(2000)
def blocks(seed: int, count: int) -> bytes:
    """Blocks of which some compress and some don't."""
    pieces = [
        noise(seed * 1000 + n, BLOCK) if (seed + n) % 2 else bytes([1 + (seed + n) % 250]) * BLOCK for n in range(count)
    ]
    return b"".join(pieces)


def store(objects: Objects | None = None) -> MachineStore:
    return MachineStore(MemoryObjects() if objects is None else objects, KEYS)


def spool_point(
    writer: Writer,
    number: int,
    spool: Path,
    parent: PointId | None,
    writes: list[tuple[str, int, bytes]],
    sizes: dict[str, int],
    **more: object,
) -> SpooledPoint:
    """Build a point of whole writes (disk, offset, data) up to "handed"."""
    builder = writer.builder(number, spool, parent)
    for disk, offset, data in writes:
        builder.write(disk, offset, data)
    return builder.finish(instant=NOW, disks=sizes, incarnation="00000000", **more)  # type: ignore[arg-type]


def add_point(
    writer: Writer,
    spool: Path,
    parent: PointId | None,
    writes: list[tuple[str, int, bytes]],
    sizes: dict[str, int],
    number: int | None = None,
    **more: object,
) -> PointId:
    """Build and publish."""
    if number is None:
        number = parent.number + 1 if parent and parent.timeline == writer.timeline else 1
    spooled = spool_point(writer, number, spool, parent, writes, sizes, **more)
    writer.publish(spooled)
    spooled.remove()
    return PointId(writer.timeline, number)


def read_all(store: MachineStore, point: PointId) -> dict[str, bytes]:
    reader = store.open(point)
    return {disk: reader.read(disk, 0, size) for disk, size in reader.disks.items()}


class Crash(BaseException):
    """The process died here."""


class FaultyObjects:
    """Dies at the ``at``-th put or delete (from 1), before or after it took effect; 0: never. Counts them."""

    def __init__(self, inner: MemoryObjects, at: int = 0, *, after: bool = False) -> None:
        self.inner = inner
        self.at = at
        self.after = after
        self.count = 0

    def _step(self, action: object) -> None:
        self.count += 1
        dying = self.count == self.at
        if dying and not self.after:
            raise Crash
        action()  # type: ignore[operator]
        if dying:
            raise Crash

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._step(lambda: self.inner.put(key, data, if_absent=if_absent))

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        self._step(lambda: self.inner.put_file(key, path, if_absent=if_absent))

    def delete(self, key: str) -> None:
        self._step(lambda: self.inner.delete(key))

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(key, offset, length)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self.inner.list(prefix)
