"""The servers of two sites, each a process of its own, over mutual TLS, and a machine that runs at one of them: what
the benchmarks across sites share. Needs root: the sites are network namespaces."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.namespaces import kill
from demo.networks import Networks
from demo.round_trip import MACHINE
from demo.sites import AWAY, HOME, Sites
from homeport.disks.nbd.client import NbdClient
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from tests.bench.measure import cpu_of

LINKS = ("wan", "loopback")
DISK = "disk0"
POLICY = "bench"


@dataclass(frozen=True)
class Apart:
    """The machine has one raw disk, and no guest: a qemu-storage-daemon runs it."""

    demo: Sites

    @property
    def machine(self) -> Path:
        return self.demo.site_folder(HOME) / MACHINE

    @property
    def disks(self) -> Path:
        """Where the disk can be written to by NBD, as the guest would."""
        return self.machine / "run/disks.sock"

    def client(self) -> NbdClient:
        return NbdClient(self.disks, DISK)

    def protect(self) -> None:
        """Returns when the first point is there."""
        self.demo.homeport("protect", MACHINE, "--from", HOME, "--to", AWAY, "--policy", POLICY)

    def point(self) -> None:
        self.demo.homeport("point", MACHINE)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by process: the servers by their names, and the source."""
        used = {name: cpu_of(process.pid) for name, process in self.demo.servers.running.items()}
        return {**used, "source": cpu_of(int((self.machine / "run/qemu.pid").read_text()))}

    def backlog(self) -> int:
        """Points that wait in the process server's cache."""
        return sum(1 for _ in self.demo.site_folder(HOME).rglob("spool/*/*/complete"))


@contextlib.contextmanager
def sites_apart(
    link: str, networks: Networks, folder: Path, make_disk: Callable[[Path], object], interval: str
) -> Iterator[Apart]:
    """``link``: "wan", or "loopback": all in one namespace. ``make_disk``: called with where the machine's disk shall
    lie. ``interval``: of its policy. Everything has ended at the end."""
    folder.mkdir()
    demo = Sites(folder, networks, one_place=link == "loopback")
    apart = Apart(demo)
    try:
        apart.machine.mkdir(parents=True)
        make_disk(apart.machine / f"{DISK}.raw")
        (apart.machine / "machine.toml").write_text(
            f'uuid = "{uuid.uuid4()}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n'
            f'[[disk]]\nid = "{DISK}"\npath = "{DISK}.raw"\nformat = "raw"\n'
        )
        demo.start_homeport()
        with demo.place(HOME).inside():
            QemuSite(demo.site_folder(HOME), name=HOME).start(MACHINE, StartOptions())
        demo.homeport("machine", "list", HOME)
        values = ("--rpo-threshold", "1h", "--retention", "24h", "--app-consistent", "0", "--interval", interval)
        demo.homeport("policy", "create", POLICY, *values)
        yield apart
    finally:
        kill(list(networks.namespaces.values()))
