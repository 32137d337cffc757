"""How fast a process server may ship, by weekday and hour; rates are bits per second, as people say them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.units import DAY, HOUR, MINUTE

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LEAST = 64_000
"""Bits per second: with less, a request takes longer than whoever answers it waits."""
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:bit/s|bit|bps)?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?")
WHOLE_DAY = DAY // MINUTE
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


class ScheduleInvalid(HomeportError):
    code = "process-server.schedule-invalid"
    remedy = (
        "Rates: 512k, 20M, 40Mbit, 1.5G (bits per second) or none. Hours: 8-18, 08:00-18:30. Days: mon-fri, or sat,sun."
    )


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


def spell_rate(rate: int | None) -> str:
    """For people: "20 Mbit/s"."""
    if rate is None:
        return "no limit"
    shown = show_rate(rate)
    return f"{shown[:-1]} {shown[-1]}bit/s" if shown[-1] in "kMG" else f"{shown} bit/s"


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


def show_days(days: frozenset[int]) -> str:
    """What :func:`parse_days` reads as the same."""
    parts, left = [], sorted(days)
    while left:
        run = next(length for length in range(1, 8) if left[0] + length not in days)
        parts.append(DAYS[left[0]] + (f"-{DAYS[left[0] + run - 1]}" if run > 1 else ""))
        left = left[run:]
    return ",".join(parts)


def parse_hours(text: str) -> tuple[int, int]:
    """From and to, minutes of a day, of "8-18" or "08:00-18:30"; 22-6 goes over midnight. Raises
    :class:`ScheduleInvalid`."""
    first, _, last = text.partition("-")
    begin, end = _minutes(first), _minutes(last)
    if begin is None or end is None or begin >= WHOLE_DAY or end > WHOLE_DAY:
        raise ScheduleInvalid(f"{text!r} is no span of hours of a day.")
    if begin == end % WHOLE_DAY and (begin, end) != (0, WHOLE_DAY):
        raise ScheduleInvalid(f"{text!r} is no span of hours of a day.")
    return begin, end


def _minutes(text: str) -> int | None:
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[2] or 0) > 59:
        return None
    return int(match[1]) * (HOUR // MINUTE) + int(match[2] or 0)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@dataclass(frozen=True)
class Window:
    """``rate`` from the minute ``begin`` of a day to ``end`` on ``days``; one that goes over midnight belongs to the
    day on which it begins."""

    rate: int | None
    begin: int = 0
    end: int = WHOLE_DAY
    days: frozenset[int] = frozenset(range(7))

    def holds(self, at: datetime) -> bool:
        minute = at.hour * (HOUR // MINUTE) + at.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end and at.weekday() in self.days
        if minute >= self.begin:
            return at.weekday() in self.days
        return minute < self.end and (at - timedelta(days=1)).weekday() in self.days

    def __str__(self) -> str:
        """What :func:`parse_window` reads as the same."""
        hours = "" if (self.begin, self.end) == (0, WHOLE_DAY) else f" {_clock(self.begin)}-{_clock(self.end)}"
        days = "" if len(self.days) == len(DAYS) else f" {show_days(self.days)}"
        return show_rate(self.rate) + hours + days


@dataclass(frozen=True)
class Schedule:
    """``default``: where no window holds; of several that do, the first one counts. ``zone``: IANA name of the time
    zone whose hours the windows mean; None: of the server's own local time."""

    default: int | None = None
    windows: tuple[Window, ...] = ()
    zone: str | None = None

    def rate(self, at: datetime) -> int | None:
        """Bits per second at a time of that zone; None: no limit."""
        return next((window.rate for window in self.windows if window.holds(at)), self.default)

    def to_json(self) -> dict[str, Any]:
        """{"limit": bits per second or null, "schedule": [windows, as text], "time_zone"}"""
        return {"limit": self.default, "schedule": [str(window) for window in self.windows], "time_zone": self.zone}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schedule:
        """Raises :class:`ScheduleInvalid`."""
        limit, windows, zone = data.get("limit"), data.get("schedule") or [], data.get("time_zone")
        if limit is not None and (type(limit) is not int or limit < LEAST):
            raise ScheduleInvalid(f"{limit!r} is no number of bits per second of at least {LEAST}.")
        if not isinstance(windows, list) or not (zone is None or isinstance(zone, str)):
            raise ScheduleInvalid(f"{data!r} is no schedule.")
        return cls(limit, tuple(parse_window(str(window)) for window in windows), zone)


def parse_window(text: str) -> Window:
    """ "20M 8-18 mon-fri", or "mon-fri 08:00-18:00=20M": a rate, hours and weekdays, the latter two where it isn't all.
    Raises :class:`ScheduleInvalid`."""
    when, equals, rate = text.rpartition("=")
    rate, _, when = (rate, "", when) if equals else text.strip().partition(" ")
    parts = when.split()
    hours = [part for part in parts if part[0].isdigit()]
    days = [part for part in parts if not part[0].isdigit()]
    if not rate.strip() or (equals and not parts) or len(hours) > 1 or len(days) > 1:
        raise ScheduleInvalid(f"{text!r} is no window: it has a rate, hours and days.")
    begin, end = parse_hours(hours[0]) if hours else (0, WHOLE_DAY)
    return Window(parse_rate(rate), begin, end, parse_days(days[0]) if days else frozenset(range(7)))
