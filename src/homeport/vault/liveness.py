"""When each site's configuration server was last heard of, as this process saw it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_DROPPED = 2.0
"""Seconds after a poll broke off, without a new word, until its server counts as gone."""


@dataclass
class _Seen:
    last: float | None = None
    polls: int = 0
    dropped: float | None = None


class Liveness:
    """Times are of the monotonic clock: a clock that jumps makes nobody silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sites: dict[str, _Seen] = {}
        self._since = time.monotonic()

    def heard(self, site: str) -> None:
        with self._lock:
            seen = self._sites.setdefault(site, _Seen())
            seen.last, seen.dropped = time.monotonic(), None

    @contextmanager
    def poll(self, site: str) -> Iterator[None]:
        """While a server's long poll is open, it is heard of all the time."""
        self.heard(site)
        with self._lock:
            self._sites[site].polls += 1
        try:
            yield
        finally:
            with self._lock:
                seen = self._sites[site]
                seen.polls -= 1
                seen.last = time.monotonic()

    def dropped(self, site: str) -> None:
        """A poll's connection broke: its server most likely died."""
        with self._lock:
            self._sites.setdefault(site, _Seen()).dropped = time.monotonic()

    def silence(self, site: str) -> float | None:
        """Seconds since the site's server was heard of; None if it never was, since this vault started."""
        with self._lock:
            seen = self._sites.get(site)
            if seen is None or seen.last is None:
                return None
            return 0.0 if seen.polls else time.monotonic() - seen.last

    def silent_for(self, site: str) -> float:
        """The same, counting from the vault's start where it was never heard of."""
        silence = self.silence(site)
        return time.monotonic() - self._since if silence is None else silence

    def gone(self, site: str, silent: float) -> bool:
        """Not worth waiting for: silent for ``silent`` seconds, or its connection broke and it did not come back."""
        with self._lock:
            seen = self._sites.get(site)
            if seen is not None and not seen.polls and seen.dropped is not None:
                return time.monotonic() - seen.dropped > _DROPPED
        return self.silent_for(site) > silent
