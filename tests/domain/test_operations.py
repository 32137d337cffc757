from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from homeport.domain.operations import (
    Operation,
    OperationNotAllowed,
    after_report,
    allowed_operations,
    require_allowed,
    transition,
)
from homeport.domain.states import FAILED, IN_PROGRESS, OFFERS_POINTS, STEADY, Direction, State

states = st.sampled_from(State)
directions = st.sampled_from(Direction)
operations = st.sampled_from(Operation)


def test_every_state_is_steady_failed_in_progress_or_unprotected() -> None:
    kinds = [*STEADY, *FAILED, *IN_PROGRESS, State.UNPROTECTED]
    assert sorted(kinds) == sorted(State)
    assert len(kinds) == len(set(kinds))


@given(states, directions, st.booleans())
def test_nothing_is_allowed_while_a_job_runs(state: State, direction: Direction, points: bool) -> None:
    assert allowed_operations(state, direction, has_points=points, running=True) == ()


@given(st.sampled_from(sorted(STEADY | FAILED)), directions)
def test_there_is_a_way_on_from_every_state_without_a_job(state: State, direction: Direction) -> None:
    assume((state, direction) != (State.PROTECTED, Direction.REVERSE))  # there it is called ReverseProtected
    assert allowed_operations(state, direction, has_points=True)


@given(states, directions, st.booleans())
def test_changing_the_point_is_allowed_in_commit_pending_only(state: State, direction: Direction, points: bool) -> None:
    allowed = Operation.CHANGE_POINT in allowed_operations(state, direction, has_points=points)
    assert allowed == (points and state is State.FAILOVER_COMMIT_PENDING)


@given(directions)
def test_a_failback_that_failed_is_finished_or_undone_before_anything_else(direction: Direction) -> None:
    assert allowed_operations(State.FAILBACK_FAILED, direction) == (Operation.FAILBACK,)


@given(states, directions)
def test_without_a_point_nothing_that_needs_one_is_allowed(state: State, direction: Direction) -> None:
    without = set(allowed_operations(state, direction, has_points=False))
    assert without <= set(allowed_operations(state, direction, has_points=True))
    assert not without & {Operation.FAILOVER, Operation.TEST_FAILOVER, Operation.FAILBACK, Operation.CHANGE_POINT}


@given(operations, states, directions, st.booleans())
def test_a_refusal_names_what_is_allowed(op: Operation, state: State, direction: Direction, points: bool) -> None:
    allowed = allowed_operations(state, direction, has_points=points)
    if op in allowed:
        require_allowed(op, state, direction, has_points=points)
        return
    with pytest.raises(OperationNotAllowed) as refused:
        require_allowed(op, state, direction, has_points=points)
    assert refused.value.details == {"state": str(state), "allowed_operations": [str(name) for name in allowed]}
    assert str(op) in refused.value.cause
    assert refused.value.remedy


def test_the_lack_of_points_is_named_as_the_reason() -> None:
    with pytest.raises(OperationNotAllowed, match="no recovery point yet"):
        require_allowed(Operation.FAILOVER, State.PROTECTED, has_points=False)


@given(states, directions)
def test_no_operation_leads_out_of_a_job_into_a_state_in_progress(state: State, direction: Direction) -> None:
    for op in allowed_operations(state, direction):
        leads = transition(op, state, direction)
        for after in (leads.done, leads.failed, leads.cancelled):
            assert after not in IN_PROGRESS
        assert leads.during is None or leads.during in IN_PROGRESS


@given(states, directions, st.sampled_from(["seeding", "replicating", "resyncing", "stopped", "error"]))
def test_a_report_shows_a_resync_and_takes_it_away_as_it_came(state: State, direction: Direction, phase: str) -> None:
    assert after_report(state, direction, phase, running=True) is state
    after = after_report(state, direction, phase, running=False)
    if after is State.RESYNCING and state is not State.RESYNCING:
        assert after_report(after, direction, "replicating", running=False) is state
    assert after_report(State.PROTECTED, Direction.FORWARD, "resyncing", running=False) is State.RESYNCING
    assert after_report(State.RESYNCING, Direction.REVERSE, "replicating", running=False) is State.REVERSE_PROTECTED


class Life(RuleBasedStateMachine):
    """An item through any sequence of operations and outcomes: invariants 1 to 4 and 6 of reference 2.5."""

    def __init__(self) -> None:
        super().__init__()
        self.state = transition(Operation.PROTECT, State.UNPROTECTED).done
        self.direction = Direction.FORWARD
        self.points = 1
        self.replicating = True
        self.test = False

    @precondition(lambda self: self.replicating)
    @rule()
    def a_point_arrives(self) -> None:
        self.points += 1

    @precondition(lambda self: self.replicating)
    @rule(phase=st.sampled_from(["replicating", "resyncing"]))
    def a_report(self, phase: str) -> None:
        self.state = after_report(self.state, self.direction, phase, running=False)

    def allowed(self) -> tuple[Operation, ...]:
        offered = self.points if self.state in OFFERS_POINTS else 0
        return allowed_operations(self.state, self.direction, has_points=offered > 0)

    @rule(op=operations, ends=st.sampled_from(["done", "failed", "cancelled"]))
    def an_operation(self, op: Operation, ends: str) -> None:
        if op not in self.allowed():
            with pytest.raises(OperationNotAllowed):
                offered = self.points if self.state in OFFERS_POINTS else 0
                require_allowed(op, self.state, self.direction, has_points=offered > 0)
            return
        before = (self.points, self.replicating)
        leads = transition(op, self.state, self.direction)
        target = getattr(leads, ends)
        if op in (Operation.FAILOVER, Operation.FAILBACK):
            # Invariant 4: replication stops first, whatever comes of it; a cancel begins it again.
            self.replicating = target in (State.PROTECTED, State.REVERSE_PROTECTED)
        if op is Operation.CHANGE_POINT:
            assert self.state is State.FAILOVER_COMMIT_PENDING  # invariant 3
        if op in (Operation.TEST_FAILOVER, Operation.CLEANUP):
            assert (self.points, self.replicating) == before  # invariant 2
            self.test = target is State.TEST_FAILOVER_CLEANUP_PENDING
        if op is Operation.COMMIT and ends == "done":
            self.points = 0
        if op is Operation.REPROTECT and ends == "done":
            self.direction = Direction.REVERSE if self.direction is Direction.FORWARD else Direction.FORWARD
            self.points, self.replicating = 1, True
        if op is Operation.DISABLE and ends == "done":
            self.__init__()  # type: ignore[misc]
            return
        if op is Operation.DISABLE:
            self.replicating = False
        self.state = target

    @invariant()
    def points_are_offered_in_their_states_only(self) -> None:
        if self.state in (State.FAILOVER_COMMITTED, State.FAILBACK_COMMITTED):
            assert self.points == 0 or self.state not in OFFERS_POINTS

    @invariant()
    def what_is_allowed_follows_from_the_state(self) -> None:
        assert self.allowed() == self.allowed()

    @invariant()
    def a_test_is_cleaned_up_before_anything_else(self) -> None:
        if self.test:
            assert self.allowed() == (Operation.CLEANUP,)

    @invariant()
    def the_machine_that_runs_is_protected_or_it_shows(self) -> None:
        if self.state in (State.PROTECTED, State.REVERSE_PROTECTED, State.RESYNCING):
            assert self.replicating
            assert self.points


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
