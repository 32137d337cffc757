"""Durations, sizes and instants: as operators type them and as they read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from homeport.cli.speech import fill, word

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+)\s*([smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern}\s*)+")


def parse_duration(text: str) -> int:
    """Seconds of "15s", "15m", "24h", "1h30m", "7d"; "0" and "off" are 0.

    Raises ValueError, saying what is expected. A bare number is refused: nobody knows its unit.
    """
    wanted = text.strip().lower()
    if wanted in ("0", "off"):
        return 0
    if not _DURATION.fullmatch(wanted):
        hint = f"; did you mean {wanted}s or {wanted}m?" if wanted.isdigit() else ""
        raise ValueError(f"{text!r} is not a duration (expected e.g. 15s, 15m, 24h, 7d, 1h30m, or off){hint}")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(wanted))


def show_duration(seconds: float | None) -> str:
    """The two largest units: "12 s", "3 min 5 s", "2 h 3 min", "4 d 1 h"; "off" for 0; "-" where unknown."""
    if seconds is None:
        return "-"
    return _spell(seconds) if seconds else word("off", "field")


def show_span(seconds: float | None) -> str:
    """Like show_duration for a time that passed: 0 is "0 s", and short ones keep a decimal."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} {word('s', 'unit')}" if 0 < seconds < 10 and seconds != int(seconds) else _spell(seconds)


def _spell(seconds: float) -> str:
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, unit)
        if count:
            parts.append(f"{count} {word(name, 'unit')}")
    return " ".join(parts[:2]) or f"0 {word('s', 'unit')}"


def show_size(count: float | None) -> str:
    """Bytes in the largest binary unit that keeps the number at least one."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


_SIZE = re.compile(r"(\d+)\s*([kmgt])(?:i?b)?", re.IGNORECASE)
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of "256M", "256MiB", "1G"; units are binary. Raises ValueError, saying what is expected."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size (expected e.g. 512M, 10G or 1T)")
    return int(match[1]) * _BINARY[match[2].lower()]


def parse_instant(text: str | None) -> datetime | None:
    """An ISO 8601 instant of the API; without a zone it is UTC."""
    if not text:
        return None
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def instant(text: str) -> datetime:
    """An instant as an operator gives it: ISO 8601, UTC unless it says otherwise. Raises ValueError, saying what is
    expected."""
    try:
        found = parse_instant(text)
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{text!r} is not an instant (expected e.g. 2026-11-21T04:00:00Z)")
    return found.astimezone(UTC)


def show_instant(text: str | None, now: datetime | None = None) -> str:
    """Local time and relative age: "2026-11-21 03:34:23 (12 s ago)"."""
    instant = parse_instant(text)
    if instant is None:
        return "-"
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S} ({show_age(instant, now)})"


def show_age(instant: datetime, now: datetime | None = None) -> str:
    seconds = ((now or datetime.now(UTC)) - instant).total_seconds()
    if seconds < -1:
        return fill("in {span}", span=_spell(-seconds))
    return fill("{span} ago", span=_spell(seconds))


def seconds_between(start: str | None, end: str | None) -> float | None:
    first, last = parse_instant(start), parse_instant(end)
    return (last - first).total_seconds() if first and last else None
