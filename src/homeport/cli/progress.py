"""How far a task is, in words: bytes as sizes with their rate, other units as counts."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from homeport.cli.formats import show_size
from homeport.cli.speech import fill, label, word

BYTES = ("bytes", "byte", "B")
RATE_OVER = 10.0
"""Seconds over which a rate is averaged."""


def show_progress(progress: Any) -> str:
    """A Progress of the API: "1.0 GiB of 4.0 GiB (25 %)", "3 of 7 blocks"; its text where there is one."""
    if not isinstance(progress, dict):
        return ""
    done, total, unit = progress.get("done"), progress.get("total"), progress.get("unit") or ""
    parts: list[str] = []
    if done is not None:
        show = show_size if unit in BYTES else _count
        named = "" if unit in BYTES or not unit else f" {label(unit)}"
        amount = fill("{done} of {total}", done=show(done), total=show(total)) if total else show(done)
        parts.append(f"{amount}{named}")
        if total:
            parts.append(f"({share(done, total)} %)")
    if text := progress.get("text"):
        parts.append(word(str(text), "phase"))
    return " ".join(parts)


def share(done: float, total: float) -> int:
    """Percent, never 100 before the end."""
    return 100 if done >= total else min(99, int(100 * done / total))


def _count(value: float) -> str:
    return f"{value:g}" if value != int(value) else str(int(value))


class Rate:
    """Bytes per second over the last RATE_OVER seconds of observations."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def observe(self, done: float, now: float | None = None) -> float | None:
        """``done``: bytes so far. None until two observations lie apart."""
        now = time.monotonic() if now is None else now
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER:
            self._seen.popleft()
        start, first = self._seen[0]
        return (done - first) / (now - start) if now > start and done >= first else None
