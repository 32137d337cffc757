"""What the tests of restores share: a machine of one disk, a store that fails in the middle."""

from __future__ import annotations

from pathlib import Path

from homeport.bucket.restoring import Restored, restore
from homeport.domain.points import PointId
from homeport.store import MachineStore, MemoryObjects, StoreUnavailable
from tests.store.stores import KEYS, T1, add_point

DISK = "disk0"
ONE, TWO = PointId(T1, 1), PointId(T1, 2)


class Machine:
    """One disk, its points and what they hold."""

    def __init__(self, folder: Path, objects: MemoryObjects | None = None) -> None:
        self.folder = folder
        self.objects = objects or MemoryObjects()
        self.store = MachineStore(self.objects, KEYS)
        self.store.create_timeline(T1)
        self.writer = self.store.writer(T1, "test")
        self.contents: dict[PointId, bytes] = {}
        self.head: PointId | None = None

    def add(self, writes: list[tuple[int, bytes]], size: int) -> PointId:
        before = bytearray(self.contents[self.head] if self.head else b"")
        now = before[:size].ljust(size, b"\0")
        for offset, data in writes:
            now[offset : offset + len(data)] = data
        whole = [(DISK, offset, data) for offset, data in writes]
        self.head = add_point(self.writer, self.folder / "spool", self.head, whole, {DISK: size})
        self.contents[self.head] = bytes(now)
        return self.head

    def restore(self, point: PointId, target: Path, **options: object) -> Restored:
        store = MachineStore(self.objects, KEYS)
        return restore(store, store.open(point), DISK, target, **options)  # type: ignore[arg-type]


class Dying(MemoryObjects):
    """Reads of segments fail after some."""

    left = 1 << 60
    reads = 0

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if "/segment/" in key:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("the store is gone")
            self.reads += length
        return super().get_range(key, offset, length)
