"""A steady writer, and its ledger: which of its writes a recovery point holds, and whether that can be true.

The writer writes one slot after the other, each acknowledged and flushed before the next: whatever the disks hold at an
instant is what the first N writes left, on both disks. A recovery point that holds anything else is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from homeport.disks.errors import DiskError
from homeport.disks.nbd.client import NbdClient
from homeport.domain.units import BLOCK

SLOT = 4096
"""Bytes of one write: a page, which a process that is killed has written or hasn't."""


class WrongPoint(AssertionError):
    """A recovery point holds what the disks never held, or lacks what they held at its instant."""


@dataclass
class Write:
    """``acked``: None: whether it was done isn't known (yet)."""

    disk: str
    slot: int
    digest: bytes
    acked: datetime | None = None


def digest_of(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass
class Ledger:
    """``sizes``: bytes of each disk. Writes are numbered from 1; 0 is what :meth:`begin_with` was told."""

    sizes: dict[str, int]
    writes: list[Write] = field(default_factory=list)
    _versions: dict[tuple[str, int], list[tuple[int, bytes]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_with(self, disk: str, data: bytes) -> None:
        """What a disk holds before the first write."""
        for slot, found in enumerate(_slots(data)):
            self._versions[disk, slot] = [(0, digest_of(found))]

    def begin(self, disk: str, slot: int, data: bytes) -> Write:
        """From now on a point may hold it."""
        write = Write(disk, slot, digest_of(data))
        with self._lock:
            self.writes.append(write)
            self._versions[disk, slot].append((len(self.writes), write.digest))
        return write

    @property
    def acked(self) -> int:
        """Writes that are done: the number of the last one."""
        return self.acked_before(datetime.max.replace(tzinfo=UTC))

    def acked_before(self, instant: datetime) -> int:
        """The number of the last write that was acknowledged before ``instant``."""
        with self._lock:
            for number in range(len(self.writes), 0, -1):
                acked = self.writes[number - 1].acked
                if acked is not None and acked < instant:
                    return number
        return 0

    def check(self, content: dict[str, bytes], instant: datetime) -> int:
        """How many writes disks hold that are a point of ``instant``. Raises :class:`WrongPoint`."""
        if {disk: len(data) for disk, data in content.items()} != self.sizes:
            raise WrongPoint(f"the disks have { ({disk: len(data) for disk, data in content.items()}) } bytes")
        with self._lock:
            versions = {key: list(found) for key, found in self._versions.items()}
        found: dict[tuple[str, int], int] = {}
        for disk, data in content.items():
            for slot, piece in enumerate(_slots(data)):
                digest = digest_of(piece)
                known = [number for number, each in versions[disk, slot] if each == digest]
                if not known:
                    raise WrongPoint(f"slot {slot} of {disk} holds what was never written there")
                found[disk, slot] = known[-1]
        upto = max(found.values())
        for (disk, slot), number in found.items():
            newest = max(each for each, _ in versions[disk, slot] if each <= upto)
            if number != newest:
                raise WrongPoint(f"it holds write {upto}, but of slot {slot} of {disk} number {number}, not {newest}")
        promised = self.acked_before(instant)
        if upto < promised:
            raise WrongPoint(f"it is of {instant}, when write {promised} was done, and holds only {upto}")
        return upto

    def changed(self, after: int, upto: int) -> int:
        """Bytes of the blocks that the writes ``after`` + 1 to ``upto`` touched: what a point of them must carry."""
        with self._lock:
            return BLOCK * len({(each.disk, each.slot * SLOT // BLOCK) for each in self.writes[after:upto]})


def _slots(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for offset in range(0, len(data), SLOT):
        yield view[offset : offset + SLOT]


class Writer:
    """Writes random slots until it is stopped, whatever happens to the machine: a write that failed is done again.

    ``connect``: to a disk of the machine, as its guest. ``pause``: seconds between two writes. ``area``: of each disk
    the slots that are written; may be changed.
    """

    def __init__(
        self, ledger: Ledger, connect: Callable[[str], NbdClient], area: dict[str, range], pause: float = 0.05
    ) -> None:
        self.ledger = ledger
        self.area = area
        self.refused: str | None = None
        """Why the last try failed; None: it did not."""
        self._connect = connect
        self.pause = pause
        self._chance = random.Random(7)
        self._clients: dict[str, NbdClient] = {}
        self._go = threading.Event()
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._go.set()
        self._thread.start()

    def hold(self, timeout: float = 90) -> int:
        """No more writes until :meth:`go_on`; the number of the last one, which is done."""
        self._go.clear()
        if not self._idle.wait(timeout):
            raise AssertionError(f"the last write does not end: {self.refused}")
        return self.ledger.acked

    def go_on(self) -> None:
        self._idle.clear()
        self._go.set()

    def stop(self) -> None:
        self._stop.set()
        self._go.set()
        if self._thread.is_alive():
            self._thread.join(90)
        self._close()

    def _run(self) -> None:
        while not self._stop.wait(self.pause):
            if not self._go.is_set():
                self._idle.set()
                self._go.wait()
                continue
            disk = self._chance.choice(sorted(self.area))
            slot = self._chance.choice(self.area[disk])
            data = secrets.token_bytes(SLOT)
            write = self.ledger.begin(disk, slot, data)
            while not self._done(disk, slot, data):
                if self._stop.wait(0.1):
                    return
            write.acked = datetime.now(UTC)

    def _done(self, disk: str, slot: int, data: bytes) -> bool:
        try:
            if disk not in self._clients:
                self._clients[disk] = self._connect(disk)
            self._clients[disk].write(slot * SLOT, data)
            self._clients[disk].flush()
        except (DiskError, OSError) as error:
            self.refused = str(error)
            self._close()
            return False
        self.refused = None
        return True

    def _close(self) -> None:
        for client in self._clients.values():
            with contextlib.suppress(DiskError, OSError):
                client.close()
        self._clients.clear()


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> float:
    """Seconds that it took. Raises AssertionError with what ``what`` says then."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"waited {seconds:.0f} s for {what()}")
        time.sleep(0.1)
    return time.monotonic() - began
