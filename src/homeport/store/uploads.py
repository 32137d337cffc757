"""Segments on their way into the store: a few at once, in the order in which they were given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from homeport.store.names import Segment

IDLE = 30.0
"""Seconds after which a thread without work ends. Until then it, and its connection, serve the next point."""

Progress = Callable[[int, int], None]


class Uploads:
    """``put``: brings a segment's file into the store; ``threads``: so many at once. Thread-safe.

    ``begin`` sends early, on the chance that it will be asked for; ``finish`` waits for what a point needs. After an
    error nothing is sent early until somebody waits again: who builds points needn't know that the store is away.
    """

    def __init__(self, put: Callable[[Segment, Path], None], threads: int) -> None:
        self._put = put
        self._most = max(1, threads)
        self._changed = threading.Condition()
        self._queue: dict[Segment, Path] = {}
        self._sending: set[Segment] = set()
        self._there: set[Segment] = set()
        """In the store, and nobody has waited for it yet."""
        self._threads: set[threading.Thread] = set()
        self._error: BaseException | None = None
        self._waiter: _Waiter | None = None
        self._closed = False

    def begin(self, segment: Segment, path: Path) -> None:
        """Send it when its turn comes. Its file stays; where that is gone by then, its point was given up."""
        with self._changed:
            if not self._closed and self._error is None:
                self._queue[segment] = path
                self._man(len(self._queue) + len(self._sending))

    def finish(self, wanted: Sequence[tuple[Segment, int, Path]], progress: Progress | None = None) -> None:
        """Returns when all of these (segment, bytes, file) are in the store. They go before all others, by this thread
        too; only one at a time may wait. ``progress``: called with bytes done and in all after each, by whichever
        thread; raises to stop. Raises the first error, after which nothing more is begun."""
        waiter = _Waiter({segment: size for segment, size, _ in wanted}, progress)
        with self._changed:
            self._error = None
            self._waiter = waiter
            under_way = self._sending | self._there
            missing = {segment: path for segment, _, path in wanted if segment not in under_way}
            self._queue = {
                **missing,
                **{segment: path for segment, path in self._queue.items() if segment not in missing},
            }
            waiter.done = sum(size for segment, size in waiter.sizes.items() if segment in self._there)
            self._man(len(missing) + len(self._sending) - 1)
        try:
            while (taken := self._next_for(waiter)) is not None:
                self._send(*taken)
        finally:
            with self._changed:
                self._waiter = None
                self._there -= waiter.sizes.keys()

    def begun(self, segments: Iterable[Segment]) -> set[Segment]:
        """Those that went early, or are on their way: nobody has waited for them yet."""
        with self._changed:
            return (self._there | self._sending) & set(segments)

    def close(self) -> None:
        """Nothing is sent early any more; returns when what is under way has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _next_for(self, waiter: _Waiter) -> tuple[Segment, Path] | None:
        """What the waiting thread is to send; None: all is there. Raises the first error."""
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if waiter.sizes.keys() <= self._there:
                    return None
                if self._may_send() and next(iter(self._queue)) in waiter.sizes:
                    return self._take()
                self._changed.wait()

    def _may_send(self) -> bool:
        return bool(self._queue) and len(self._sending) < self._most

    def _take(self) -> tuple[Segment, Path]:
        segment = next(iter(self._queue))
        self._sending.add(segment)
        return segment, self._queue.pop(segment)

    def _man(self, count: int) -> None:
        """Have so many threads, at most."""
        while not self._closed and len(self._threads) < min(count, self._most):
            thread = threading.Thread(target=self._work, name=f"upload-{len(self._threads)}", daemon=True)
            self._threads.add(thread)
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._may_send(), IDLE)
                if self._closed or not self._may_send():
                    self._threads.discard(threading.current_thread())
                    return
                taken = self._take()
            self._send(*taken)

    def _send(self, segment: Segment, path: Path) -> None:
        """Nobody takes its place before who waits has been told: that may stop the rest."""
        error: BaseException | None = None
        try:
            self._put(segment, path)
            self._tell(segment)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._sending.discard(segment)
            if error is None:
                self._there.add(segment)
            elif path.exists() or (self._waiter is not None and segment in self._waiter.sizes):
                self._error = self._error or error
                self._queue.clear()
            self._changed.notify_all()

    def _tell(self, segment: Segment) -> None:
        with self._changed:
            waiter = self._waiter
            if waiter is None or segment not in waiter.sizes:
                return
            waiter.done += waiter.sizes[segment]
            done = waiter.done
        if waiter.progress is not None:
            waiter.progress(done, sum(waiter.sizes.values()))


class _Waiter:
    def __init__(self, sizes: dict[Segment, int], progress: Progress | None) -> None:
        self.sizes = sizes
        self.progress = progress
        self.done = 0
