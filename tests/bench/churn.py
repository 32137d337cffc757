"""A process that writes to a disk as a database would, at a steady rate, through the machine's NBD export.

    python -m tests.bench.churn SOCKET EXPORT --rate 20 --seconds 120

Pages of 16 to 64 KiB anywhere on the disk, flushed once a second; what they hold compresses about twice and is made
beforehand, so that the writer costs little. It says at the end, as JSON: bytes written, seconds, CPU seconds, and how
many seconds it was behind its rate at the most.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import threading
import time
from pathlib import Path

import numpy as np

from homeport.disks.nbd.client import NbdClient
from tests.bench.images import KiB, MiB

PAGE = 16 * KiB
PAGES = (1, 1, 2, 4)
"""Pages of a write."""
POOL = 64 * MiB
CONNECTIONS = 4
FLUSH_EVERY = 1.0
SEED = 20_240_301


def half_compressible(size: int, seed: int = SEED) -> bytes:
    """Of every 256 bytes half are random."""
    made = np.zeros((size // 256, 256), np.uint8)
    made[:, :128] = np.random.default_rng(seed).integers(0, 256, (size // 256, 128), np.uint8)
    made[:, 128:] = np.frombuffer(b"a row of a table, as good as any".ljust(128, b"."), np.uint8)
    return made.tobytes()


class Churn:
    """``rate``: bytes per second, of all connections together."""

    def __init__(self, address: Path, export: str, rate: float, seconds: float) -> None:
        self._pool = memoryview(half_compressible(POOL))
        self._open = lambda: NbdClient(address, export)
        self._clients = [self._open() for _ in range(CONNECTIONS)]
        self._chance = random.Random(SEED)
        self._rate = rate
        self._seconds = seconds
        self._lock = threading.Lock()
        self._given = 0
        self.behind = 0.0

    def run(self) -> tuple[int, float]:
        """Bytes written, and seconds that it took."""
        self._began = time.monotonic()
        threads = [threading.Thread(target=self._write, args=(client,)) for client in self._clients[1:]]
        threads.append(threading.Thread(target=self._flush, daemon=True))
        for thread in threads:
            thread.start()
        self._write(self._clients[0])
        for thread in threads[:-1]:
            thread.join()
        return self._given, time.monotonic() - self._began

    def _write(self, client: NbdClient) -> None:
        last = client.size // PAGE
        while True:
            with self._lock:
                due = self._began + self._given / self._rate
                ahead = due - time.monotonic()
                if max(due, due - ahead) >= self._began + self._seconds:
                    return
                pages = self._chance.choice(PAGES)
                page = self._chance.randrange(last - pages)
                start = self._chance.randrange((POOL - pages * PAGE) // 512) * 512
                self._given += pages * PAGE
                self.behind = max(self.behind, -ahead)
            if ahead > 0:
                time.sleep(ahead)
            client.write(page * PAGE, self._pool[start : start + pages * PAGE])

    def _flush(self) -> None:
        with self._open() as client:
            while True:
                time.sleep(FLUSH_EVERY)
                client.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", type=Path)
    parser.add_argument("export")
    parser.add_argument("--rate", type=float, required=True, help="MB per second")
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    churn = Churn(options.address, options.export, options.rate * 1e6, options.seconds)
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    written, seconds = churn.run()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before
    print(json.dumps({"written": written, "seconds": seconds, "cpu": cpu, "behind": churn.behind}))


if __name__ == "__main__":
    main()
