from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.bandwidth import (
    DAYS,
    LEAST,
    Schedule,
    ScheduleInvalid,
    Window,
    parse_days,
    parse_hours,
    parse_rate,
    parse_window,
    show_days,
    show_rate,
    spell_rate,
)
from homeport.domain.churn import Rates
from homeport.domain.flow import SPANS, Flow
from homeport.domain.process_servers import Grade, Room, Vitals, judge, room, vitals_of

# ── rates and windows ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(LEAST, 10**12))
def test_a_rate_that_is_shown_is_read_as_the_same(rate: int) -> None:
    assert parse_rate(show_rate(rate)) == rate


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("512k", 512_000), ("20M", 20_000_000), ("1.5G", 1_500_000_000), ("100 Mbit/s", 100_000_000),
        ("40Mbit", 40_000_000), ("10Mbps", 10_000_000), ("none", None),
    ],
)  # fmt: skip
def test_rates_as_people_say_them(text: str, bits: int | None) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["", "fast", "-1M", "1T", "63k", "1e9", "20MB", "20 M M"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ScheduleInvalid):
        parse_rate(text)


@pytest.mark.parametrize("text", ["8", "8-8", "24-3", "8-25", "-", "a-b", "0-0", "8:60-9", "24:30-3", "8-24:01"])
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ScheduleInvalid):
        parse_hours(text)


def test_weekdays_and_windows() -> None:
    assert parse_days("mon-fri") == frozenset(range(5))
    assert parse_days("sat-mon,wed") == {5, 6, 0, 2}
    day = Window(20_000_000, 8 * 60, 18 * 60 + 30, frozenset(range(5)))
    assert parse_window("20M 8-18:30 mon-fri") == day
    assert parse_window("Mon-Fri 08:00-18:30=20Mbit") == day
    assert str(day) == "20M 08:00-18:30 mon-fri"
    assert parse_window("none sat,sun") == Window(None, 0, 24 * 60, frozenset({5, 6}))
    for wrong in ("", "8-18", "20M 8-18 9-17", "20M someday", "=20M", "mon=", "20M=mon"):
        with pytest.raises(ScheduleInvalid):
            parse_window(wrong)


minutes = st.integers(0, 24 * 60 - 1)
windows = st.builds(
    Window,
    rate=st.none() | st.integers(LEAST, 10**11),
    begin=minutes,
    end=st.integers(0, 24 * 60),
    days=st.sets(st.integers(0, 6), min_size=1).map(frozenset),
).filter(lambda window: window.begin != window.end % (24 * 60) or (window.begin, window.end) == (0, 24 * 60))


@given(windows, st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)))
def test_a_window_holds_for_just_its_minutes_from_each_of_its_days(window: Window, at: datetime) -> None:
    length = (window.end - window.begin) % (24 * 60) or 24 * 60
    at = at.replace(second=0, microsecond=0)
    began = [at - timedelta(minutes=back) for back in range(length)]
    begins = divmod(window.begin, 60)
    expected = any((at.hour, at.minute) == begins and at.weekday() in window.days for at in began)
    assert window.holds(at) == expected


@given(st.builds(Schedule, st.none() | st.integers(LEAST, 10**11), st.lists(windows, max_size=4).map(tuple)))
def test_what_is_said_of_a_schedule_is_read_as_the_same(schedule: Schedule) -> None:
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    for window in schedule.windows:
        assert parse_window(str(window)) == window
        assert parse_days(show_days(window.days)) == window.days


@pytest.mark.parametrize(
    "wrong", [{"limit": 1}, {"limit": "20M"}, {"schedule": "20M"}, {"schedule": ["x"]}, {"time_zone": 3}]
)
def test_what_is_no_schedule_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ScheduleInvalid):
        Schedule.from_json(wrong)


def test_rates_for_people_bear_their_unit() -> None:
    assert [spell_rate(rate) for rate in (None, 64_001, 512_000, 40_000_000)] == [
        "no limit", "64.001 kbit/s", "512 kbit/s", "40 Mbit/s",
    ]  # fmt: skip


def test_the_first_window_that_holds_counts_else_the_default() -> None:
    schedule = Schedule(100, (parse_window("20M 8-18 mon-fri"), parse_window("none 12-20")))
    monday = datetime(2026, 11, 30)
    assert monday.strftime("%a").lower() == DAYS[0]
    assert [schedule.rate(monday.replace(hour=hour)) for hour in (7, 8, 17, 18, 20)] == [
        100, 20_000_000, 20_000_000, None, 100,
    ]  # fmt: skip


