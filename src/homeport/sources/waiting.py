"""Waiting for a descriptor with poll(2): select(2) knows none from 1024 on, and a process that reads many disks has
more."""

from __future__ import annotations

import select
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(file: int | HasFileno, seconds: float | None) -> bool:
    """Whether there is something to read (its end and its errors count) within ``seconds`` (None: whenever)."""
    return _ready(file, select.POLLIN, seconds)


def writable(file: int | HasFileno, seconds: float) -> bool:
    return _ready(file, select.POLLOUT, seconds)


def _ready(file: int | HasFileno, event: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(None if seconds is None else max(seconds, 0.0) * 1000))
