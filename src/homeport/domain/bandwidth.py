"""How fast a process server may ship, by weekday and hour; rates are bits per second, as people say them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from homeport.domain.errors import HomeportError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEAST = 64_000
"""Bits per second: with less, a request takes longer than whoever answers it waits."""
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:bit/s|bps)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


class ScheduleInvalid(HomeportError):
    code = "process-server.schedule-invalid"
    remedy = "Rates: 512k, 20M, 1.5G (bits per second) or none. Hours: 8-18. Days: mon-fri, or sat,sun."


def parse_rate(text: str) -> int | None:
    """Bits per second; None: no limit. Raises :class:`ScheduleInvalid`."""
    if text.strip().lower() == "none":
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ScheduleInvalid(f"{text!r} is no rate.")
    rate = round(float(match[1]) * _FACTORS[match[2].lower()])
    if rate < LEAST:
        raise ScheduleInvalid(f"{text!r} is less than the least rate, 64k.")
    return rate


def show_rate(rate: int | None) -> str:
    """The shortest text that :func:`parse_rate` reads as the same."""
    if rate is None:
        return "none"
    for unit, factor in (("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if rate >= factor and rate % (factor // 1000) == 0:
            return f"{rate / factor:.3f}".rstrip("0").rstrip(".") + unit
    return str(rate)


def parse_days(text: str) -> frozenset[int]:
    """Weekdays, Monday is 0; a range may go over the weekend (sat-mon). Raises :class:`ScheduleInvalid`."""
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ScheduleInvalid(f"{text!r} names no weekdays.")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def parse_hours(text: str) -> tuple[int, int]:
    """From and to, whole hours of a day; 22-6 goes over midnight. Raises :class:`ScheduleInvalid`."""
    first, dash, last = text.partition("-")
    if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
        raise ScheduleInvalid(f"{text!r} is no span of hours.")
    begin, end = int(first), int(last)
    if begin > 23 or end > 24 or (begin == end % 24 and (begin, end) != (0, 24)):
        raise ScheduleInvalid(f"{text!r} is no span of hours of a day.")
    return begin, end


@dataclass(frozen=True)
class Window:
    """``rate`` from the hour ``begin`` to ``end`` on ``days``; one that goes over midnight belongs to the day on which
    it begins."""

    rate: int | None
    begin: int = 0
    end: int = 24
    days: frozenset[int] = frozenset(range(7))

    def holds(self, at: datetime) -> bool:
        if self.begin < self.end:
            return self.begin <= at.hour < self.end and at.weekday() in self.days
        if at.hour >= self.begin:
            return at.weekday() in self.days
        return at.hour < self.end and (at - timedelta(days=1)).weekday() in self.days


@dataclass(frozen=True)
class Schedule:
    """``default``: where no window holds; of several that do, the first one counts."""

    default: int | None = None
    windows: tuple[Window, ...] = ()

    def rate(self, at: datetime) -> int | None:
        """Bits per second at a local time; None: no limit."""
        return next((window.rate for window in self.windows if window.holds(at)), self.default)


def parse_window(text: str) -> Window:
    """ "20M 8-18 mon-fri": a rate, hours and weekdays, the latter two where it isn't all. Raises
    :class:`ScheduleInvalid`."""
    parts = text.split()
    hours = [part for part in parts[1:] if part[0].isdigit()]
    days = [part for part in parts[1:] if not part[0].isdigit()]
    if not parts or len(hours) > 1 or len(days) > 1:
        raise ScheduleInvalid(f"{text!r} is no window: it has a rate, hours and days.")
    begin, end = parse_hours(hours[0]) if hours else (0, 24)
    return Window(parse_rate(parts[0]), begin, end, parse_days(days[0]) if days else frozenset(range(7)))
