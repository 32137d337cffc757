"""A disk's first copy and its changes from one site to another: Homeport in processes apart, beside rsync and zstd.

    make bench BENCH=wan                                  over the emulated WAN, and without one
    python -m tests.bench.wan --mib 256 --links wan       less of the disk, one link

Needs root: the sites are network namespaces. docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.namespaces import Namespace, kill
from demo.networks import Networks
from demo.round_trip import MACHINE
from demo.sites import AWAY, HOME, NAMESPACES, Sites
from homeport.disks.nbd.client import NbdClient
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from tests.bench.images import GiB, MiB, data_extents, images
from tests.bench.measure import BenchError, cpu_of, must_equal
from tests.bench.wan_peers import link_limit, part_of, rsync, ssh_server, wait_for_ssh, zstd

LINKS = ("wan", "loopback")


@dataclass
class Copied:
    """``crossed``: bytes that went over the link, None where nobody counted; ``cpu``: CPU seconds by process."""

    link: str
    work: str
    who: str
    seconds: float
    cpu: dict[str, float] = field(default_factory=dict)
    crossed: int | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="how much of the disk, from its start (default: 1024)")
    parser.add_argument("--links", default=",".join(LINKS), help="wan, loopback or both")
    parser.add_argument("--images", type=Path, help="where the images of `make bench BENCH=store` lie")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory(prefix="homeport-wan-") as scratch:
        folder = Path(scratch)
        of = images("slice", options.images)
        size = options.mib * MiB
        days = [part_of(image, folder / name, size) for image, name in ((of.day1, "day1.raw"), (of.day2, "day2.raw"))]
        changed = [extent for extent in json.loads(of.changed.read_text()) if sum(extent) <= size]
        with days[0].open("rb") as opened:
            allocated = sum(end - start for start, end in data_extents(opened.fileno()))
        limits: dict[str, float] = {}
        copied: list[Copied] = []
        for link in options.links.split(","):
            with Networks(NAMESPACES) as networks:
                ends = (networks[f"{HOME}-ps"], networks[f"{AWAY}-ps"])
                here, there = ends if link == "wan" else (ends[1], ends[1])
                limits[link] = link_limit(here, there)
                copied += _others(link, here, there, folder / link, days)
                copied += _homeport(link, networks, folder / f"{link}-homeport", days, changed)
    _show(console, copied, limits, allocated)
    if options.json:
        found = {"limits": limits, "allocated": allocated, "rows": [asdict(row) for row in copied]}
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _others(link: str, here: Namespace, there: Namespace, folder: Path, days: list[Path]) -> list[Copied]:
    folder.mkdir()
    target = folder / "copy.raw"
    rows = []
    with ssh_server(there, folder / "ssh") as ssh:
        wait_for_ssh(ssh, here)
        for work, who, tool, day in (
            ("first copy", "zstd -1 -T2 | ssh", zstd, days[0]),
            ("first copy", "rsync -z over ssh", rsync, days[0]),
            ("changes", "rsync -z over ssh", rsync, days[1]),
        ):
            if work == "first copy":
                target.unlink(missing_ok=True)
            with _counted(here) as counted:
                sample = tool(ssh, here, day, target)
            must_equal(target, day)
            rows.append(Copied(link, work, who, sample.seconds, {"both ends": sample.cpu}, counted()))
    return rows


@contextlib.contextmanager
def _counted(here: Namespace) -> Iterator[Any]:
    """Bytes that left a namespace over its site's network; None where that isn't how they went."""

    def sent() -> int:
        with here.inside():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return next(int(line.split()[9]) for line in lines if line.strip().startswith("eth0:"))

    before = sent()
    yield lambda: (sent() - before) if sent() - before > MiB else None


def _homeport(link: str, networks: Networks, folder: Path, days: list[Path], changed: list[list[int]]) -> list[Copied]:
    folder.mkdir()
    demo = Sites(folder, networks, one_place=link == "loopback")
    try:
        machine = demo.site_folder(HOME) / MACHINE
        machine.mkdir(parents=True)
        part_of(days[0], machine / "disk0.raw", days[0].stat().st_size)
        (machine / "machine.toml").write_text(
            f'uuid = "{uuid.uuid4()}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n'
            '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
        )
        demo.start_homeport()
        with demo.place(HOME).inside():
            QemuSite(demo.site_folder(HOME), name=HOME).start(MACHINE, StartOptions())
        demo.homeport("machine", "list", HOME)
        policy = ("--rpo-threshold", "1h", "--retention", "24h", "--app-consistent", "0", "--interval", "15m")
        demo.homeport("policy", "create", "bench", *policy)
        first = _measured(
            demo, link, "first copy", "protect", MACHINE, "--from", HOME, "--to", AWAY, "--policy", "bench"
        )
        with NbdClient(str(machine / "run/disks.sock"), "disk0") as client, days[1].open("rb") as day2:
            for offset, length in changed:
                day2.seek(offset)
                client.write(offset, day2.read(length))
            client.flush()
        return [first, _measured(demo, link, "changes", "point", MACHINE)]
    finally:
        kill(list(networks.namespaces.values()))


def _measured(demo: Sites, link: str, work: str, *words: str) -> Copied:
    before, crossed, began = _cpu(demo), demo.crossed(), time.monotonic()
    demo.homeport(*words)
    seconds = time.monotonic() - began
    after = _cpu(demo)
    cpu = {name: after[name] - before[name] for name in after}
    return Copied(link, work, "homeport", seconds, cpu, demo.crossed() - crossed)


def _cpu(demo: Sites) -> dict[str, float]:
    used = {name: cpu_of(process.pid) for name, process in demo.servers.running.items()}
    source = demo.site_folder(HOME) / MACHINE / "run/qemu.pid"
    return {**used, "source": cpu_of(int(source.read_text()))}


def _show(console: Console, copied: list[Copied], limits: dict[str, float], allocated: int) -> None:
    table = Table(title=f"A disk with {allocated / MiB:.0f} MiB allocated, to another site", title_justify="left")
    for column in ("link", "work", "who", "took", "crossed", "of the link", "CPU s per GiB"):
        table.add_column(column, justify="left" if column in ("link", "work", "who") else "right")
    for row in copied:
        share = row.crossed / row.seconds / limits[row.link] if row.crossed else None
        per = ", ".join(f"{name} {seconds / (allocated / GiB):.1f}" for name, seconds in row.cpu.items())
        crossed = "–" if row.crossed is None else f"{row.crossed / MiB:.1f} MiB"
        of_link = "–" if share is None else f"{share:.0%}"
        table.add_row(row.link, row.work, row.who, f"{row.seconds:.1f} s", crossed, of_link, per)
    console.print(table)
    for link, rate in limits.items():
        console.print(f"{link}: one TCP connection carries {rate * 8 / 1e6:.0f} Mbit/s", highlight=False)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{error}")
