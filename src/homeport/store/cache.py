"""A cache bounded in bytes: what was used last stays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """Thread-safe; the lock is never held while a value is made, so two threads may make the same one."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        """``limit``: the sum of ``weigh(value)`` kept, in bytes."""
        self._limit = limit
        self._weigh = weigh
        self._items: OrderedDict[Hashable, V] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            value = self._items.get(key)
            if value is not None:
                self._items.move_to_end(key)
            return value

    def put(self, key: Hashable, value: V) -> V:
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._total -= self._weigh(old)
            self._items[key] = value
            self._total += self._weigh(value)
            while self._total > self._limit and len(self._items) > 1:
                _, gone = self._items.popitem(last=False)
                self._total -= self._weigh(gone)
        return value

    def drop(self, key: Hashable) -> None:
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._total -= self._weigh(old)
