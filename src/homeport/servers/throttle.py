"""The bandwidth that all items of a process server have together: a token bucket at the sockets that ship."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from homeport.domain.bandwidth import Schedule, ScheduleInvalid

BURST = 0.1
"""Seconds' worth of bytes that may leave at once after a pause."""
PIECE = 64 << 10
"""Bytes sent without a look at the bucket, at most."""
LOOK_EVERY = 0.5
"""Seconds after which whoever waits looks whether the rate has changed."""


class Throttle:
    """``own``: what the server's configuration says; ``told``: what the vault says, which then rules in its place. Both
    may be replaced at any time. ``clock`` is monotonic, ``now`` local time. Safe from several threads: whoever comes
    first goes first, roughly."""

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.own = schedule or Schedule()
        self.told: Schedule | None = None
        self._clock, self._now, self._sleep = clock, now, sleep
        self._lock = threading.Lock()
        self._level = 0.0
        self._filled = clock()

    @property
    def rate(self) -> int | None:
        """Bits per second now; None: no limit."""
        schedule = self.schedule
        return schedule.rate(self._at(schedule)) if schedule.windows else schedule.default

    @property
    def schedule(self) -> Schedule:
        """The one that rules."""
        return self.told or self.own

    def to_json(self) -> dict[str, Any]:
        """As :meth:`Schedule.to_json` of the one that rules, and "rules": "vault" or "configuration"; "now": bits per
        second, null: no limit; "clock": what the windows' time is, with its zone."""
        schedule = self.schedule
        at = self._at(schedule)
        return {
            **schedule.to_json(),
            "rules": "configuration" if self.told is None else "vault",
            "now": schedule.rate(at),
            "clock": f"{at:%H:%M} {at.tzname()} (UTC{at:%z})",
        }

    def _at(self, schedule: Schedule) -> datetime:
        return self._now().astimezone(zone(schedule.zone) if schedule.zone else None)

    def piece(self) -> int:
        """Bytes that should be sent at once now: small where the rate is."""
        rate = self.rate
        return PIECE if rate is None else max(1 << 10, min(PIECE, int(rate / 8 * BURST)))

    def take(self, count: int) -> None:
        """Return when ``count`` bytes may leave: they are taken on credit, which must be paid off before the next."""
        while (wait := self._try(count)) > 0:
            self._sleep(min(max(wait, 0.001), LOOK_EVERY))

    def _try(self, count: int) -> float:
        """0: they may leave; else seconds until the credit is paid off."""
        with self._lock:
            now, rate = self._clock(), self.rate
            passed, self._filled = now - self._filled, now
            if rate is None:
                self._level = 0.0
                return 0.0
            each = rate / 8
            self._level = min(self._level + passed * each, each * BURST)
            if self._level < 0:
                return -self._level / each
            self._level -= count
            return 0.0


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises ScheduleInvalid where this host knows none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ScheduleInvalid(f"There is no time zone {name!r} on this host.") from error
