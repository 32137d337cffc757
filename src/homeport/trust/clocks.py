"""Clocks of those who meet for the first time: what expires, expires by both."""

from __future__ import annotations

from datetime import datetime

from homeport.domain.errors import HomeportError
from homeport.domain.servers import CLOCK_SKEW, skewed


class ClockSkew(HomeportError):
    code = "join.clock-skew"
    remedy = "Set both clocks right (NTP), then join again; the registration key or passphrase is not used up."


def compare_clocks(whose: str, one: datetime, other_whose: str, other: datetime) -> None:
    """Raises :class:`ClockSkew`, which shows both."""
    if other.tzinfo is None:
        raise HomeportError("The time has no zone.", code="request.invalid", remedy="Send UTC, as ISO 8601.")
    if skewed(one, other):
        raise ClockSkew(
            f"The clocks differ by {abs((one - other).total_seconds()):.0f} s, more than "
            f"{CLOCK_SKEW.total_seconds():.0f}: it is {one.isoformat(timespec='seconds')} at {whose} and "
            f"{other.isoformat(timespec='seconds')} at {other_whose}."
        )
