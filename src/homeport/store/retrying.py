"""Another try when the storage did not answer, asks for fewer requests, or lost the connection in the middle.

Every verb may be repeated but a create: the answer to one that succeeded may have been lost, and then the next try
finds our own object there. All that is created holds fresh random bytes, so whoever finds exactly his own put it there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from homeport.store.around import Around
from homeport.store.errors import AlreadyExists, NotFound, StoreThrottled, StoreUnavailable, StoreUnreachable
from homeport.store.objects import Objects

log = structlog.get_logger(__name__)
T = TypeVar("T")

_PIECE = 8 << 20


class Retrying(Around):
    """Exponential back-off with full jitter. ``patience``: seconds that one call may take with all its tries, the last
    of which may begin just before they are over; ``first``, ``longest``: bounds of the random waits, in seconds."""

    def __init__(
        self,
        inner: Objects,
        *,
        patience: float = 120.0,
        first: float = 0.2,
        longest: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(inner)
        self._patience = patience
        self._first = first
        self._longest = longest
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._create(
            key,
            lambda: self.inner.put(key, data, if_absent=if_absent),
            lambda: self.size(key) == len(data) and self.get(key) == data,
        )

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        self._create(key, lambda: self.inner.put_file(key, path, if_absent=if_absent), lambda: self._holds(key, path))

    def _create(self, key: str, create: Callable[[], None], ours: Callable[[], bool]) -> None:
        tries = 0

        def once() -> None:
            nonlocal tries
            tries += 1
            create()

        try:
            self._call("put", key, 0, once)
        except AlreadyExists:
            if tries == 1:
                raise
            try:
                done = ours()
            except NotFound:
                done = False
            if not done:
                raise
            log.info("an earlier try had put it", key=key)

    def _holds(self, key: str, path: Path) -> bool:
        """Is the object there this file, byte for byte?"""
        if self.size(key) != path.stat().st_size:
            return False
        with open(path, "rb") as file:
            offset = 0
            while piece := file.read(_PIECE):
                if self.get_range(key, offset, len(piece)) != piece:
                    return False
                offset += len(piece)
        return True

    def _call(self, verb: str, key: str, sent: int, action: Callable[[], T]) -> T:
        waits = self._waits()
        while True:
            try:
                return action()
            except (StoreUnreachable, StoreThrottled) as error:
                self._wait(waits, error, verb, key)

    def _waits(self) -> Iterator[float]:
        """Seconds to wait before each further try, until the patience is over."""
        deadline = self._clock() + self._patience
        bound = self._first
        while (left := deadline - self._clock()) > 0:
            yield min(self._chance(0, bound), left)
            bound = min(bound * 2, self._longest)

    def _wait(self, waits: Iterator[float], error: StoreUnavailable, verb: str, key: str) -> None:
        seconds = next(waits, None)
        if seconds is None:
            raise error
        log.info("the storage is asked again", verb=verb, key=key, wait=round(seconds, 2), cause=error.cause)
        self._sleep(seconds)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """A list that broke off is begun anew; what was answered already is left out. Its patience begins anew with
        each key that is new."""
        last = ""
        waits = self._waits()
        while True:
            try:
                for key, size in self.inner.list(prefix):
                    if key > last:
                        yield key, size
                        last = key
                        waits = self._waits()
                return
            except (StoreUnreachable, StoreThrottled) as error:
                self._wait(waits, error, "list", prefix)
