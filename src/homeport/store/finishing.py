"""Full segments are finished (directory, fsync) and uploaded while the next ones are being filled.

How many may be on their way is bounded: who fills faster than the store takes, waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from homeport.store.names import Segment
from homeport.store.segment import SegmentFile

IN_FLIGHT = 3
"""Segments on their way at a time: with one of about 32 MiB being filled, 128 MiB on the disk at most."""

Upload = Callable[[Segment, Path], None]


class Finishing:
    """Thread-safe. ``upload``: called with each finished segment and its file, which is deleted after it. ``told``:
    called with them too; the file stays."""

    def __init__(self, upload: Upload | None = None, in_flight: int = IN_FLIGHT, *, told: Upload | None = None) -> None:
        self._upload = upload
        self._told = told
        self._free = threading.BoundedSemaphore(in_flight)
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._error: BaseException | None = None

    def begin(self, segment: SegmentFile) -> None:
        """Finish a segment in the background; waits while too many are on their way. Raises what went wrong with an
        earlier one."""
        self._free.acquire()
        thread = threading.Thread(target=self._run, args=(segment,), name=f"segment-{segment.segment.seq}", daemon=True)
        try:
            self.check()
            with self._lock:
                self._threads.add(thread)
            thread.start()
        except BaseException:
            with self._lock:
                self._threads.discard(thread)
            self._free.release()
            raise

    def finish(self, segment: SegmentFile) -> None:
        """At once, in this thread."""
        segment.finish()
        if self._upload is not None:
            self._upload(segment.segment, segment.path)
            segment.let_go()
        elif self._told is not None:
            self._told(segment.segment, segment.path)

    def check(self) -> None:
        """Raises the first error."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until none is on its way."""
        while True:
            with self._lock:
                threads = list(self._threads)
            if not threads:
                return
            for thread in threads:
                thread.join()

    def _run(self, segment: SegmentFile) -> None:
        try:
            # After an error nothing more is sent: the point can't be finished any more.
            if self._error is None:
                self.finish(segment)
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._free.release()
