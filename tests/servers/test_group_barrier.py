"""Members of a group meet, bounded in time: nobody stands still for one that is late, broken, or not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from homeport.servers.group_barrier import Attendance, GroupBarrier
from homeport.sources.hold import HoldFailed

READY, FROZEN, HELD = 0.5, 0.6, 0.4
SLACK = 0.3


@dataclass
class Machine:
    """``log``: what befell all machines, in order."""

    name: str
    log: list[tuple[str, str]]
    slow: float = 0.0
    broken: bool = False
    let_go: bool = False
    stood: float = 0.0
    _since: float = field(default=0.0, init=False)

    def hold(self) -> None:
        time.sleep(self.slow)
        if self.broken:
            raise HoldFailed("it does not stop")
        self._since = time.monotonic()
        self.log.append(("held", self.name))

    def switch(self) -> None:
        self.log.append(("switched", self.name))

    def release(self) -> None:
        self.stood = time.monotonic() - self._since
        self.log.append(("released", self.name))
        if self.let_go:
            raise HoldFailed("its guard let it go")


@pytest.fixture
def barrier() -> GroupBarrier:
    return GroupBarrier("g", ready=READY, frozen=FROZEN, held=HELD)


def attend(
    barrier: GroupBarrier, machine: Machine, between: Callable[[], Any] = lambda: None
) -> tuple[Attendance, datetime]:
    with barrier.attend(machine.name) as attendance:
        attendance.assemble()
        between()
        return attendance, attendance.take(machine, machine.switch)


def all_of(barrier: GroupBarrier, machines: list[Machine]) -> list[tuple[Attendance, datetime]]:
    for machine in machines:
        barrier.free(machine.name, time.monotonic())
    with ThreadPoolExecutor(len(machines)) as pool:
        return list(pool.map(lambda machine: attend(barrier, machine), machines))


def machines(count: int) -> list[Machine]:
    log: list[tuple[str, str]] = []
    return [Machine(f"m{number}", log) for number in range(count)]


def test_all_are_held_before_the_first_is_switched_or_goes_on(barrier: GroupBarrier) -> None:
    members = machines(5)
    for late in range(5):
        members[late].slow = 0.05
        members[0].log.clear()
        done = all_of(barrier, members)
        assert {what for what, _ in members[0].log[:5]} == {"held"}
        assert len({attendance.mark for attendance, _ in done}) == 1
        assert done[0][0].mark
        assert done[0][0].mark.startswith("g/")
        assert len({instant for _, instant in done}) == 1
        assert [attendance.trouble for attendance, _ in done] == [None] * 5
        members[late].slow = 0.0


def test_each_round_has_a_mark_of_its_own(barrier: GroupBarrier) -> None:
    members = machines(2)
    assert len({all_of(barrier, members)[0][0].mark for _ in range(3)}) == 3


def test_a_member_that_is_busy_is_not_waited_for(barrier: GroupBarrier) -> None:
    here, busy = machines(2)
    barrier.free(busy.name, time.monotonic() + 60)  # it comes much later
    began = time.monotonic()
    attendance, _ = attend(barrier, here)
    assert time.monotonic() - began < READY / 2
    assert attendance.mark
    assert here.log == [("switched", here.name)], "a machine stood still for nobody"


def test_one_that_was_expected_is_waited_for_and_left_out(barrier: GroupBarrier) -> None:
    first, late = machines(2)
    for each in (first, late):
        barrier.free(each.name, time.monotonic())
    began = time.monotonic()
    alone, _ = attend(barrier, first)
    assert READY - 0.05 < time.monotonic() - began < READY + SLACK
    other, _ = attend(barrier, late)
    assert alone.mark
    assert other.mark
    assert alone.mark != other.mark


def test_one_that_says_it_is_busy_after_all_is_not_waited_for_any_longer(barrier: GroupBarrier) -> None:
    first, other = machines(2)
    for each in (first, other):
        barrier.free(each.name, time.monotonic())
    threading.Timer(0.1, barrier.busy, [other.name]).start()
    began = time.monotonic()
    assert attend(barrier, first)[0].mark
    assert time.monotonic() - began < READY - 0.1


def test_where_one_can_not_be_held_all_go_on_with_points_of_their_own(barrier: GroupBarrier) -> None:
    members = machines(3)
    members[1].broken = True
    began = time.monotonic()
    done = all_of(barrier, members)
    assert time.monotonic() - began < HELD
    assert [attendance.mark for attendance, _ in done] == [None] * 3
    assert all("it does not stop" in str(attendance.trouble) for attendance, _ in done)
    assert [name for what, name in members[0].log if what == "switched"].__len__() == 3
    held = sorted(name for what, name in members[0].log if what == "held")
    assert "m1" not in held
    assert sorted(name for what, name in members[0].log if what == "released") == held


def test_where_one_does_not_stop_in_time_nobody_stands_still_for_it(barrier: GroupBarrier) -> None:
    members = machines(3)
    members[2].slow = 3 * HELD
    done = all_of(barrier, members)
    assert all(machine.stood < HELD + SLACK for machine in members)
    assert [attendance.mark for attendance, _ in done] == [None] * 3


def test_where_one_fails_to_freeze_nobody_waits_longer_than_the_time_for_it(barrier: GroupBarrier) -> None:
    members = machines(2)
    for machine in members:
        barrier.free(machine.name, time.monotonic())
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        well = pool.submit(attend, barrier, members[0])
        stuck = pool.submit(attend, barrier, members[1], lambda: time.sleep(3 * FROZEN))
        attendance, _ = well.result()
        assert time.monotonic() - began < FROZEN + SLACK
        assert attendance.mark is None
        assert stuck.result()[0].mark is None
    assert not [what for what, _ in members[0].log if what == "held"], "machines stood still for nothing"


def test_a_member_that_fails_after_it_was_ready_breaks_the_round_at_once(barrier: GroupBarrier) -> None:
    members = machines(2)
    for machine in members:
        barrier.free(machine.name, time.monotonic())

    def fail() -> None:
        raise OSError("no scratch space")

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        well: Future[Any] = pool.submit(attend, barrier, members[0])
        bad = pool.submit(attend, barrier, members[1], fail)
        attendance, _ = well.result()
        with pytest.raises(OSError, match="scratch"):
            bad.result()
    assert time.monotonic() - began < FROZEN / 2
    assert attendance.mark is None
    assert "no scratch space" in str(attendance.trouble)


def test_a_machine_that_went_on_before_its_view_was_taken_bears_no_mark(barrier: GroupBarrier) -> None:
    members = machines(2)
    members[0].let_go = True
    (late, _), (well, _) = all_of(barrier, members)
    assert late.mark is None
    assert late.trouble == "the machine went on before its view was taken"
    assert well.mark, "its own view is of the instant; the round is not common, since one member lacks it"
