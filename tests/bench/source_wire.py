"""What it costs that a process server is not at the host of its machine: frames over TLS on loopback, beside a process
server that reads QEMU itself.

    python -m tests.bench.source_wire                     the slice of `make bench BENCH=store`, three rounds
    python -m tests.bench.source_wire --mib 512 --rounds 1

Rows: *read*: all that is allocated, by two threads, and dropped; *first copy*: compared, compressed, encrypted and
published into a folder; *delta*: a point of the changes of day 2. CPU seconds per GiB of the disk that was read, for
each process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "qemu"))

from storage_daemon import StorageDaemon

from homeport.disks.nbd.client import NbdClient
from homeport.domain.buffers import buffer
from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.servers.difference import PIECE, _in_threads
from homeport.sources.interface import DiskView, expecting
from tests.bench.images import GiB, MiB, images
from tests.bench.measure import cpu_of, quiet
from tests.servers.elsewhere import RemoteRig
from tests.servers.rig import Rig


@dataclass
class Row:
    """``amount``: bytes of the disk that were read; CPU seconds of each process."""

    work: str
    where: str
    amount: int
    seconds: float
    process_server: float
    mobility_service: float
    qemu: float


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def machine(folder: Path, image: Path, size: int) -> StorageDaemon:
    """A storage daemon whose first disk holds what the image does."""
    made = StorageDaemon(folder, size)
    subprocess.run(["cp", "--sparse=always", image, made.images["disk0"]], check=True)
    os.truncate(made.images["disk0"], size)
    made.start()
    return made


def read_all(view: DiskView) -> int:
    allocated = view.allocated()

    def read(offset: int, length: int) -> None:
        view.read_into(offset, buffer(length))

    with expecting(view, allocated, PIECE):
        _in_threads(read, allocated.pieces(PIECE))
    return allocated.total


@contextlib.contextmanager
def sender_of(rig: RemoteRig) -> Iterator[int]:
    pid = os.fork()
    if not pid:
        with rig.sending():
            time.sleep(10_000)
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def measured(rig: Rig, sender: int | None, where: str, changed: list[tuple[int, int]], day2: Path) -> list[Row]:
    rows: list[Row] = []
    daemon = rig.daemon.process
    assert daemon is not None

    @contextlib.contextmanager
    def timed(work: str) -> Iterator[list[int]]:
        quiet()
        amount = [0]
        began = time.monotonic(), own_cpu(), cpu_of(sender) if sender else 0.0, cpu_of(daemon.pid)
        yield amount
        ended = time.monotonic(), own_cpu(), cpu_of(sender) if sender else 0.0, cpu_of(daemon.pid)
        rows.append(Row(work, where, amount[0], *(after - before for before, after in zip(began, ended, strict=True))))

    cycle = rig.cycle()
    rig_source = cycle._source
    rig_source.track(PointId(rig.spec.timeline, 0))
    view = rig_source.live().disks[0]
    with timed("read") as amount:
        amount[0] = read_all(view)
    total = amount[0]
    with timed("first copy") as amount:
        cycle.first_copy()
        amount[0] = total
    cycle.take_point()
    cycle.ship()
    client = NbdClient(rig.daemon.nbd, "disk0")
    with day2.open("rb") as content:
        for offset, length in changed:
            client.write(offset, os.pread(content.fileno(), length, offset))
    client.flush()
    client.close()
    with timed("delta") as amount:
        taken = cycle.take_point()
        amount[0] = Extents.of(changed).align(64 * 1024).total
    assert set(taken.found_by.values()) == {"tracking"}
    cycle.ship()
    cycle.close()
    return rows


def one_round(scratch: Path, size: int, day1: Path, day2: Path, changed: list[tuple[int, int]]) -> list[Row]:
    rows: list[Row] = []
    for where in ("at the host", "elsewhere"):
        folder = Path(tempfile.mkdtemp(prefix="hp", dir=scratch))
        daemon = machine(folder, day1, size)
        try:
            if where == "elsewhere":
                rig = RemoteRig(daemon, folder, secrets.token_hex(8))
                with sender_of(rig) as sender, rig.served():
                    rows += measured(rig, sender, where, changed, day2)
            else:
                rows += measured(Rig(daemon, folder, secrets.token_hex(8)), None, where, changed, day2)
        finally:
            daemon.kill()
            shutil.rmtree(folder)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="how much of the disk, from its start (default: 2048)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=Path, help="where the images of `make bench BENCH=store` lie")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    of = images("slice", options.images)
    size = options.mib * MiB
    changed = [(offset, length) for offset, length in json.loads(of.changed.read_text()) if offset + length <= size]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="homeport-wire-") as scratch:
        day1 = Path(scratch) / "day1.raw"
        subprocess.run(["cp", "--sparse=always", of.day1, day1], check=True)
        os.truncate(day1, size)
        for _ in range(options.rounds):
            rows += one_round(Path(scratch), size, day1, of.day2, changed)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return 0


def show(rows: list[Row]) -> None:
    table = Table("work", "process server", "MiB", "s", "MB/s", "CPU s/GiB: process server", "mobility service", "QEMU")
    for work, where in dict.fromkeys((row.work, row.where) for row in rows):
        same = [row for row in rows if (row.work, row.where) == (work, where)]
        row = sorted(same, key=lambda row: row.seconds)[len(same) // 2]
        gib = row.amount / GiB
        table.add_row(
            work, where, f"{row.amount / MiB:.0f}", f"{statistics.median(each.seconds for each in same):.2f}",
            f"{row.amount / row.seconds / 1e6:.0f}",
            *(f"{used / gib:.2f}" for used in (row.process_server, row.mobility_service, row.qemu)),
        )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
