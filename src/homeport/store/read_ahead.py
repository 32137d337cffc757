"""Fetching what will be read next, in a few background threads: for disks served to others, from stores that are far.

Two hints: what a client has asked for already while an earlier read is answered; and reads that go on where an earlier
one ended. Nothing waits for it, and what it meets of damage is told to whoever reads there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from homeport.domain.errors import HomeportError
from homeport.domain.logs import get_logger
from homeport.domain.units import BLOCK, MiB
from homeport.store.disk_reader import DiskReader
from homeport.store.index import FRAME_BLOCKS
from homeport.store.ranges import Range

log = get_logger(__name__)

THREADS = 16
"""Fetches under way at once: enough to hide the latency of a store that is far."""
FRAME = FRAME_BLOCKS * BLOCK
JOB = MiB
"""Bytes of a disk that one thread fetches at once."""
AHEAD = 8 * MiB
"""Bytes ahead of one who reads on and on; less to begin with."""
_WAITING_MOST = 64
_STREAMS_MOST = 64


class FetchPool:
    """Daemon threads, started when first needed; what can't be begun soon is left out."""

    def __init__(self, threads: int = THREADS) -> None:
        self._jobs: queue.Queue[tuple[DiskReader, Range] | None] = queue.Queue(_WAITING_MOST)
        self._threads = threads
        self._started: list[threading.Thread] = []
        self._lock = threading.Lock()

    def fetch(self, disk: DiskReader, wanted: Range) -> None:
        with self._lock:
            if len(self._started) < self._threads:
                thread = threading.Thread(target=self._work, name="fetch", daemon=True)
                self._started.append(thread)
                thread.start()
        try:
            self._jobs.put_nowait((disk, wanted))
        except queue.Full:
            pass

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            disk, (offset, length) = job
            try:
                disk.fetch(offset, length)
            except HomeportError as error:
                log.debug("nothing was fetched ahead", offset=offset, length=length, reason=str(error))
            except Exception as error:
                log.error("fetching ahead failed", offset=offset, length=length, reason=repr(error))

    def close(self) -> None:
        """End the threads once their fetches return; nobody waits for that."""
        with self._lock:
            started, self._threads = len(self._started), 0
        try:
            while True:
                self._jobs.get_nowait()
        except queue.Empty:
            pass
        for _ in range(started):
            self._jobs.put(None)


class ReadAhead:
    """For one disk. Thread-safe."""

    def __init__(self, disk: DiskReader, pool: FetchPool, most: int = AHEAD) -> None:
        """``most``: bytes ahead."""
        self._disk = disk
        self._pool = pool
        self._most = most
        #: The frame that a stream of reads will go on in → how often it did, and up to which byte was fetched for it.
        self._streams: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def reached(self, offset: int, length: int) -> None:
        """A read that comes to a frame's end: the only ones that need to be told."""
        end = offset + length
        begin = end
        with self._lock:
            found = self._streams.pop(offset // FRAME, None)
            times, upto = found or (0, 0)
            if found is not None:
                window = min(FRAME << times, self._most)
                if upto < end + window // 2:
                    begin, upto = max(upto, end), min(end + window, self._disk.size)
                times += FRAME << times < self._most
            elif len(self._streams) >= _STREAMS_MOST:
                del self._streams[next(iter(self._streams))]
            self._streams[end // FRAME] = times, upto
        if found is not None and begin < upto:
            self.prepare([(begin, upto - begin)])

    def prepare(self, ranges: Sequence[Range]) -> None:
        """Fetch what isn't in memory."""
        joined: list[tuple[int, int]] = []
        for offset, length in sorted(ranges):
            if joined and offset <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], offset + length)
            else:
                joined.append((offset, offset + length))
        for start, stop in joined:
            while start < stop:
                upto = min(stop, (start // JOB + 1) * JOB)
                if self._disk.at_hand(start, upto - start) is None:
                    self._pool.fetch(self._disk, (start, upto - start))
                start = upto
