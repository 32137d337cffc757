"""Replication groups: who may join, which points are common, and what thinning leaves of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeport.domain.choice import PointKind, PointNotAvailable, choose_point, offered_as
from homeport.domain.groups import (
    TOGETHER,
    GroupFull,
    GroupNameInvalid,
    GroupNotJoinable,
    Member,
    MemberAlone,
    NoCommonPoint,
    choose_common,
    common,
    is_mark,
    mark,
    new_round,
    next_tick,
    require_joinable,
    require_together,
    round_of,
    shared_points,
)
from homeport.domain.health import Condition, Health, Rounds, health
from homeport.domain.limits import LIMITS, Profile
from homeport.domain.operation_kinds import Operation
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.retention import points_to_prune
from homeport.domain.states import Direction, State

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = 60, 3600, 86400
GROUP = "shop"


def round_number(number: int) -> str:
    return f"{number:016x}"


def history(
    member: int, rounds: list[tuple[int, bool]], app: frozenset[int] = frozenset(), every: int = 60
) -> list[PointInfo]:
    """A member's points: of each round (its number) one, or, where it missed it, one of its own; oldest first."""
    timeline = f"{member:016x}"
    return [
        PointInfo(
            PointId(timeline, place + 1),
            BEGIN + timedelta(seconds=number * every, milliseconds=0 if took_part else 7 * member),
            Consistency.APP if number in app else Consistency.CRASH,
            group=mark(GROUP, round_number(number)) if took_part else None,
        )
        for place, (number, took_part) in enumerate(rounds)
    ]


histories = st.integers(1, 40).flatmap(
    lambda length: st.lists(
        st.tuples(st.lists(st.booleans(), min_size=length, max_size=length), st.frozensets(st.integers(0, length - 1))),
        min_size=1,
        max_size=5,
    )
)


# ── common points ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(histories)
def test_common_is_exactly_what_all_members_have_the_newest_first(
    drawn: list[tuple[list[bool], frozenset[int]]],
) -> None:
    members = {
        f"m{number}": history(number, list(enumerate(took_part)), app) for number, (took_part, app) in enumerate(drawn)
    }
    found = common(GROUP, members)
    expected = [number for number in range(len(drawn[0][0])) if all(took_part[number] for took_part, _ in drawn)]
    assert [each.round for each in found] == [round_number(number) for number in reversed(expected)]
    for each in found:
        assert set(each.points) == set(members)
        for name, point in each.points.items():
            info = next(info for info in members[name] if info.id == point)
            assert round_of(info, GROUP) == each.round
            assert info.time == each.time
        number = int(each.round, 16)
        assert (each.consistency is Consistency.APP) == all(number in app for _, app in drawn)


@given(histories)
def test_the_latest_is_the_newest_of_its_kind_or_refused_with_what_there_is(
    drawn: list[tuple[list[bool], frozenset[int]]],
) -> None:
    members = {
        f"m{number}": history(number, list(enumerate(took_part)), app) for number, (took_part, app) in enumerate(drawn)
    }
    there = common(GROUP, members)
    apps = [each for each in there if each.consistency is Consistency.APP]
    for kind, found in ((PointKind.LATEST_MULTI_VM, there), (PointKind.LATEST_MULTI_VM_APP_CONSISTENT, apps)):
        if found:
            assert choose_common(GROUP, members, kind) == found[0]
        else:
            with pytest.raises(NoCommonPoint) as refused:
                choose_common(GROUP, members, kind)
            assert refused.value.details["rounds"] == [each.round for each in there]
    for each in there:
        assert choose_common(GROUP, members, each.round) == each


def test_what_came_first_is_told_by_places_not_by_clocks() -> None:
    back = [
        PointInfo(PointId("0" * 16, number), BEGIN - timedelta(hours=number), Consistency.CRASH,
                  group=mark(GROUP, round_number(number)))
        for number in (1, 2, 3)
    ]  # fmt: skip
    assert choose_common(GROUP, {"a": back, "b": back}, PointKind.LATEST_MULTI_VM).round == round_number(3)


def test_rounds_of_another_group_and_single_points_are_not_common() -> None:
    point = PointInfo(PointId("0" * 16, 1), BEGIN, Consistency.CRASH, group="other/" + round_number(1))
    assert common(GROUP, {"a": [point], "b": [point]}) == []
    assert common(GROUP, {}) == []
    with pytest.raises(NoCommonPoint, match="none that all"):
        choose_common(GROUP, {"a": [], "b": [point]}, PointKind.LATEST_MULTI_VM)


