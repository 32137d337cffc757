from __future__ import annotations

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
    show_rate,
)
from homeport.domain.flow import SPANS, Flow
from homeport.domain.process_servers import Grade, Room, Vitals, judge, room, suggest, vitals_of

# ── rates and windows ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(LEAST, 10**12))
def test_a_rate_that_is_shown_is_read_as_the_same(rate: int) -> None:
    assert parse_rate(show_rate(rate)) == rate


@pytest.mark.parametrize(
    ("text", "bits"),
    [("512k", 512_000), ("20M", 20_000_000), ("1.5G", 1_500_000_000), ("100 Mbit/s", 100_000_000), ("none", None)],
)
def test_rates_as_people_say_them(text: str, bits: int | None) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["", "fast", "-1M", "1T", "63k", "1e9", "20MB", "20 M M"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ScheduleInvalid):
        parse_rate(text)


@pytest.mark.parametrize("text", ["8", "8-8", "24-3", "8-25", "-", "a-b", "0-0"])
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ScheduleInvalid):
        parse_hours(text)


def test_weekdays_and_windows() -> None:
    assert parse_days("mon-fri") == frozenset(range(5))
    assert parse_days("sat-mon,wed") == {5, 6, 0, 2}
    assert parse_window("20M 8-18 mon-fri") == Window(20_000_000, 8, 18, frozenset(range(5)))
    assert parse_window("none sat,sun") == Window(None, 0, 24, frozenset({5, 6}))
    for wrong in ("", "8-18", "20M 8-18 9-17", "20M someday"):
        with pytest.raises(ScheduleInvalid):
            parse_window(wrong)


@given(
    st.integers(0, 23), st.integers(0, 24), st.sets(st.integers(0, 6)),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)),
)  # fmt: skip
def test_a_window_holds_for_just_its_hours_from_each_of_its_days(
    begin: int, end: int, days: set[int], at: datetime
) -> None:
    if begin == end % 24 and (begin, end) != (0, 24):
        return
    hours = (end - begin) % 24 or 24
    at = at.replace(minute=0, second=0, microsecond=0)
    began = [at - timedelta(hours=back) for back in range(hours)]
    expected = any(instant.hour == begin and instant.weekday() in days for instant in began)
    assert Window(None, begin, end, frozenset(days)).holds(at) == expected


def test_the_first_window_that_holds_counts_else_the_default() -> None:
    schedule = Schedule(100, (parse_window("20M 8-18 mon-fri"), parse_window("none 12-20")))
    monday = datetime(2026, 11, 30)
    assert monday.strftime("%a").lower() == DAYS[0]
    assert [schedule.rate(monday.replace(hour=hour)) for hour in (7, 8, 17, 18, 20)] == [
        100, 20_000_000, 20_000_000, None, 100,
    ]  # fmt: skip


# ── flows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 10**9)), max_size=30), st.sampled_from(SPANS))
def test_a_flow_tells_what_came_in_the_span(steps: list[tuple[int, int]], span: int) -> None:
    flow, now, came = Flow(0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        flow.add(now, amount)
        came.append((now, amount))
    expected = sum(amount for at, amount in came if at > now - span) / max(1.0, min(span, now))
    assert flow.per_second(now, span) == pytest.approx(expected)


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
    churn = {"disk0": {"5min": 9, "60min": 5}, "disk1": {"60min": 2}}
    told = {"cpu": 0.9, "cache": {"free": 1, "total": 4}, "items": {"web": {"churn": churn}}}
    assert vitals_of("ps", told).churn == {"web": 7.0}
    assert judge(vitals_of("ps", told, 0.0))[0] is Grade.WARNING


# ── load balancing ──────────────────────────────────────────────────────────────────────────────────────────────────

servers = st.lists(
    st.builds(
        Vitals,
        name=st.uuids().map(str),
        silence=st.sampled_from([0.0, 1000.0]),
        cpu=st.sampled_from([0.5, 0.85, 0.97]),
        churn=st.dictionaries(st.uuids().map(str), st.integers(0, 100).map(float), max_size=5),
    ),
    max_size=5,
    unique_by=lambda vitals: vitals.name,
)


@given(servers)
def test_moves_go_from_the_troubled_to_the_healthy_and_overload_nobody(fleet: list[Vitals]) -> None:
    grades = {vitals.name: judge(vitals)[0] for vitals in fleet}
    load = {vitals.name: dict(vitals.churn) for vitals in fleet}
    silent = {vitals.name for vitals in fleet if vitals.silence == 1000.0}
    for move in suggest(fleet):
        assert grades[move.source] is not Grade.HEALTHY
        assert grades[move.to] is Grade.HEALTHY
        before = sum(load[move.source].values())
        load[move.to][move.item] = load[move.source].pop(move.item)
        if move.source not in silent:
            assert sum(load[move.to].values()) <= before
    if any(grade is Grade.HEALTHY for grade in grades.values()):
        assert not any(load[name] for name in silent)  # nobody replicates these


def test_nothing_is_suggested_where_nobody_is_healthy_or_nothing_is_wrong() -> None:
    busy = Vitals("a", 0.0, cpu=0.9, churn={"x": 3.0, "y": 1.0})
    assert suggest([busy]) == []
    assert suggest([Vitals("a", 0.0, churn={"x": 1.0}), Vitals("b", 0.0)]) == []
    assert [(move.item, move.to) for move in suggest([busy, Vitals("b", 0.0)])] == [("x", "b")]
