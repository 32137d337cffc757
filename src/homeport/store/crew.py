"""A few threads that draw work from one list: the first error stops all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

THREADS = min(8, max(2, os.cpu_count() or 2))
"""For work that keeps processors busy."""


def share_out(items: Iterable[T], job: Callable[[T], None], threads: int = THREADS) -> None:
    """Do ``job`` for each of ``items``, which are drawn one by one by up to ``threads`` threads (this one among them).
    Returns when all threads have stopped; raises the first error, after which nothing more is begun."""
    line = _Line(iter(items), job)
    others = [threading.Thread(target=line.work, name=f"crew-{number}", daemon=True) for number in range(1, threads)]
    started: list[threading.Thread] = []
    try:
        for other in others:
            other.start()
            started.append(other)
        line.work()
    finally:
        line.stop()
        for other in started:
            other.join()
    if line.error is not None:
        raise line.error


class _Line(Generic[T]):
    def __init__(self, items: Iterator[T], job: Callable[[T], None]) -> None:
        self._items = items
        self._job = job
        self._lock = threading.Lock()
        self._stopped = False
        self.error: BaseException | None = None

    def stop(self) -> None:
        self._stopped = True

    def work(self) -> None:
        try:
            while True:
                with self._lock:
                    if self._stopped:
                        return
                    try:
                        item = next(self._items)
                    except StopIteration:
                        self._stopped = True
                        return
                self._job(item)
        except BaseException as error:
            with self._lock:
                self._stopped = True
                self.error = self.error or error
