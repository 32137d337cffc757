"""How fast an NBD server reads: nbdcopy and fio over a unix socket, on a working set of 256 MiB.

The disk served is the working set. Sequential: four connections, 256 KiB a request; by nbdcopy, whole passes from the
start of its process to its end, and by fio, each connection reading its quarter over and over, four requests in flight.
Random: fio, one connection, 4 KiB, 32 in flight. ``cold`` is the first use of a server just started, its caches empty;
``warm`` follows passes over the whole disk.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.images import KiB, MiB
from tests.bench.measure import PROCESSORS, BenchError, Command, busy, cpu_of, quiet, run

WORKING_SET = 256 * MiB
CONNECTIONS = 4
SECONDS = 4
PASSES = 5
STARTED = 60
"""Seconds a server may take until it answers."""


@dataclass(frozen=True)
class Server:
    """A process that serves NBD on a unix socket."""

    command: Command
    socket: Path
    export: str = ""

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{self.export}?socket={self.socket}"


@dataclass(frozen=True)
class Running:
    """A server that answers; ``pid`` of its process."""

    uri: str
    pid: int

    def measure(self, read: Callable[[str], float], patience: float) -> Speed:
        """What ``read`` finds at a quiet moment."""
        quiet(patience)
        before, began = self._spent(), time.monotonic()
        rate = read(self.uri)
        seconds = time.monotonic() - began
        others = [after - earlier for after, earlier in zip(self._spent(), before, strict=True)]
        return Speed(rate, max(0.0, (others[0] - others[1]) / (PROCESSORS * seconds)))

    def _spent(self) -> tuple[float, float]:
        """CPU seconds of the whole machine; and of this process, its children and the server."""
        return busy(), sum(os.times()[:4]) + cpu_of(self.pid)


@dataclass(frozen=True)
class Speed:
    """Bytes or requests a second, and the part of the processors that others used meanwhile."""

    rate: float
    foreign: float


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Runs it until the block ends."""
    command, uri = server.command, server.uri
    server.socket.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(part) for part in command.argv],
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            deadline = time.monotonic() + STARTED
            while subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode:
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    words = said.read()[-2000:].decode(errors="replace")
                    raise BenchError(f"{command.argv[0]} serves nothing at {uri}: {words}")
                time.sleep(0.1)
            yield Running(uri, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _fio(uri: str, *options: str) -> dict[str, float]:
    argv = ["fio", "--name=read", "--ioengine=nbd", f"--uri={uri}", "--output-format=json", "--group_reporting"]
    argv += ["--thread", "--randrepeat=0", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode or "{" not in done.stdout:
        raise BenchError(f"{' '.join(argv)}: {(done.stderr or done.stdout)[-2000:]}")
    read = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return {"bytes": float(read["bw_bytes"]), "requests": float(read["iops"])}


def _sequential(uri: str) -> float:
    share = WORKING_SET // CONNECTIONS
    options = ["--rw=read", f"--bs={256 * KiB}", "--iodepth=4", f"--numjobs={CONNECTIONS}", f"--size={share}"]
    options += [f"--offset_increment={share}", f"--runtime={SECONDS}", "--time_based"]
    return _fio(uri, *options)["bytes"]


def _random(uri: str) -> float:
    options = ["--rw=randread", "--bs=4096", "--iodepth=32", f"--size={WORKING_SET}"]
    return _fio(uri, *options, "--norandommap", f"--runtime={SECONDS}", "--time_based")["requests"]


def _nbdcopy(uri: str) -> float:
    """Bytes a second of whole passes by nbdcopy: all bytes asked for, none written."""
    command = Command(["nbdcopy", "--no-extents", f"--connections={CONNECTIONS}", uri, "null:"])
    return WORKING_SET / run(command).seconds


def warm(server: Server, patience: float) -> dict[str, Speed]:
    """``nbdcopy`` and ``sequential`` (fio) in bytes a second, ``random`` in requests a second; ``cold nbdcopy``: the
    first pass of all."""
    with running(server) as found:
        cold = found.measure(_nbdcopy, patience)
        _nbdcopy(found.uri)
        return {
            "cold nbdcopy": cold,
            "nbdcopy": found.measure(lambda uri: statistics.median(_nbdcopy(uri) for _ in range(PASSES)), patience),
            "sequential": found.measure(_sequential, patience),
            "random": found.measure(_random, patience),
        }


def cold_random(server: Server, patience: float) -> Speed:
    """Requests a second of a server just started, during the first seconds."""
    with running(server) as found:
        return found.measure(_random, patience)


def nbdkit(image: Path, socket: Path) -> Server:
    """nbdkit's file plugin on a raw image."""
    return Server(Command(["nbdkit", "-f", "-r", "-U", socket, "file", image]), socket)
