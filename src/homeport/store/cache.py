"""A cache bounded in bytes: what was used lately stays.

A clock (second chance): a hit only marks its entry, so it takes no lock and moves nothing; what is put is found behind
everything else in the queue, and what comes to the queue's head marked goes round once more. A single pass over much
data thus drives out little of what is used again and again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class _Entry(Generic[V]):
    __slots__ = ("used", "value", "weight")

    def __init__(self, value: V, weight: int) -> None:
        self.value = value
        self.weight = weight
        self.used = False


class Cache(Generic[V]):
    """Thread-safe; no lock is held while a value is made, so two threads may make the same one."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        """``limit``: the sum of ``weigh(value)`` kept, in bytes; a value is weighed once, as it is put."""
        self._limit = limit
        self._weigh = weigh
        self._items: dict[Hashable, _Entry[V]] = {}
        self._queue: deque[tuple[Hashable, _Entry[V]]] = deque()
        self._total = 0
        self._lock = threading.Lock()

    @property
    def weight(self) -> int:
        """The sum of what is kept, in bytes."""
        return self._total

    def get(self, key: Hashable) -> V | None:
        entry = self._items.get(key)
        if entry is None:
            return None
        entry.used = True
        return entry.value

    def __contains__(self, key: Hashable) -> bool:
        """Without counting as a use."""
        return key in self._items

    def put(self, key: Hashable, value: V) -> V:
        entry = _Entry(value, self._weigh(value))
        with self._lock:
            self._remove(key)
            self._items[key] = entry
            self._queue.append((key, entry))
            self._total += entry.weight
            while self._total > self._limit and len(self._items) > 1:
                oldest, gone = self._queue.popleft()
                if self._items.get(oldest) is not gone:
                    continue  # dropped or put anew since
                if gone.used:
                    gone.used = False
                    self._queue.append((oldest, gone))
                elif gone is entry:
                    self._queue.append((oldest, gone))  # what was just put stays, whatever it weighs
                else:
                    self._remove(oldest)
            if len(self._queue) > 2 * len(self._items) + 64:
                self._queue = deque(item for item in self._queue if self._items.get(item[0]) is item[1])
        return value

    def drop(self, key: Hashable) -> None:
        with self._lock:
            self._remove(key)

    def _remove(self, key: Hashable) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self._total -= old.weight
