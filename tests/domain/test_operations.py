from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from homeport.domain.operations import (
    Operation,
    OperationNotAllowed,
    after_report,
    allowed_operations,
    require_allowed,
    transition,
    way_back,
)
from homeport.domain.states import FAILED, IN_PROGRESS, OFFERS_POINTS, STEADY, Direction, State, offers_points

states = st.sampled_from(State)
directions = st.sampled_from(Direction)
operations = st.sampled_from(Operation)

IMPOSSIBLE = {(State.PROTECTED, Direction.REVERSE), (State.REVERSE_PROTECTED, Direction.FORWARD)}
"""The steady state has a name of its own in either direction."""


def test_every_state_is_steady_failed_in_progress_or_unprotected() -> None:
    kinds = [*STEADY, *FAILED, *IN_PROGRESS, State.UNPROTECTED]
    assert sorted(kinds) == sorted(State)
    assert len(kinds) == len(set(kinds))


@given(states, directions, st.booleans())
def test_nothing_is_allowed_while_a_job_runs(state: State, direction: Direction, points: bool) -> None:
    assert allowed_operations(state, direction, has_points=points, running=True) == ()


@given(st.sampled_from(sorted(STEADY | FAILED)), directions)
def test_there_is_a_way_on_from_every_state_without_a_job(state: State, direction: Direction) -> None:
    assume((state, direction) not in IMPOSSIBLE)
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
    with pytest.raises(OperationNotAllowed, match="no recovery point yet") as refused:
        require_allowed(Operation.FAILOVER, State.PROTECTED, has_points=False)
    assert refused.value.code == "item.no-points"


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


def test_a_resync_while_paused_does_not_end_the_pause() -> None:
    for direction in Direction:
        for phase in ("resyncing", "replicating"):
            assert after_report(State.PAUSED, direction, phase, running=False) is State.PAUSED


@pytest.mark.parametrize("direction", list(Direction))
def test_a_pause_leads_back_to_the_steady_state_of_its_direction(direction: Direction) -> None:
    steady = State.PROTECTED if direction is Direction.FORWARD else State.REVERSE_PROTECTED
    for state in (steady, State.RESYNCING):
        paused = transition(Operation.PAUSE, state, direction)
        assert (paused.during, paused.done, paused.failed) == (None, State.PAUSED, state)
    assert transition(Operation.RESUME, State.PAUSED, direction).done is steady


def test_a_test_failover_begun_while_paused_returns_there() -> None:
    begun = transition(Operation.TEST_FAILOVER, State.PAUSED)
    assert begun.cancelled is State.PAUSED
    assert transition(Operation.CLEANUP, begun.done, paused=True).done is State.PAUSED
    assert transition(Operation.CLEANUP, begun.done).done is State.PROTECTED


def test_an_undo_that_failed_leaves_the_way_back_of_a_failover_that_failed() -> None:
    failed = transition(Operation.UNDO, State.FAILOVER_COMMIT_PENDING).failed
    assert way_back(Operation.UNDO, failed) is Operation.CANCEL_FAILOVER
    assert transition(Operation.CANCEL_FAILOVER, failed).done is State.PROTECTED
    assert way_back(Operation.UNDO, State.FAILOVER_COMMIT_PENDING) is None
    assert way_back(Operation.COMMIT, failed) is None


@given(states, st.booleans())
def test_points_that_a_commit_keeps_are_offered_until_the_reprotect(state: State, kept: bool) -> None:
    assert offers_points(state) == (state in OFFERS_POINTS)
    assert offers_points(state, points_kept=kept) >= offers_points(state)
    after_commit = {State.FAILOVER_COMMITTED, State.FAILBACK_COMMITTED, State.REPROTECT_FAILED}
    if state in after_commit:
        assert offers_points(state, points_kept=kept) == kept


@pytest.mark.parametrize(
    ("operation", "state", "direction", "code"),
    [
        (Operation.FAILOVER, State.TEST_FAILOVER_CLEANUP_PENDING, Direction.FORWARD, "item.test-cleanup-pending"),
        (Operation.REPROTECT, State.FAILOVER_COMMIT_PENDING, Direction.FORWARD, "item.commit-pending"),
        (Operation.UNDO, State.FAILBACK_COMMIT_PENDING, Direction.REVERSE, "item.commit-pending"),
        (Operation.POINT, State.PAUSED, Direction.REVERSE, "item.paused"),
        (Operation.FAILBACK, State.FAILOVER_COMMITTED, Direction.FORWARD, "item.not-reprotected"),
        (Operation.FAILOVER, State.REVERSE_PROTECTED, Direction.REVERSE, "item.wrong-direction"),
        (Operation.FAILBACK, State.RESYNCING, Direction.FORWARD, "item.wrong-direction"),
        (Operation.DISABLE, State.FAILBACK_FAILED, Direction.REVERSE, "item.last-operation-failed"),
        (Operation.FAILOVER, State.MIGRATED, Direction.FORWARD, "item.migrated"),
        (Operation.FAILOVER, State.COMMIT_IN_PROGRESS, Direction.FORWARD, "item.operation-running"),
        (Operation.RESUME, State.PROTECTED, Direction.FORWARD, "item.operation-not-allowed"),
    ],
)
def test_a_refusal_has_the_code_of_its_reason(
    operation: Operation, state: State, direction: Direction, code: str
) -> None:
    with pytest.raises(OperationNotAllowed) as refused:
        require_allowed(operation, state, direction)
    assert refused.value.code == code


def test_while_a_job_runs_that_is_the_reason() -> None:
    with pytest.raises(OperationNotAllowed) as refused:
        require_allowed(Operation.FAILOVER, State.PROTECTED, running=True)
    assert refused.value.code == "item.operation-running"
