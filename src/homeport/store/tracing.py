"""Every request to a storage, counted by verb and told to the log: what a store costs is requests and bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from homeport.domain.errors import HomeportError
from homeport.store.around import Around
from homeport.store.objects import Objects

log = structlog.get_logger(__name__)
T = TypeVar("T")

PAGE = 1000
"""Keys that one list request answers."""


@dataclass
class Traffic:
    """``sent``, ``received``: bytes of content. ``failed``: of the requests; a refused create is one. ``seconds``:
    added up over threads."""

    requests: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


class Tracing(Around):
    """Verbs: put, get (ranged ones too), head, list (a request for each 1000 keys), delete."""

    def __init__(self, inner: Objects) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._traffic: dict[str, Traffic] = {}

    def traffic(self) -> dict[str, Traffic]:
        """By verb, since this was made."""
        with self._lock:
            return {verb: replace(traffic) for verb, traffic in self._traffic.items()}

    def _call(self, verb: str, key: str, sent: int, action: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            result = action()
        except HomeportError as error:
            self._count(verb, key, began, sent=sent, error=error.code)
            raise
        self._count(verb, key, began, sent=sent, received=len(result) if isinstance(result, bytes) else 0)
        return result

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        began, count, error = time.monotonic(), 0, ""
        try:
            for entry in self.inner.list(prefix):
                count += 1
                yield entry
        except HomeportError as failure:
            error = failure.code
            raise
        finally:
            self._count("list", prefix, began, requests=max(1, -(-count // PAGE)), error=error)

    def _count(
        self, verb: str, key: str, began: float, *, requests: int = 1, sent: int = 0, received: int = 0, error: str = ""
    ) -> None:
        seconds = time.monotonic() - began
        with self._lock:
            traffic = self._traffic.setdefault(verb, Traffic())
            traffic.requests += requests
            traffic.failed += bool(error)
            traffic.sent += sent
            traffic.received += received
            traffic.seconds += seconds
        log.debug("storage request", verb=verb, key=key, sent=sent, received=received, seconds=seconds, error=error)
