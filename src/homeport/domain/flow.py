"""How many bytes a second, in the last minutes, an hour, a day: of what disks change, and of what is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeport.domain.units import DAY, HOUR, MINUTE

SPANS = {"5min": 5 * MINUTE, "60min": HOUR, "24h": DAY}
"""By the name under which it is told: seconds over which is averaged."""


class _Ring:
    """Amounts by pieces of time of ``width`` seconds: the newest ``count`` of them."""

    def __init__(self, width: int, count: int) -> None:
        self.width = width
        self.count = count
        self.held: dict[int, int] = {}
        """In the order of time."""

    def add(self, at: float, amount: int) -> None:
        place = int(at // self.width)
        while self.held and next(reversed(self.held)) > place:  # the clock was ahead, and was put right
            self.held.popitem()
        self.held[place] = self.held.get(place, 0) + amount
        while next(iter(self.held)) <= place - self.count:
            del self.held[next(iter(self.held))]

    def per_second(self, at: float, begun: float, span: int) -> float:
        newest = int(at // self.width)
        oldest = newest - span // self.width + 1
        total = sum(amount for place, amount in self.held.items() if oldest <= place <= newest)
        return total / max(1.0, at - max(begun, oldest * self.width))


class Flow:
    """Amounts as they come, in a bounded memory whatever their number. All times are seconds since the epoch, so that
    what is kept goes on in another process. ``begun``: before it nothing could come, so that a young flow isn't told
    as a slow one."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.total = 0
        self._minutes = _Ring(MINUTE, HOUR // MINUTE)
        self._half_hours = _Ring(HOUR // 2, DAY // (HOUR // 2))

    def add(self, at: float, amount: int) -> None:
        self.begun = min(self.begun, at)
        self.total += amount
        self._minutes.add(at, amount)
        self._half_hours.add(at, amount)

    def per_second(self, at: float, span: int) -> float:
        """Over the last ``span`` seconds (one of :data:`SPANS`), less at most a minute of up to an hour, and half an
        hour of a day; or since the beginning, where that is less (and not under a second)."""
        ring = self._minutes if span <= HOUR else self._half_hours
        return ring.per_second(at, min(self.begun, at), span)

    def last(self) -> float | None:
        """When something came last, to the minute."""
        return next(reversed(self._minutes.held), 0) * MINUTE or None

    def to_json(self, at: float) -> dict[str, int]:
        """Bytes per second by span, and ``total``: bytes since :attr:`begun`."""
        return {**{name: round(self.per_second(at, span)) for name, span in SPANS.items()}, "total": self.total}

    def kept(self) -> dict[str, Any]:
        """For :meth:`of`."""
        return {
            "begun": self.begun,
            "total": self.total,
            "minutes": list(self._minutes.held.items()),
            "half_hours": list(self._half_hours.held.items()),
        }

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Flow:
        """Raises ValueError, TypeError or KeyError where it isn't what :meth:`kept` told."""
        flow = cls(float(kept["begun"]))
        flow.total = int(kept["total"])
        flow._minutes.held = {int(place): int(amount) for place, amount in sorted(kept["minutes"])}
        flow._half_hours.held = {int(place): int(amount) for place, amount in sorted(kept["half_hours"])}
        return flow
