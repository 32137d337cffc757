"""Load balancing never makes anything worse, never goes in circles, and knows when there are too few servers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.balance import MARGIN, MOST_CHURN, MOST_ITEMS, TARGET, Move, advise, expected, load, trouble
from homeport.domain.churn import Rates
from homeport.domain.process_servers import Room, Vitals, gone

MB = 1_000_000


def rates(hour: float) -> Rates:
    return Rates(hour, hour, hour)


def server(name: str, *churn: float, **more: object) -> Vitals:
    items = {f"{name}-{number}": rates(each) for number, each in enumerate(churn)}
    return Vitals(**{"name": name, "silence": 0.0, "cpu": 0.3, "memory": 0.3, "items": items, **more})  # type: ignore[arg-type]


@st.composite
def fleets(draw: st.DrawFn) -> list[Vitals]:
    fleet = []
    for name in "abcde"[: draw(st.integers(1, 5))]:
        cpu = draw(st.sampled_from([None, 0.1, 0.5, 0.69, 0.75, 0.85, 0.97]))
        free = draw(st.sampled_from([15, 24, 28, 50, 90]))
        churn = draw(st.lists(st.sampled_from([0.0, 0.1 * MB, MB, 3 * MB, 9 * MB, 30 * MB]), max_size=7))
        silence = draw(st.sampled_from([0.0, 0.0, 0.0, 1000.0, None]))
        fleet.append(server(name, *churn, cpu=cpu, cache=Room(free, 100), silence=silence))
    return fleet


def where(fleet: list[Vitals]) -> dict[str, str]:
    return {item: vitals.name for vitals in fleet for item in vitals.items}


@given(fleets(), st.data())
def test_no_move_makes_anything_worse(fleet: list[Vitals], data: st.DataObject) -> None:
    bound = data.draw(st.sets(st.sampled_from(sorted(where(fleet)) or ["none"])))
    now = fleet
    for move in advise(fleet, bound).moves:
        assert move.item not in bound
        before, after = ({vitals.name: vitals for vitals in each} for each in (now, expected(now, [move])))
        giver, taker = before[move.source], after[move.to]
        assert trouble(giver)
        assert not trouble(before[move.to])
        assert not trouble(taker), "who takes it stays well"
        assert all(share is None or share <= TARGET for share in (taker.cpu, taker.memory))
        assert sum(each.hour for each in taker.items.values()) <= MOST_CHURN
        assert len(taker.items) <= MOST_ITEMS
        if not gone(giver):
            assert load(taker.items.values()) <= MARGIN * load(giver.items.values())
        assert move.to_load == pytest.approx((load(before[move.to].items.values()), load(taker.items.values())))
        now = list(after.values())
    if not advise(fleet, bound).add and any(not trouble(vitals) for vitals in fleet):
        left = {item for vitals in now if gone(vitals) for item in vitals.items} - bound
        assert all(
            now_one.hour > MOST_CHURN for vitals in now for item, now_one in vitals.items.items() if item in left
        )


@given(fleets())
def test_where_all_goes_as_expected_each_item_moves_once_and_then_there_is_rest(fleet: list[Vitals]) -> None:
    moved: list[str] = []
    for _ in range(40):
        moves = advise(fleet).moves
        if not moves:
            break
        moved += [move.item for move in moves]
        fleet = expected(fleet, moves)
    assert not advise(fleet).moves
    assert len(moved) == len(set(moved))


@given(fleets(), st.randoms(use_true_random=False))
def test_whatever_becomes_of_the_servers_meanwhile_moves_never_go_in_circles(
    fleet: list[Vitals], chance: random.Random
) -> None:
    """Health changes at random between two looks, and churn is never measured twice the same; nobody falls silent."""
    true = {item: each for vitals in fleet for item, each in vitals.items.items()}
    fleet = [replace(vitals, silence=0.0) for vitals in fleet]
    seen = [where(fleet)]
    for _ in range(30):
        looked = [
            replace(
                vitals,
                cpu=chance.choice([0.1, 0.5, 0.85, 0.97]),
                cache=Room(chance.choice([10, 28, 90]), 100),
                items={item: rates(true[item].hour * chance.uniform(0.97, 1.03)) for item in vitals.items},
            )
            for vitals in fleet
        ]
        for move in advise(looked).moves:
            fleet = expected(fleet, [move])
            assert where(fleet) not in seen
            seen.append(where(fleet))


def test_items_leave_who_is_busy_until_that_is_well() -> None:
    busy = server("a", *[MB] * 10, cpu=0.9)
    moves = advise([busy, server("b"), server("c")]).moves
    assert 1 <= len(moves) <= 3, "a few are enough: 0.9 of its processors for ten"
    assert {move.source for move in moves} == {"a"}
    assert {move.to for move in moves} == {"b", "c"} or len(moves) == 1
    assert moves[0].why == "CPU: 90% over 15 min, more than 80%"
    assert not trouble(expected([busy, server("b"), server("c")], moves)[0])


def test_nothing_is_suggested_where_nothing_is_wrong_or_nobody_would_gain() -> None:
    assert advise([server("a", MB, MB), server("b")]) == advise([])
    assert not advise([server("a", MB, cpu=0.9), server("b")]).moves, "the receiver would be just as busy"
    assert not advise([server("a", MB, cpu=0.9)]).add, "nor would a new one gain anything"
    assert not advise([server("a", MB, MB, cpu=0.9), server("b", cpu=0.72)]).moves, "beyond its own target"


def test_all_that_a_dead_server_had_goes_but_what_is_bound() -> None:
    dead = server("a", MB, MB, 0.0, silence=1000.0)
    advice = advise([dead, server("b", MB)], bound={"a-1"})
    assert {(move.item, move.to) for move in advice.moves} == {("a-0", "b"), ("a-2", "b")}
    assert "not heard of for 17 min (806)" in advice.moves[0].why
    assert not advice.add


def test_another_server_is_asked_for_where_none_has_room() -> None:
    full = server("b", *[5 * MB] * 4)  # 20 of 23 MB/s
    busy = server("a", *[5 * MB] * 3, cpu=0.9)
    advice = advise([busy, full])
    assert not advice.moves
    assert advice.add == ("a: CPU: 90% over 15 min, more than 80%; no other process server of the site has room",)
    assert not advise([busy, full, server("c")]).add
    assert len(advise([server("a", 5 * MB, silence=1000.0)]).add) == 1
    over = server("a", *[5 * MB] * 6)
    assert "2.6 TB a day, more than 2 TB" in advise([over]).add[0]
    many = server("a", *[0.0] * (MOST_ITEMS + 1))
    assert len(advise([many, server("b")]).moves) == 1
    assert "226 machines" in advise([many]).add[0]


def test_loads_are_told_before_and_after() -> None:
    (move,) = advise([server("a", 0.0, 0.0, 0.0, cpu=0.81), server("b")]).moves
    each = 1 / MOST_ITEMS
    assert isinstance(move, Move)
    assert move.source_load == pytest.approx((3 * each, 2 * each))
    assert move.to_load == pytest.approx((0.0, each))
