"""How many bytes a second, over the last while: churn of disks, and what was shipped."""

from __future__ import annotations

from collections import deque

from homeport.domain.units import HOUR, MINUTE

SPANS = (5 * MINUTE, HOUR)
"""Seconds over which is told."""


class Flow:
    """Amounts as they come, forgotten after the longest of :data:`SPANS`. ``begun``: seconds on the clock that all
    calls are by; before it nothing could come, so that a young flow isn't told as a slow one."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self._came: deque[tuple[float, int]] = deque()

    def add(self, at: float, amount: int) -> None:
        self._came.append((at, amount))
        while self._came[0][0] < at - SPANS[-1]:
            self._came.popleft()

    def per_second(self, at: float, span: float) -> float:
        """Of the last ``span`` seconds, or of the time since the beginning, where that is less (and not under a
        second)."""
        length = max(1.0, min(span, at - self._begun))
        return sum(amount for came, amount in self._came if came > at - span) / length

    def to_json(self, at: float) -> dict[str, int]:
        return {f"{span // MINUTE}min": round(self.per_second(at, span)) for span in SPANS}