def test_a_kind_of_a_group_is_no_point_of_one_machine() -> None:
    points = history(0, [(0, True), (1, True)])
    with pytest.raises(PointNotAvailable):
        choose_point(points, PointKind.LATEST_MULTI_VM)
    assert offered_as(points, points[-1]) == ["latest", "latest-processed"]


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))
def test_a_mark_names_its_group_and_its_round(name: str) -> None:
    round_id = new_round()
    made = mark(name, round_id)
    assert is_mark(made)
    point = PointInfo(PointId("0" * 16, 1), BEGIN, Consistency.CRASH, group=made)
    assert round_of(point, name) == round_id
    assert round_of(point, name + "x") is None
    assert PointInfo.from_json(point.to_json()) == point
    assert not is_mark(name)
    assert not is_mark(7)


# ── thinning ────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40)
@given(
    st.integers(2, 3),
    st.integers(0, 1 << 30),
    st.sampled_from([0.3, 0.7, 0.95]),
    st.integers(0, 3),
    st.integers(1, 400),
)
def test_thinning_leaves_common_points_wherever_there_were_some(
    count: int, seed: int, diligence: float, late: int, first_thinning: int
) -> None:
    """Members thin at different times, each by itself. In each hour that the retention keeps, and that had a common
    point, one is left; the newest stays in any case."""
    every = 6 * MINUTE  # 40 hours in all
    chance = random.Random(seed)
    members = {
        f"m{number}": history(number, [(each, chance.random() < diligence) for each in range(400)], every=every)
        for number in range(count)
    }

    def thinned(now: dict[str, list[PointInfo]], cut: int, retention: int) -> dict[str, list[PointInfo]]:
        result = dict(now)
        for place, name in enumerate(now):
            upto = cut + place * late  # each is at another point of its history
            mine = [point for point in result[name] if point.time <= BEGIN + timedelta(seconds=upto * every)]
            rest = result[name][len(mine) :]
            others = [result[other] for other in result if other != name]
            if not mine:
                continue
            drop = points_to_prune(mine, mine[-1].time, retention, shared=shared_points(result[name], others))
            result[name] = [point for point in mine if point.id not in drop] + rest
        return result

    before = common(GROUP, members)
    after = thinned(thinned(members, first_thinning, 30 * DAY), 400, 30 * DAY)
    left = common(GROUP, after)
    assert left[:1] == before[:1]

    def buckets(found: list[object]) -> set[int]:
        return {int(each.time.timestamp()) // (2 * HOUR) for each in found}  # type: ignore[attr-defined]

    assert buckets(left) == buckets(before)  # type: ignore[arg-type]
    dropped = sum(map(len, members.values())) - sum(map(len, after.values()))
    assert dropped > 0, "nothing was thinned at all"


def test_without_the_rule_thinning_parts_what_members_share() -> None:
    """What the rule is for: the newest of an hour is another one for each of them."""
    one = history(0, [(number, number % 2 == 0) for number in range(400)], every=6 * MINUTE)
    other = history(1, [(number, number % 3 == 0) for number in range(400)], every=6 * MINUTE)

    def left(points: list[PointInfo], others: list[list[PointInfo]]) -> list[PointInfo]:
        drop = points_to_prune(points, points[-1].time, 30 * DAY, shared=shared_points(points, others))
        return [point for point in points if point.id not in drop]

    by_themselves = common(GROUP, {"a": left(one, [one]), "b": left(other, [other])})
    knowing = common(GROUP, {"a": left(one, [other]), "b": left(other, [one])})
    assert len(knowing) > 2 * len(by_themselves)


def test_one_without_points_shares_none_and_keeps_none_from_the_others() -> None:
    points = history(0, [(0, True), (1, True), (2, False)])
    assert shared_points(points, [[], points[:1]]) == [points[0].id]
    assert shared_points(points, [[]]) == [points[0].id, points[1].id]


# ── membership ──────────────────────────────────────────────────────────────────────────────────────────────────────


def member(number: int, **changes: object) -> Member:
    fields: dict[str, object] = {"name": f"m{number}", "home": "east", "away": "west", "policy": "gold"}
    return Member(**{**fields, "state": State.PROTECTED, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", Profile)
def test_a_group_has_at_most_as_many_members_as_its_profile_allows(profile: Profile) -> None:
    limits = LIMITS[profile]
    full = [member(number) for number in range(limits.group_members)]
    require_joinable(GROUP, member(99), full[:-1], limits)
    with pytest.raises(GroupFull, match=str(limits.group_members)):
        require_joinable(GROUP, member(99), full, limits)
    assert LIMITS[Profile.STRICT].group_members == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"home": "north"}, "from east to west"),
        ({"away": "north"}, "from north|to north"),
        ({"home": "west", "away": "east"}, "from west to east"),
        ({"policy": "silver"}, "the policy gold"),
    ],
)
def test_members_share_their_sites_and_their_policy(changes: dict[str, object], said: str) -> None:
    with pytest.raises(GroupNotJoinable, match=said):
        require_joinable(GROUP, member(1, **changes), [member(0)], LIMITS[Profile.DEFAULT])


