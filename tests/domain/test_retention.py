from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.retention import points_to_prune
from homeport.domain.units import DAY, HOUR, MINUTE

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TIMELINE = "00000000000000aa"


def points_at(*ages: float, app: tuple[float, ...] = (), tagged: tuple[float, ...] = ()) -> list[PointInfo]:
    """Points of these ages in seconds, the oldest first."""
    return [
        PointInfo(
            PointId(TIMELINE, number),
            NOW - timedelta(seconds=age),
            Consistency.APP if age in app else Consistency.CRASH,
            tags=("kept",) if age in tagged else (),
        )
        for number, age in enumerate(sorted(ages, reverse=True), start=1)
    ]


def kept(points: list[PointInfo], retention: float, now: datetime = NOW) -> list[PointInfo]:
    gone = set(points_to_prune(points, now, retention))
    return [point for point in points if point.id not in gone]


ages = st.lists(st.floats(0, 20 * DAY) | st.floats(0, 1000 * DAY), min_size=1, max_size=80, unique=True)
retentions = st.sampled_from([0, HOUR, DAY, 3 * DAY, 7 * DAY, 15 * DAY, 60 * DAY, 3650 * DAY])


def test_all_points_of_the_last_two_hours_are_kept_then_one_an_hour() -> None:
    points = points_at(*range(0, 6 * HOUR, 5 * MINUTE))
    found = kept(points, DAY)
    recent = [point for point in found if (NOW - point.time).total_seconds() <= 2 * HOUR]
    older = [point for point in found if (NOW - point.time).total_seconds() > 2 * HOUR]
    assert len(recent) == 25
    assert len(older) == 4
    assert len({point.time.hour for point in older}) == 4


def test_fifteen_days_of_points_thin_out_by_the_tiers() -> None:
    points = points_at(*range(0, 16 * DAY, 30 * MINUTE))
    found = kept(points, 15 * DAY)

    def between(low: float, high: float) -> int:
        return len([point for point in found if low < (NOW - point.time).total_seconds() <= high])

    assert 21 <= between(2 * HOUR, DAY) <= 23
    assert 71 <= between(DAY, 7 * DAY) <= 73
    assert 47 <= between(7 * DAY, 15 * DAY) <= 49
    assert between(15 * DAY, 99 * DAY) == 0


def test_beyond_fifteen_days_one_a_day_is_kept_then_one_a_week() -> None:
    points = points_at(*range(0, 400 * DAY, 6 * HOUR))
    ages = [(NOW - point.time).total_seconds() for point in kept(points, 365 * DAY)]
    assert 74 <= len([age for age in ages if 15 * DAY < age <= 90 * DAY]) <= 76
    assert 39 <= len([age for age in ages if 90 * DAY < age <= 365 * DAY]) <= 41
    assert not [age for age in ages if age > 365 * DAY]


def test_a_retention_of_nothing_keeps_the_newest_only() -> None:
    points = points_at(0, 10, 20)
    assert kept(points, 0) == points[-1:]


def test_the_newest_app_consistent_point_of_an_hour_is_kept_beside_the_newest() -> None:
    points = points_at(0, 4 * HOUR + 100, 4 * HOUR + 200, 4 * HOUR + 300, app=(4 * HOUR + 200,))
    found = kept(points, DAY)
    assert [point.consistency for point in found] == [Consistency.APP, Consistency.CRASH, Consistency.CRASH]


def test_tagged_leased_and_hidden_points_stay() -> None:
    points = points_at(0, 5 * DAY, 6 * DAY, 7 * DAY, tagged=(5 * DAY,))
    leased = points[1].id
    assert points_to_prune(points, NOW, DAY, {leased}) == [points[0].id]


@given(ages, retentions)
def test_while_no_new_points_arrive_nothing_is_deleted(found: list[float], retention: int) -> None:
    left = kept(points_at(*found), retention)
    for later in (HOUR, DAY, 100 * DAY):
        assert points_to_prune(left, NOW + timedelta(seconds=later), retention) == []


@given(ages, retentions)
def test_the_newest_point_is_never_deleted_and_pruning_twice_is_pruning_once(
    found: list[float], retention: int
) -> None:
    points = points_at(*found)
    left = kept(points, retention)
    assert max(points, key=lambda point: point.time) in left
    assert points_to_prune(left, NOW, retention) == []


@given(ages, st.integers(1, 40))
def test_pruning_often_keeps_as_much_of_every_hour_as_pruning_once(found: list[float], steps: int) -> None:
    """What an older tier keeps must have survived the younger ones."""
    points = points_at(*found)
    left: list[PointInfo] = []
    for point in points:
        left = kept([*left, point], 15 * DAY, point.time)
    newest = points[-1].time
    spans = {int(p.time.timestamp()) // (4 * HOUR) for p in kept(points, 15 * DAY) if p.time != newest}
    assert spans <= {int(point.time.timestamp()) // (4 * HOUR) for point in left}


def test_a_clock_that_jumped_forward_does_not_cost_the_history() -> None:
    points = [*points_at(0, 60, 120), PointInfo(PointId(TIMELINE, 9), NOW + timedelta(days=400), Consistency.CRASH)]
    assert points_to_prune(points, NOW, DAY) == []


def test_without_points_there_is_nothing_to_prune() -> None:
    assert points_to_prune([], NOW, DAY) == []
