"""A bound on what a storage is asked for: bytes per second both ways together, and requests at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from homeport.store.around import Around
from homeport.store.objects import Objects

T = TypeVar("T")


class Pace:
    """Lets bytes pass at a rate, after a first second's worth at once. Safe from several threads: each waits for what
    was granted before it."""

    def __init__(
        self,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = clock() - 1

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may pass."""
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - 1) + count / self._rate
            wait = self._paid_until - now
        if wait > 0:
            self._sleep(wait)


class Limiting(Around):
    """``rate``: bytes per second, ``requests``: at a time; 0: no bound. What is read is paid for after it came."""

    def __init__(self, inner: Objects, *, rate: int = 0, requests: int = 0, pace: Pace | None = None) -> None:
        super().__init__(inner)
        self._pace = pace or (Pace(rate) if rate else None)
        self._doors: contextlib.AbstractContextManager[object] = (
            threading.BoundedSemaphore(requests) if requests else contextlib.nullcontext()
        )

    def _call(self, verb: str, key: str, sent: int, action: Callable[[], T]) -> T:
        with self._doors:
            if self._pace is not None and sent:
                self._pace.take(sent)
            result = action()
            if self._pace is not None and isinstance(result, bytes):
                self._pace.take(len(result))
            return result

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        entries = self.inner.list(prefix)
        while True:
            with self._doors:
                entry = next(entries, None)
            if entry is None:
                return
            yield entry
