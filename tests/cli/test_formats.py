"""Durations, sizes and instants as operators type and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from homeport.cli import formats
from homeport.cli.progress import Rate, show_progress


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("15m", 900), ("24h", 86400), ("1h30m", 5400), ("7d", 604800), ("0", 0), ("off", 0), (" 2 H ", 7200)],
)
def test_durations_are_read_with_their_unit(text: str, seconds: int) -> None:
    assert formats.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "1.5h", "-3s", "15 minutes", "1h x"])
def test_what_is_no_duration_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="15m"):
        formats.parse_duration(text)


def test_a_bare_number_is_asked_for_its_unit() -> None:
    with pytest.raises(ValueError, match="did you mean 15s or 15m"):
        formats.parse_duration("15")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (64 << 40, "64.0 TiB")]
)
def test_sizes_are_shown_in_binary_units(count: int, shown: str) -> None:
    assert formats.show_size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "off"), (15, "15 s"), (185, "3 min 5 s"), (7380, "2 h 3 min"), (90000, "1 d 1 h")]
)
def test_durations_are_shown_in_their_two_largest_units(seconds: int, shown: str) -> None:
    assert formats.show_duration(seconds) == shown


def test_instants_are_local_with_their_age() -> None:
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    then = now - timedelta(seconds=12)
    shown = formats.show_instant(then.isoformat(), now)
    assert shown == f"{then.astimezone():%Y-%m-%d %H:%M:%S} (12 s ago)"


def test_an_instant_without_zone_is_utc() -> None:
    assert formats.parse_instant("2026-03-01T12:00:00") == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_progress_shows_bytes_as_sizes_and_the_rest_as_counts() -> None:
    assert show_progress({"done": 1 << 30, "total": 4 << 30, "unit": "bytes"}) == "1.0 GiB of 4.0 GiB (25 %)"
    assert show_progress({"done": 3, "total": 7, "unit": "disks", "text": "disk2"}) == "3 of 7 disks (42 %) disk2"
    assert show_progress({"done": None, "total": None, "text": "asking"}) == "asking"
    assert show_progress(None) == ""


def test_a_rate_is_averaged_over_the_last_seconds() -> None:
    rate = Rate()
    assert rate.observe(0, now=0.0) is None
    assert rate.observe(100, now=1.0) == 100
    assert rate.observe(100 + 2000, now=21.0) == 100
