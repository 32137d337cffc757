"""The world of apart.py with a steady writer, a relay on each way between servers, and small volumes that can be full.

vault ◀─relay─ configuration server ◀─relay─ process server ─relay─▶ process server of the other site ─▶ store
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homeport.domain.points import PointId, PointInfo
from homeport.domain.servers import Role
from homeport.domain.units import KiB, MiB
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.joining import join_configuration_server
from homeport.sites.interface import StartOptions
from homeport.store.timeline import MachineStore
from tests.e2e.apart import SITES, Apart
from tests.e2e.ledger import SLOT, Ledger, Writer, wait_until
from tests.e2e.relays import Relay
from tests.e2e.world import VM

SIZE = 8 * MiB
WRITTEN = range(SIZE * 3 // 4 // SLOT)
"""Slots of each disk that are written from the beginning on."""
FRESH = range(SIZE * 3 // 4 // SLOT, SIZE // SLOT)
"""Slots that have no room on the disk below yet."""
PATIENCE = 90.0
"""Seconds within which points have to go on by themselves: for a busy machine; it takes a few."""
OVERHEAD, OVERHEAD_PER_POINT = 96 * KiB, 16 * KiB
"""Bytes beside blocks: digest maps, records, requests, TLS."""


class Unmountable(Exception):
    """Volumes can't be made here: why."""


class Volume:
    """A file system of its own at ``path``, in memory. Raises :class:`Unmountable`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs")

    def _mount(self, *words: str) -> None:
        done = subprocess.run(["mount", *words, self.path], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unmountable(f"nothing can be mounted: {done.stderr.strip()}")

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free."""
        for attempt in range(100):
            found = os.statvfs(self.path)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            try:
                self._mount("-o", f"remount,size={used}")
                break
            except Unmountable:  # it was written to just now
                if attempt == 99:
                    raise
        try:
            yield
        finally:
            self._mount("-o", f"remount,size={self._size}")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """As if it weren't mounted: an empty folder lies in its place."""
        self._mount("-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", self.path], check=True)

    def close(self) -> None:
        while os.path.ismount(self.path):
            subprocess.run(["umount", "-l", self.path], check=True)


@dataclass
class Seen:
    """A point that was opened and compared: ``upto``: how many writes it holds."""

    info: PointInfo
    upto: int