# ── flows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 10**9)), max_size=40),
    st.sampled_from(sorted(SPANS.values())),
)
def test_a_flow_tells_what_came_in_the_span_to_a_piece_of_its_ring(steps: list[tuple[int, int]], span: int) -> None:
    begun = now = 1_700_000_000.0
    flow, came = Flow(begun), []
    for pause, amount in steps:
        now += pause
        flow.add(now, amount)
        came.append((now, amount))
        flow = Flow.of(json.loads(json.dumps(flow.kept())))  # in another process
    width = 60 if span <= 3600 else 1800
    since = (now // width - span // width + 1) * width  # the piece at hand, and those before it
    expected = sum(amount for at, amount in came if at >= since) / max(1.0, now - max(begun, since))
    assert flow.per_second(now, span) == pytest.approx(expected)
    assert flow.total == sum(amount for _, amount in came)
    assert len(json.dumps(flow.kept())) < 4000, "its memory is bounded"


def test_a_flow_is_bounded_and_survives_clocks_that_jump() -> None:
    flow = Flow(0.0)
    for minute in range(3000):
        flow.add(minute * 60.0, 60)
    assert flow.to_json(3000 * 60.0 - 1) == {"5min": 1, "60min": 1, "24h": 1, "total": 180_000}
    assert len(flow.kept()["minutes"]) == 60
    assert len(flow.kept()["half_hours"]) == 48
    flow.add(10.0**9, 600)  # years ahead, and put right
    flow.add(3000 * 60.0, 60)
    assert flow.per_second(3000 * 60.0 + 1, 300) < 100
    late = Flow(1000.0)
    late.add(500.0, 100)
    assert late.per_second(500.0, 300) == 100


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FINE = Vitals("ps", silence=1.0, cpu=0.5, memory=0.5, cache=Room(50, 100), pending=60.0)


@pytest.mark.parametrize(
    ("change", "grade"),
    [
        ({}, Grade.HEALTHY),
        ({"cpu": 0.80}, Grade.HEALTHY),
        ({"cpu": 0.81}, Grade.WARNING),
        ({"cpu": 0.95}, Grade.WARNING),
        ({"cpu": 0.96}, Grade.CRITICAL),
        ({"memory": 0.81}, Grade.WARNING),
        ({"memory": 0.96}, Grade.CRITICAL),
        ({"cache": Room(30, 100)}, Grade.HEALTHY),
        ({"cache": Room(29, 100)}, Grade.WARNING),
        ({"cache": Room(25, 100)}, Grade.WARNING),
        ({"cache": Room(24, 100)}, Grade.CRITICAL),
        ({"pending": 1800.0}, Grade.HEALTHY),
        ({"pending": 1801.0}, Grade.WARNING),
        ({"pending": 2701.0}, Grade.CRITICAL),
        ({"silence": 900.0}, Grade.HEALTHY),
        ({"silence": 901.0}, Grade.CRITICAL),
        ({"silence": None}, Grade.CRITICAL),
        ({"cpu": None, "memory": None, "cache": None, "pending": None}, Grade.HEALTHY),
    ],
)
def test_thresholds(change: dict[str, object], grade: Grade) -> None:
    found, why = judge(Vitals(**{**FINE.__dict__, **change}))  # type: ignore[arg-type]
    assert found is grade
    assert bool(why) == (grade is not Grade.HEALTHY)


def test_the_worst_member_counts_and_is_told_first() -> None:
    grade, why = judge(Vitals(**{**FINE.__dict__, "cpu": 0.85, "cache": Room(10, 100)}))
    assert grade is Grade.CRITICAL
    assert "10% free" in why[0] and "no points" in why[0]  # noqa: PT018
    assert "CPU: 85%" in why[1]


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_a_quota_gives_no_more_than_itself_nor_than_the_volume_has(
    free: int, total: int, quota: int, used: int
) -> None:
    free = min(free, total)
    found = room(Room(free, total), quota, used)
    assert 0 <= found.free <= min(free, quota)
    assert found.total <= min(quota, total)
    assert not found.throttled or found.free < 0.2 * found.total
    assert room(Room(free, total), None, used) == Room(free, total)


@pytest.mark.parametrize(
    "told", [{}, {"cpu": "much", "cache": 3, "items": [], "pending": True}, {"items": {"a": None}}]
)
def test_what_another_version_tells_in_another_way_is_not_known(told: dict[str, object]) -> None:
    vitals = vitals_of("ps", told, 0.0)
    assert (vitals.cpu, vitals.cache, vitals.pending) == (None, None, None)
    assert judge(vitals) == (Grade.HEALTHY, [])


def test_what_a_server_tells_is_read() -> None:
    disks = {"disk0": {"changed": {"5min": 9, "60min": 5, "24h": 3}}, "disk1": {"changed": {"60min": 2}}}
    told = {"cpu": 0.9, "cache": {"free": 1, "total": 4}, "items": {"web": {"disks": disks}}}
    assert vitals_of("ps", told).items == {"web": Rates(9.0, 7.0, 3.0)}
    assert judge(vitals_of("ps", told, 0.0))[0] is Grade.WARNING