@pytest.mark.parametrize("state", State)
def test_a_group_takes_no_member_while_a_part_of_it_is_away(state: State) -> None:
    at_home = {
        State.UNPROTECTED, State.ENABLING_PROTECTION, State.INITIAL_REPLICATION_IN_PROGRESS, State.ENABLE_FAILED,
        State.PROTECTED, State.RESYNCING, State.PAUSED, State.TEST_FAILOVER_IN_PROGRESS,
        State.TEST_FAILOVER_CLEANUP_PENDING, State.TEST_FAILOVER_CLEANUP_IN_PROGRESS, State.DISABLING,
        State.DISABLE_FAILED,
    }  # fmt: skip
    others = [member(0), member(1, state=state)]
    if state in at_home:
        require_joinable(GROUP, member(2), others, LIMITS[Profile.DEFAULT])
    else:
        with pytest.raises(GroupNotJoinable, match="m1"):
            require_joinable(GROUP, member(2), others, LIMITS[Profile.DEFAULT])
    with pytest.raises(GroupNotJoinable):
        reverse = member(1, state=State.PROTECTED, direction=Direction.REVERSE)
        require_joinable(GROUP, member(2), [reverse], LIMITS[Profile.DEFAULT])


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "x" * 64])
def test_the_name_of_a_group_fits_into_a_mark(name: str) -> None:
    with pytest.raises(GroupNameInvalid):
        require_joinable(name, member(0), [], LIMITS[Profile.DEFAULT])


@pytest.mark.parametrize("operation", Operation)
def test_what_parts_a_group_is_asked_for_in_so_many_words(operation: Operation) -> None:
    require_together(operation, GROUP, "web", ["db"], alone=True)
    require_together(operation, GROUP, "web", [], alone=False)
    if operation in TOGETHER:
        with pytest.raises(MemberAlone, match="db"):
            require_together(operation, GROUP, "web", ["db"], alone=False)
    else:
        require_together(operation, GROUP, "web", ["db"], alone=False)
    assert {Operation.FAILOVER, Operation.CHANGE_POINT, Operation.FAILBACK} == TOGETHER


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(0, 1e7), st.floats(0, 30), st.sampled_from([0.4, 1.0, 15.0, 300.0]))
def test_members_that_are_free_before_a_tick_come_to_the_same_one(now: float, more: float, interval: float) -> None:
    mine = next_tick(now, interval)
    assert now < mine <= now + 2 * interval
    theirs = next_tick(now + more, interval)
    if now + more < mine - 1e-6:
        assert abs(theirs - mine) < 1e-6
    else:
        assert theirs >= mine


def test_health_tells_of_rounds_that_do_not_come() -> None:
    def judged(rounds: Rounds | None, state: State = State.PROTECTED) -> tuple[Health, list[str]]:
        return health(Condition(state, rpo=1, rpo_threshold=60, silence=1, rounds=rounds))

    assert judged(None) == judged(Rounds(GROUP, 59)) == (Health.NORMAL, [])
    grade, reasons = judged(Rounds(GROUP, 61, "machines did not stand still in time"))
    assert grade is Health.WARNING
    assert "shop for 61 s (machines did not stand still in time)" in reasons[0]
    assert "yet" in judged(Rounds(GROUP, None))[1][0]
    assert judged(Rounds(GROUP, None), State.FAILOVER_COMMIT_PENDING)[0] is Health.NORMAL
