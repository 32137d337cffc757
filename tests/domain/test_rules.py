"""Policies, the choice of a point, health."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.choice import PointNotAvailable, choose_point, offered, offered_as
from homeport.domain.health import Condition, Health, health, rpo_seconds
from homeport.domain.limits import LIMITS, Profile
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.policy import Policy, PolicyInvalid, failback_policy, validate
from homeport.domain.states import FAILED, REPLICATES, State
from homeport.domain.units import DAY, HOUR, MINUTE

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GOOD = Policy("gold", rpo_threshold=900, retention=DAY, app_consistent=HOUR, interval=15)


def point(number: int, consistency: Consistency = Consistency.CRASH, *, hidden: bool = False) -> PointInfo:
    return PointInfo(PointId("00000000000000aa", number), NOW + timedelta(seconds=number), consistency, hidden=hidden)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "no spaces"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"rpo_threshold": 59}, "RPO threshold"),
        ({"rpo_threshold": 31 * DAY}, "RPO threshold"),
        ({"rpo_critical": 899}, "critical RPO"),
        ({"rpo_critical": 61 * DAY}, "critical RPO"),
        ({"retention": -1}, "retention"),
        ({"retention": 3650 * DAY + 1}, "retention"),
        ({"app_consistent": 59}, "app-consistent"),
        ({"app_consistent": 8 * DAY, "retention": 9 * DAY}, "app-consistent"),
        ({"app_consistent": 2 * HOUR, "retention": 2 * HOUR}, "less than the retention"),
        ({"interval": 0}, "interval"),
        ({"interval": 15 * MINUTE + 1}, "interval"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change: dict[str, Any], named: str, profile: Profile) -> None:
    validate(GOOD, profile)
    with pytest.raises(PolicyInvalid, match=named) as refused:
        validate(replace(GOOD, **change), profile)
    assert [text for text in refused.value.details["problems"] if named in text]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "web.tier"}, "name"),
        ({"name": "9to5"}, "name"),
        ({"name": "x" * 51}, "name"),
        ({"retention": 15 * DAY + 1}, "0 to 15 days"),
        ({"app_consistent": HOUR - 1}, "1 hour to 12 hours"),
        ({"app_consistent": 13 * HOUR}, "app-consistent"),
        ({"interval": 5 * MINUTE + 1}, "1 second to 5 minutes"),
    ],
)
def test_the_strict_profile_has_the_limits_of_the_original(change: dict[str, Any], named: str) -> None:
    policy = replace(GOOD, **{"retention": 15 * DAY, **change})
    validate(policy)
    with pytest.raises(PolicyInvalid, match=named) as refused:
        validate(policy, Profile.STRICT)
    assert "strict" in refused.value.cause


def test_what_the_strict_profile_allows_is_allowed_by_the_default() -> None:
    ours, theirs = LIMITS[Profile.DEFAULT], LIMITS[Profile.STRICT]
    assert theirs.retention <= ours.retention
    for wide, narrow in (
        (ours.rpo_threshold, theirs.rpo_threshold),
        (ours.app_consistent, theirs.app_consistent),
        (ours.interval, theirs.interval),
    ):
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_the_second_threshold_is_twice_the_first_unless_it_is_given() -> None:
    assert GOOD.critical == GOOD.to_json()["rpo_critical"] == 1800
    assert replace(GOOD, rpo_threshold=60).critical == 120
    assert replace(GOOD, rpo_critical=900).critical == 900


def test_good_policies_and_the_failback_policies_made_from_them_are_valid() -> None:
    for policy in (GOOD, Policy("plain"), replace(GOOD, retention=0, app_consistent=0)):
        validate(policy)
        back = failback_policy(policy)
        validate(back)
        assert (back.rpo_threshold, back.retention, back.app_consistent) == (15 * MINUTE, DAY, 60 * MINUTE)
        assert back.generated
        assert back.name == f"{policy.name}-failback"


def test_a_point_is_chosen_by_its_kind_or_its_name() -> None:
    points = [point(1, Consistency.APP), point(2), point(3, Consistency.APP), point(4), point(5, hidden=True)]
    assert choose_point(points).id.number == 4
    assert choose_point(points, "latest-processed").id.number == 4
    assert choose_point(points, "latest-app-consistent").id.number == 3
    assert choose_point(points, str(points[0].id)).id.number == 1
    assert offered_as(points, points[3]) == ["latest", "latest-processed"]
    assert offered_as(points, points[2]) == ["latest-app-consistent"]
    assert offered_as(points, points[0]) == []


def test_what_is_latest_is_told_by_places_in_timelines_not_by_clocks() -> None:
    first, second = "00000000000000aa", "0000000000000011"

    def at(timeline: str, number: int, seconds: int, *tags: str) -> PointInfo:
        return PointInfo(PointId(timeline, number), NOW + timedelta(seconds=seconds), Consistency.CRASH, tags=tags)

    points = [at(second, 1, -60), at(first, 2, 5), at(first, 1, 90), at(second, 0, 500), at(first, 0, 900, "import")]
    there = offered(points, [first, second])
    assert [(point.id.timeline, point.id.number) for point in there] == [
        (first, 0),
        (first, 1),
        (first, 2),
        (second, 0),
        (second, 1),
    ]
    assert choose_point(there).id == PointId(second, 1)
    assert offered([replace(point, hidden=True) for point in points], [first, second]) == []


@pytest.mark.parametrize("kind", ["latest", "latest-processed"])
def test_an_imported_base_is_latest_only_where_there_is_nothing_else(kind: str) -> None:
    imported = replace(point(9), tags=("import",))
    assert choose_point([point(1), imported], kind).id.number == 1
    assert choose_point([imported], kind).id.number == 9
    assert choose_point([point(1), imported], str(imported.id)) == imported


@pytest.mark.parametrize("kind", ["latest-app-consistent", "00000000000000aa/5", "00000000000000aa/9", "newest"])
def test_what_is_not_offered_is_refused_with_a_list_of_what_is(kind: str) -> None:
    points = [point(1), point(2), point(5, Consistency.APP, hidden=True)]
    with pytest.raises(PointNotAvailable) as refused:
        choose_point(points, kind)
    assert refused.value.details["points"] == [str(points[1].id), str(points[0].id)]
    assert str(points[0].id) in refused.value.cause
    with pytest.raises(PointNotAvailable, match="has none"):
        choose_point([], kind)


@given(st.integers(-1000, 1000))
def test_the_rpo_is_the_age_of_the_newest_complete_point_and_never_negative(age: int) -> None:
    assert rpo_seconds(NOW - timedelta(seconds=age), NOW) == max(0, age)
    assert rpo_seconds(None, NOW) is None


WELL = Condition(State.PROTECTED, rpo=10, rpo_threshold=900, silence=1)


@pytest.mark.parametrize(
    ("condition", "expected", "reason"),
    [
        (WELL, Health.NORMAL, None),
        (replace(WELL, rpo=900), Health.NORMAL, None),
        (replace(WELL, rpo=901), Health.WARNING, "RPO 901 s exceeds the warning threshold of 900 s"),
        (replace(WELL, rpo=1800), Health.WARNING, "exceeds the warning threshold"),
        (replace(WELL, rpo=1801), Health.CRITICAL, "exceeds the critical threshold of 1800 s"),
        (replace(WELL, rpo=901, rpo_critical=900), Health.CRITICAL, "exceeds the critical threshold of 900 s"),
        (replace(WELL, rpo=1801, rpo_critical=3600), Health.WARNING, "exceeds the warning threshold"),
        (replace(WELL, state=State.PAUSED, silence=None, error="old"), Health.WARNING, "paused"),
        (replace(WELL, state=State.PAUSED, rpo=1801), Health.CRITICAL, "exceeds the critical threshold"),
        (replace(WELL, state=State.MIGRATED, rpo=9999), Health.NORMAL, None),
        (replace(WELL, silence=31), Health.CRITICAL, "not heard of for 31 s"),
        (replace(WELL, silence=None), Health.CRITICAL, "not heard of yet"),
        (replace(WELL, error="disk full"), Health.CRITICAL, "disk full"),
        (replace(WELL, state=State.RESYNCING), Health.WARNING, "resynchronizing"),
        (replace(WELL, state=State.FAILOVER_COMMITTED, silence=None, error="old"), Health.WARNING, "not protected"),
        (replace(WELL, state=State.FAILOVER_COMMIT_PENDING, silence=None, rpo=9999), Health.NORMAL, None),
        (replace(WELL, state=State.FAILOVER_FAILED), Health.CRITICAL, "FailoverFailed"),
    ],
)
def test_health_has_its_reasons(condition: Condition, expected: Health, reason: str | None) -> None:
    grade, reasons = health(condition)
    assert grade is expected
    assert reasons == [] if reason is None else reason in reasons[0]


def test_the_worst_reason_comes_first() -> None:
    grade, reasons = health(replace(WELL, state=State.RESYNCING, error="disk full", rpo=901))
    assert grade is Health.CRITICAL
    assert "disk full" in reasons[0]
    assert len(reasons) == 3


def test_no_failed_state_counts_as_replicating() -> None:
    assert not FAILED & REPLICATES
