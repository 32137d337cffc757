"""When each site's configuration server was last heard of, by this instance of the vault or by another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

_DROPPED = 2.0
"""Seconds after a poll broke off, without a new word, until its server counts as gone."""


class Seen(NamedTuple):
    """Seconds since the site's server was last heard of, and since its connection broke without a word after it."""

    last: float | None
    dropped: float | None


@dataclass
class _Heard:
    last: float | None = None
    polls: int = 0
    dropped: float | None = None


class Liveness:
    """Times are of the monotonic clock: a clock that jumps makes nobody silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sites: dict[str, _Heard] = {}
        self._others: dict[str, _Heard] = {}
        self._since = time.monotonic()

    def heard(self, site: str) -> None:
        with self._lock:
            heard = self._sites.setdefault(site, _Heard())
            heard.last, heard.dropped = time.monotonic(), None

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
                heard = self._sites[site]
                heard.polls -= 1
                heard.last = time.monotonic()

    def dropped(self, site: str) -> None:
        """A poll's connection broke: its server most likely died."""
        with self._lock:
            self._sites.setdefault(site, _Heard()).dropped = time.monotonic()

    def silence(self, site: str) -> float | None:
        """Seconds since the site's server was heard of; None if it never was, since this vault started."""
        return self._seen(site).last

    def silent_for(self, site: str) -> float:
        """The same, counting from this instance's start at the earliest: after a restart of the vault a site's server
        needs a moment to come back, whatever was known of it before."""
        silence, up = self.silence(site), time.monotonic() - self._since
        return up if silence is None else min(silence, up)

    def gone(self, site: str, silent: float) -> bool:
        """Not worth waiting for: silent for ``silent`` seconds, or its connection broke and it did not come back."""
        dropped = self._seen(site).dropped
        if dropped is not None and dropped <= time.monotonic() - self._since:
            return dropped > _DROPPED
        return self.silent_for(site) > silent

    def own(self) -> dict[str, Seen]:
        """What this instance knows by itself, for the others."""
        with self._lock:
            now = time.monotonic()
            return {site: _seen(heard, now) for site, heard in self._sites.items()}

    def take_in(self, others: Iterable[tuple[str, Seen]]) -> None:
        """What the other instances know, all of it: (site, when), a site as often as there are who heard of it."""
        now = time.monotonic()
        found: dict[str, _Heard] = {}
        for site, seen in others:
            heard = found.setdefault(site, _Heard())
            heard.last = _later(heard.last, None if seen.last is None else now - seen.last)
            heard.dropped = _later(heard.dropped, None if seen.dropped is None else now - seen.dropped)
        with self._lock:
            self._others = found

    def _seen(self, site: str) -> Seen:
        with self._lock:
            now = time.monotonic()
            own, other = self._sites.get(site, _Heard()), self._others.get(site, _Heard())
            last = now if own.polls else _later(own.last, other.last)
            both = _Heard(last, own.polls, _later(own.dropped, other.dropped))
            return _seen(both, now)


def _seen(heard: _Heard, now: float) -> Seen:
    last = now if heard.polls else heard.last
    dropped = heard.dropped
    if dropped is not None and last is not None and last > dropped:
        dropped = None  # it came back
    return Seen(_age(now, last), _age(now, dropped))


def _later(one: float | None, other: float | None) -> float | None:
    known = [each for each in (one, other) if each is not None]
    return max(known, default=None)


def _age(now: float, at: float | None) -> float | None:
    return None if at is None else max(0.0, now - at)
