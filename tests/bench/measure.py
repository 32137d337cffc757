"""One whole process, timed: seconds on the clock, CPU of it and its children, memory, and who disturbed it.

All files a step reads are in the page cache before it begins, what earlier steps wrote is on the disk, and the machine
is quiet, or ``PATIENCE`` is over. A shared machine is never wholly quiet: a sample says how much of the processors
others used meanwhile.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.images import MiB, data_extents

PATIENCE = 20.0
"""Seconds to wait, at most, for a quiet moment before a step."""
QUIET = 0.15
"""The part of the processors that others may use in a quiet moment."""
DISTURBED = 0.15
"""A sample during which others used more than this part of the processors is marked."""
TICKS = os.sysconf("SC_CLK_TCK")
PROCESSORS = os.cpu_count() or 1


class BenchError(Exception):
    """A step failed, or brought back something else than was given."""


@dataclass(frozen=True)
class Command:
    """What is run: a whole process."""

    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Sample:
    """Seconds on the clock and of CPU; bytes of the largest process, None where that is less than this one has had (a
    child begins with its parent's mark); the part of the processors that others used; and what the process said."""

    seconds: float
    cpu: float = 0.0
    memory: int | None = None
    foreign: float = 0.0
    said: str = field(default="", repr=False)

    @property
    def disturbed(self) -> bool:
        return self.foreign > DISTURBED

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 4),
            "cpu_seconds": round(self.cpu, 3),
            "memory_bytes": self.memory,
            "foreign": round(self.foreign, 3),
        }


def busy() -> float:
    """CPU seconds that all processes of the machine used since it was started (Linux: /proc/stat)."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = (int(text) for text in file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def cpu_of(pid: int) -> float:
    """CPU seconds of a living process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(text) for text in fields[11:15]) / TICKS


def quiet(patience: float = PATIENCE) -> None:
    """Waits for a moment in which others leave the processors alone, ``patience`` seconds at most."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, began = busy(), time.monotonic()
        time.sleep(0.5)
        if (busy() - before) / (time.monotonic() - began) / PROCESSORS < QUIET:
            return


def warm(paths: Iterable[Path]) -> None:
    """Reads what is allocated of each file, and of each file below each folder, into the page cache."""
    buffer = bytearray(4 * MiB)
    for path in paths:
        for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
            with open(file, "rb", buffering=0) as opened:
                for start, end in data_extents(opened.fileno()):
                    while start < end:
                        start += os.preadv(
                            opened.fileno(), [memoryview(buffer)[: min(len(buffer), end - start)]], start
                        )


def ready(*reads: Path, patience: float = PATIENCE) -> None:
    """Before a step: what it reads is in memory, nothing waits to be written, nobody else computes."""
    os.sync()
    warm(reads)
    quiet(patience)


def run(command: Command) -> Sample:
    """Runs it to its end. Raises BenchError where it fails, with the end of what it said."""
    argv = [str(part) for part in command.argv]
    environment = {**os.environ, **command.env}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or a tool in Python is compiled anew each time it is run
    busy_before, began = busy(), time.perf_counter()
    process = subprocess.Popen(
        argv,
        env=environment,
        cwd=command.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # the benchmark itself is ended
        process.kill()
        process.wait()
        raise
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise BenchError(f"{' '.join(argv)}: exit status {process.returncode}: {said[-2000:].decode(errors='replace')}")
    cpu = usage.ru_utime + usage.ru_stime
    foreign = max(0.0, (busy() - busy_before - cpu) / (PROCESSORS * seconds))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = usage.ru_maxrss * 1024 if usage.ru_maxrss > own else None
    return Sample(seconds, cpu, memory, foreign, said.decode(errors="replace"))


def call(command: Command) -> None:
    """Runs what isn't measured."""
    run(command)


def stored(path: Path) -> int:
    """Bytes of a file, or of all files below a folder (their sizes, not the blocks that a file system takes)."""
    if path.is_file():
        return path.stat().st_size
    return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())


def must_equal(made: Path, original: Path) -> None:
    """Byte by byte. Raises BenchError with the first place that differs."""
    with open(made, "rb", buffering=0) as one, open(original, "rb", buffering=0) as other:
        sizes = [os.fstat(file.fileno()).st_size for file in (one, other)]
        if sizes[0] != sizes[1]:
            raise BenchError(f"{made} has {sizes[0]} bytes, {original} has {sizes[1]}")
        piece = 4 * MiB
        pieces = {
            number
            for file in (one, other)
            for start, end in data_extents(file.fileno())
            for number in range(start // piece, -(-end // piece))
        }
        for number in sorted(pieces):
            if os.pread(one.fileno(), piece, number * piece) != os.pread(other.fileno(), piece, number * piece):
                raise BenchError(f"{made} differs from {original} within {piece} bytes from {number * piece}")
