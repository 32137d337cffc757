"""Reading and hashing alone: the floor under a digest scan.

    python -m tests.bench.hashing IMAGE

Reads all that is allocated and hashes it by BLAKE3 in two threads, a MiB at a time: no zero test, no comparison, no
digest per block. A whole process, as the scan is.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading

from blake3 import blake3

THREADS = 2
PIECE = 1 << 20


def main(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    pieces = iter(_pieces(descriptor))
    turn = threading.Lock()

    def work() -> None:
        buffer = memoryview(mmap.mmap(-1, PIECE))  # a bytearray's place slows the kernel's copying down
        hasher = blake3()
        while True:
            with turn:
                found = next(pieces, None)
            if found is None:
                return
            start, length = found
            hasher.update(buffer[: os.preadv(descriptor, [buffer[:length]], start)])

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pieces(descriptor: int) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    position = 0
    while True:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            return pieces
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        pieces += [(place, min(PIECE, position - place)) for place in range(start, position, PIECE)]


if __name__ == "__main__":
    main(sys.argv[1])
