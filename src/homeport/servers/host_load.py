"""How busy this host is, averaged over the last while, as /proc tells (proc(5))."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path

from homeport.domain.process_servers import WINDOW

SAMPLE_EVERY = 15.0


class HostLoad:
    """``sample`` is called now and then, by whoever has time; safe from several threads."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int, int, float]] = deque()
        """Monotonic time; processor time spent busy, and in all; share of memory in use."""
        self.sample()

    def sample(self, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        with self._lock:
            if self._samples and now - self._samples[-1][0] < SAMPLE_EVERY:
                return
            self._samples.append((now, *self._processors(), self._memory()))
            while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
                self._samples.popleft()

    def cpu(self) -> float | None:
        """Share of all processors' time; None: not sampled yet for as long as it is judged over."""
        with self._lock:
            if not self._covered():
                return None
            (_, busy, total, _), (_, then_busy, then_total, _) = self._samples[-1], self._samples[0]
        return (busy - then_busy) / (total - then_total) if total > then_total else None

    def memory(self) -> float | None:
        """Share that isn't available; None: as for :meth:`cpu`."""
        with self._lock:
            if not self._covered():
                return None
            return sum(sample[3] for sample in self._samples) / len(self._samples)

    def _covered(self) -> bool:
        return self._samples[-1][0] - self._samples[0][0] >= WINDOW

    def _processors(self) -> tuple[int, int]:
        first = (self._proc / "stat").read_text().partition("\n")[0]
        spent = [int(field) for field in first.split()[1:9]]  # guest time is in user time already
        return sum(spent) - spent[3] - spent[4], sum(spent)

    def _memory(self) -> float:
        lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
        found = {fields[0].rstrip(":"): int(fields[1]) for fields in lines}
        return 1.0 - found["MemAvailable"] / found["MemTotal"]
