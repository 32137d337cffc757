"""RPO under churn: what a 5 s interval comes to while a machine's disk is written to at a steady rate.

    make bench BENCH=rpo                                    20 and 54 MB/s over loopback, two minutes each
    python -m tests.bench.rpo --seconds 30 --rates 20       less of it
    python -m tests.bench.rpo --links wan --rates 4         over the emulated WAN

Needs root: the sites are network namespaces. docs/benchmarks.md says what each row means. There is no bar: it is told
as seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.networks import Networks
from demo.round_trip import until
from demo.sites import AWAY, NAMESPACES
from homeport.domain.points import PointId
from tests.bench.churn import POOL, half_compressible
from tests.bench.images import GiB, MiB
from tests.bench.measure import PROCESSORS, BenchError, busy
from tests.bench.sites_apart import DISK, LINKS, Apart, sites_apart

HELD = 1.2
"""An interval is held where 95 of 100 points came within so many times of it."""


@dataclass
class Spread:
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])

    def __str__(self) -> str:
        return f"{self.median:.1f} / {self.p95:.1f} / {self.most:.1f} s"


@dataclass
class Seen:
    """``rate``: bytes per second that were asked for, ``written`` what the writer came to. ``between``: seconds from
    one point's instant to the next. ``rpo``: age of the newest point that is in the store, each second. ``changed``,
    ``stored``: bytes of those points, in the disk and in the store; ``crossed``: bytes between the sites.
    ``backlog``: points in the cache when the writer ended; ``drained``: seconds until none was left. ``cpu``: CPU
    seconds by process; ``others``: part of the processors that others used."""

    link: str
    rate: float
    interval: float
    seconds: float
    written: float
    behind: float
    points: int
    between: Spread
    rpo: Spread
    changed: int
    stored: int
    crossed: int
    backlog: int
    drained: float
    cpu: dict[str, float] = field(default_factory=dict)
    others: float = 0.0
    each: list[tuple[float, float, int]] = field(default_factory=list)
    """Of each point: its instant since the writer began, seconds until it was in the store, bytes changed."""

    @property
    def held(self) -> bool:
        return self.between.p95 <= self.interval * HELD


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="of each rate (default: 120)")
    parser.add_argument("--rates", default="20,54", help="MB written per second (default: 20,54)")
    parser.add_argument("--links", default="loopback", help="wan, loopback or both (default: loopback)")
    parser.add_argument("--interval", type=int, default=5, help="seconds, of the policy (default: 5)")
    parser.add_argument("--mib", type=int, default=4096, help="of the disk, all of which is written to (default: 4096)")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    links = options.links.split(",")
    if not set(links) <= set(LINKS):
        parser.error(f"--links: {' and '.join(LINKS)} are known")
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory(prefix="homeport-rpo-") as scratch:
        for link in links:
            with (
                Networks(NAMESPACES) as networks,
                sites_apart(
                    link,
                    networks,
                    Path(scratch) / link,
                    lambda path: _full_disk(path, options.mib * MiB),
                    f"{options.interval}s",
                ) as apart,
            ):
                apart.protect()
                for rate in options.rates.split(","):
                    seen.append(_measured(apart, link, float(rate) * 1e6, options.interval, options.seconds))
                    _show(console, seen[-1:])
    _show(console, seen)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in seen], indent=2))
    return 0


def _full_disk(path: Path, size: int) -> None:
    pool = half_compressible(POOL, seed=1)
    with path.open("wb") as disk:
        for start in range(0, size, POOL):
            disk.write(memoryview(pool)[: min(POOL, size - start)])


def _measured(apart: Apart, link: str, rate: float, interval: float, seconds: float) -> Seen:
    until(lambda: not apart.backlog(), 600, "the cache to be empty")
    time.sleep(2 * interval)
    cpu, crossed, all_cpu, began = apart.cpu(), apart.demo.crossed(), busy(), time.time()
    wrote = _write(apart, rate, seconds)
    ended, backlog = time.time(), apart.backlog()
    after, all_after = apart.cpu(), busy()
    until(lambda: not apart.backlog(), 1800, "the cache to be empty")
    drained = time.time() - ended
    time.sleep(2 * interval)  # the vault hears of the last ones
    points = _points(apart)
    inside = [point for point in points if began <= point.instant <= ended]
    if len(inside) < 2:
        raise BenchError(f"{len(inside)} points came in {seconds:.0f} s")
    used = {name: after[name] - cpu[name] for name in after} | {"writer": wrote["cpu"]}
    instants = [point.instant for point in inside]
    return Seen(
        link=link,
        rate=rate,
        interval=interval,
        seconds=wrote["seconds"],
        written=wrote["written"] / wrote["seconds"],
        behind=wrote["behind"],
        points=len(inside),
        between=Spread.of([later - earlier for earlier, later in itertools.pairwise(instants)]),
        rpo=Spread.of(_ages(points, began + 2 * interval, ended)),
        changed=sum(point.changed for point in inside),
        stored=sum(point.stored for point in inside),
        crossed=apart.demo.crossed() - crossed,
        backlog=backlog,
        drained=drained,
        cpu=used,
        each=[(point.instant - began, point.there - point.instant, point.changed) for point in inside],
        others=(all_after - all_cpu - sum(used.values())) / (ended - began) / PROCESSORS,
    )


def _write(apart: Apart, rate: float, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.churn", apart.disks, DISK, "--rate", str(rate / 1e6),
         "--seconds", str(seconds)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"the writer failed: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@dataclass(frozen=True)
class _Point:
    """``instant``: what it is of; ``there``: when it was in the store; both seconds since the epoch."""

    instant: float
    there: float
    changed: int
    stored: int


def _points(apart: Apart) -> list[_Point]:
    """Oldest first. When a record came into the store is its file's: nobody is asked while it is measured."""
    records = {path.name: path for path in apart.demo.site_folder(AWAY).rglob("point/*") if path.name.isdigit()}
    found = []
    for told in apart.demo.points():
        record = records.get(f"{PointId.parse(told['id']).number:016d}")
        if record is not None:
            instant, there = datetime.fromisoformat(told["time"]).timestamp(), record.stat().st_ctime
            found.append(_Point(instant, there, int(told["logical_bytes"]), int(told["stored_bytes"])))
    return sorted(found, key=lambda point: point.instant)


