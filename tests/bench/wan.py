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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.namespaces import Namespace
from demo.networks import Networks
from demo.sites import AWAY, HOME, NAMESPACES
from tests.bench.images import GiB, MiB, data_extents, images
from tests.bench.measure import BenchError, must_equal
from tests.bench.sites_apart import LINKS, Apart, sites_apart
from tests.bench.wan_peers import link_limit, part_of, rsync, ssh_server, wait_for_ssh, zstd


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
    def make_disk(path: Path) -> None:
        part_of(days[0], path, days[0].stat().st_size)

    with sites_apart(link, networks, folder, make_disk, "15m") as apart:
        first = _measured(apart, link, "first copy", apart.protect)
        with apart.client() as client, days[1].open("rb") as day2:
            for offset, length in changed:
                day2.seek(offset)
                client.write(offset, day2.read(length))
            client.flush()
        return [first, _measured(apart, link, "changes", apart.point)]


def _measured(apart: Apart, link: str, work: str, do: Callable[[], None]) -> Copied:
    before, crossed, began = apart.cpu(), apart.demo.crossed(), time.monotonic()
    do()
    seconds = time.monotonic() - began
    after = apart.cpu()
    cpu = {name: after[name] - before[name] for name in after}
    return Copied(link, work, "homeport", seconds, cpu, apart.demo.crossed() - crossed)


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
