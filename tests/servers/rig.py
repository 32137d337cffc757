"""A machine of disks, a store, and the cycle between them; what the tests of the cycle share."""

from __future__ import annotations

import random
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from storage_daemon import StorageDaemon

from homeport.domain.points import Consistency, PointId
from homeport.domain.units import BLOCK
from homeport.servers.cache_room import CacheRoom
from homeport.servers.cycle import Cycle, Taken
from homeport.servers.digest_file import DigestFile, known
from homeport.servers.replication_spec import ReplicationSpec, StoreAddress
from homeport.sources.qemu import QemuSource
from homeport.store import MachineStore
from tests.servers.bucket import KEYS, FolderObjects, read_point

MiB = 1 << 20
Content = dict[str, bytes]


def spec_of(timeline: str, tracker_base: PointId | None = None, same_as: PointId | None = None) -> ReplicationSpec:
    return ReplicationSpec(
        item="item",
        vm="vm",
        timeline=timeline,
        keys=KEYS,
        store=StoreAddress("b", "http://127.0.0.1:1", "token"),
        interval=3600.0,
        app_consistent=0.0,
        retention=0.0,
        tracker_base=tracker_base,
        same_as=same_as,
        raw={},
    )


class Rig:
    """``seen``: the content of each point when it was first seen."""

    def __init__(self, daemon: StorageDaemon, folder: Path, timeline: str | None = None) -> None:
        self.daemon = daemon
        self.folder = folder
        self.objects = FolderObjects(folder / "store")
        self.own = FolderObjects(folder / "own")
        self.seen: dict[PointId, Content] = {}
        self.chance = random.Random(11)
        self.room: CacheRoom | None = None
        self.owner = "test"
        self.begin(timeline or secrets.token_hex(8))

    def begin(self, timeline: str, **base: PointId | None) -> None:
        """Go on with an empty timeline and an empty cache."""
        self.spec = spec_of(timeline, **base)
        self.cache = self.folder / f"cache-{timeline}"
        self.store.create_timeline(timeline)
        self._clients: Any = None

    @property
    def store(self) -> MachineStore:
        """As a fresh process sees it."""
        return MachineStore(self.objects, KEYS)

    def source(self) -> QemuSource:
        return QemuSource(
            self.daemon.qmp,
            agent_path=None,
            scratch=self.daemon.folder / "scratch",
            scratch_limit=64 * MiB,
            nbd_dir=self.daemon.folder,
            nbd_server=self.daemon.nbd,
        )

    def cycle(self) -> Cycle:
        return Cycle(
            self.spec, self.source(), self.store, MachineStore(self.own, KEYS), self.cache, self.owner,
            lambda phase, done, total: None, lambda: {"name": "vm"},
            self.room,
        )  # fmt: skip

    # ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────

    def restart(self) -> None:
        """A power cut and a start: raw disks' bitmaps are gone, qcow2's are inconsistent."""
        self.daemon.kill()
        self._clients = None
        self.daemon.start()

    def write(self, count: int = 4) -> None:
        """As the guest; no thread is made."""
        if self._clients is None:
            self._clients = [self.daemon.disk("disk0"), self.daemon.disk("disk1")]
        for _ in range(count):
            client, length = self.chance.choice(self._clients), self.chance.choice((512, 5_000, BLOCK, 70_000))
            offset = self.chance.randrange(0, self.daemon.size - length) // 512 * 512
            if self.chance.random() < 0.8:
                client.write(offset, self.chance.randbytes(length // 512 * 512))
            else:
                client.trim(offset, length // 512 * 512)

    def write_at(self, disk: str, offset: int, data: bytes) -> None:
        client = self.daemon.disk(disk)
        client.write(offset, data)
        client.flush()
        client.close()

    def fill(self, content: Content) -> None:
        for disk, data in content.items():
            client = self.daemon.disk(disk)
            for offset in range(0, len(data), MiB):
                client.write(offset, data[offset : offset + MiB])
            client.flush()
            client.close()

    def disks(self) -> Content:
        result = {}
        for disk in self.daemon.images:
            client = self.daemon.disk(disk)
            result[disk] = client.read(0, client.size)
            client.close()
        return result

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    def take(self, cycle: Cycle, **options: Any) -> Taken:
        """A point of disks that nobody writes to meanwhile: it must equal them."""
        taken = cycle.take_point(Consistency.CRASH, **options)
        self.seen[taken.point] = self.disks()
        return taken

    def check(self, newest: int = 1000) -> None:
        """The newest points in the store are what they were when they were taken, or first seen; digest files tell the
        truth."""
        store = self.store
        for info in store.points(self.spec.timeline)[-newest:]:
            content = read_point(store, info.id)
            assert self.seen.setdefault(info.id, content) == content, info.id
        head = store.head(self.spec.timeline)
        if head is None:
            return
        reader = store.open(head)
        for disk in reader.disks:
            path = self.cache / "digests" / self.spec.timeline / disk
            if not path.exists():
                continue
            file = DigestFile(path, reader.disks[disk])
            try:
                if file.valid_for == f"{head} {reader.incarnation}":
                    rows = known(file.digests)
                    truth = np.concatenate(
                        [reader.digests(disk).blocks(n) for n in range(-(-reader.disks[disk] >> 24))]
                    )
                    assert (file.digests[rows] == truth[rows]).all(), f"the digest file of {disk} lies about {head}"
            finally:
                file.close()


def differing(one: Content, other: Content) -> int:
    """Bytes of the 16 KiB blocks that differ."""
    blocks = 0
    for disk, data in one.items():
        a, b = (np.frombuffer(each, np.uint8).reshape(-1, BLOCK) for each in (data, other[disk]))
        blocks += int((a != b).any(axis=1).sum())
    return blocks * BLOCK