class Hops(Apart):
    """``volumes``: by what lies there: "machine", "cache", "store", and the names of servers for their state."""

    def __init__(self, *, interval: int = 2) -> None:
        self.relays: dict[str, Relay] = {}
        self.volumes: dict[str, Volume] = {}
        self.unmountable: str | None = None
        super().__init__(size=SIZE, interval=interval)
        self.ledger = Ledger({"disk0": SIZE, "disk1": SIZE})
        self.writer = Writer(self.ledger, partial(self._export, "a", name=VM), {"disk0": WRITTEN, "disk1": WRITTEN})
        self.seen: list[Seen] = []
        self._store: MachineStore | None = None
        self._timeline: str | None = None

    # ── made ────────────────────────────────────────────────────────────────────────────────────────────────────

    def mount(self) -> None:
        """All volumes; where that can't be done, :attr:`unmountable` says why."""
        wanted = {
            "machine": (self.a / VM, 32 * MiB),
            "cache": (self.a / ".homeport" / "cache", 96 * MiB),
            "store": (self.b / ".homeport" / "store", 512 * MiB),
            **{name: (self.own(name), 64 * MiB) for name in ("vault", "cs-a", "cs-b", "ps-a", "ps-b")},
        }
        if os.geteuid():
            self.unmountable = "mounting needs root"
            return
        try:
            for name, (path, size) in wanted.items():
                self.volumes[name] = Volume(path, size)
        except Unmountable as error:
            self.unmountable = str(error)

    def _configure(self, name: str, /, **values: Any) -> None:
        """Each server is told a relay in the place of whom it reaches."""
        kind, _, site = name.partition("-")
        if kind == "cs":
            values["vault"] = self.relay(f"{name} to vault", "vault").url
        if kind.startswith("ps"):
            values["configuration_server"] = self.relay(f"{name} to cs-{site}", f"cs-{site}").url
            values["advertise"] = self.relay(f"to {name}", name).url
        super()._configure(name, **values)

    def relay(self, label: str, server: str) -> Relay:
        if label not in self.relays:
            port = urlsplit(self._url(server)).port
            assert port is not None
            self.relays[label] = Relay(port)
        return self.relays[label]

    @property
    def wan(self) -> Relay:
        """From the process servers of site a to the gateway of site b."""
        return self.relays["to ps-b"]

    def make_machine(self) -> None:
        """Its disks hold random data but for their last quarter, which has no room yet."""
        folder = self.a / VM
        folder.mkdir(exist_ok=True)
        content = {disk: secrets.token_bytes(len(WRITTEN) * SLOT) for disk in self.ledger.sizes}
        (folder / "disk0.raw").write_bytes(content["disk0"])
        os.truncate(folder / "disk0.raw", SIZE)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk1.qcow2", str(SIZE)], check=True)
        (folder / "machine.toml").write_text(
            f'uuid = "{self.uuid}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n'
            '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
            '[[disk]]\nid = "disk1"\npath = "disk1.qcow2"\nformat = "qcow2"\n'
        )
        self.power_on()
        self.write("a", "disk1", 0, content["disk1"])
        for disk, data in content.items():
            self.ledger.begin_with(disk, data.ljust(SIZE, b"\0"))

    def power_on(self) -> None:
        """As the machine's operator."""
        self.site("a").start(VM, StartOptions())

    def machine_pid(self) -> int:
        return int((self.a / VM / "run" / "qemu.pid").read_text())

    def add_process_server(self, name: str) -> None:
        """One more at site a, with a cache of its own."""
        cs = "cs-a"
        self.roles[name] = Role.PROCESS_SERVER
        passphrase = JoinPassphrase(self.own(cs)).text
        join_configuration_server(self.urls[cs], passphrase, self.roles[name], self.own(name), name=name)
        self._url(name)
        self._configure(name, folder=str(self.a), cache=str(self.folder / "caches" / name))
        self.start_server(name)
        self.until(lambda: self.states("a").get(name) == "connected", 60, f"{name} to be connected")

    def begin(self) -> None:
        """All servers run, the writer writes, its machine is protected, and a first point is there."""
        self.mount()
        self.set_up()
        self.writer.start()
        self.protect(process_server="ps-a")
        self.await_point(datetime.now(UTC), "a first point")

    # ── points ──────────────────────────────────────────────────────────────────────────────────────────────────

    def store_of_b(self) -> MachineStore:
        if self._store is None:
            self._store = self.store("b")
        return self._store

    def look(self) -> list[Seen]:
        """Open and compare every point that came since the last look; all of them. Raises WrongPoint."""
        store, timeline = self.store_of_b(), self.timeline
        last = self.seen[-1].info.id if self.seen else PointId(timeline, -1)
        for info in store.points(timeline):
            if info.id.number > last.number:
                reader = store.open(info.id)
                content = {disk: bytes(reader.read(disk, 0, size)) for disk, size in reader.disks.items()}
                self.seen.append(Seen(info, self.ledger.check(content, info.time)))
        return self.seen

    @property
    def timeline(self) -> str:
        """That the machine replicates into; it stays what it is while nothing is failed over."""
        if self._timeline is None:
            self._timeline = PointId.parse(self.points()[-1]["id"]).timeline
        return self._timeline

    def await_point(self, after: datetime, what: str) -> float:
        """A point of an instant after this one is in the store; seconds that it took. All points were compared."""

        def there() -> bool:
            if not self.seen and not self.points():
                return False
            found = self.look()
            return bool(found) and found[-1].info.time > after

        return wait_until(there, PATIENCE, lambda: f"a point: {what}\n{self.log_tail()}")

    def await_all(self) -> None:
        """With the writer held: a point that holds all that it wrote."""
        last = self.writer.hold()
        wait_until(
            lambda: self.look()[-1].upto == last,
            PATIENCE,
            lambda: f"a point with all {last} writes; the newest has {self.seen[-1].upto}\n{self.log_tail()}",
        )

    def await_told(self) -> None:
        """The vault knows the newest point that was seen, and of no trouble."""
        newest = self.seen[-1].info

        def told() -> bool:
            item = self.item()
            known = datetime.fromisoformat(item["last_point"]["time"])
            return known >= newest.time and item["replication"].get("error") is None

        wait_until(told, PATIENCE, lambda: f"the vault to know of {newest}: {self.item()}\n{self.log_tail()}")

    def error_code(self) -> str | None:
        """What the vault knows of the replication's trouble."""
        error = self.item()["replication"].get("error")
        return error["code"] if error else None

    def shipped_since(self, mark: Mark) -> Shipped:
        """With the writer held and all of it in the store."""
        points = [seen for seen in self.seen if seen.info.id.number > mark.point.info.id.number]
        changed, before = [], mark.point.upto
        for seen in points:
            changed.append(self.ledger.changed(before, seen.upto))
            before = seen.upto
        return Shipped(self.wan.sent - mark.sent, sum(changed), max(changed, default=0), len(points))

    def mark(self) -> Mark:
        return Mark(self.look()[-1], self.wan.sent, datetime.now(UTC))

    # ── troubles ────────────────────────────────────────────────────────────────────────────────────────────────

    def end_server(self, name: str) -> None:
        """In order."""
        process = self.servers[name]
        process.terminate()
        assert process.wait(40) == 0, (self.folder / f"{name}.txt").read_text()[-3000:]

    def start_again(self, name: str) -> None:
        self.start_server(name)
        if name == "vault":
            self.until(self._answers, 60, "the vault to be up")

    @contextlib.contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """They are there, and do nothing."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        try:
            for relay in self.relays.values():
                relay.close()
            self.writer.stop()
            for process in self.servers.values():
                process.kill()
                process.wait()
            for name in SITES:
                for machine in self.site(name).machines():
                    self.site(name).power_off(machine.name)
        finally:
            for volume in self.volumes.values():
                volume.close()
            super().close()


@dataclass(frozen=True)
class Mark:
    """Where things stood: the newest point that was seen, bytes that had been sent over the WAN, and when."""

    point: Seen
    sent: int
    at: datetime


@dataclass(frozen=True)
class Shipped:
    """Bytes. ``sent``: over the WAN, with all that goes with it; ``changed``: in blocks, by the writer's ledger, of all
    points; ``generation``: of the largest one."""

    sent: int
    changed: int
    generation: int
    points: int

    @property
    def most(self) -> int:
        """What may have been sent: everything once, and one generation twice."""
        return self.changed + self.generation + OVERHEAD + OVERHEAD_PER_POINT * self.points