def _ages(points: Sequence[_Point], began: float, ended: float) -> list[float]:
    """How old the newest point in the store was, each second."""
    ages = []
    now = began
    while now <= ended:
        there = [point.instant for point in points if point.there <= now]
        ages.append(now - max(there, default=began))
        now += 1.0
    return ages


def _show(console: Console, seen: Sequence[Seen]) -> None:
    table = Table(title="RPO under churn (median / 95 of 100 / most)", title_justify="left")
    for column in ("", *(f"{row.link}, {row.rate / 1e6:.0f} MB/s" for row in seen)):
        table.add_column(column, justify="right" if column else "left")
    for name, show in {
        "written": lambda row: f"{row.written / 1e6:.1f} MB/s (at most {row.behind:.1f} s behind)",
        "points": lambda row: f"{row.points} in {row.seconds:.0f} s",
        "between points": lambda row: str(row.between),
        "RPO": lambda row: str(row.rpo),
        "interval held": lambda row: f"{row.interval:.0f} s: {'yes' if row.held else 'no'}",
        "waiting at the end": lambda row: f"{row.backlog}, for {row.drained:.1f} s",
        "changed": lambda row: f"{row.changed / MiB:.0f} MiB",
        "in the store": lambda row: f"{row.stored / MiB:.0f} MiB",
        "crossed": lambda row: f"{row.crossed / MiB:.0f} MiB",
        "CPU s per GiB changed": lambda row: ", ".join(
            f"{who} {used / (row.changed / GiB):.1f}" for who, used in row.cpu.items() if used >= 0.1
        ),
        "of the processors": lambda row: f"{sum(row.cpu.values()) / row.seconds / PROCESSORS:.0%}",
        "others": lambda row: f"{row.others:.0%}",
    }.items():
        table.add_row(name, *(show(row) for row in seen))
    console.print(table)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{error}")
