"""Operations on a replicated item: which are allowed in which state, and where each leads.

Everything here is derived, nothing is stored (reference 2.5, invariant 6): the vault asks these functions each time.
"""

from __future__ import annotations

from dataclasses import dataclass

from homeport.domain.errors import HomeportError
from homeport.domain.operation_kinds import CANCELLABLE, Operation
from homeport.domain.refusals import NO_POINTS, RUNNING, refusal
from homeport.domain.states import IN_PROGRESS, Direction, State

__all__ = [
    "CANCELLABLE",
    "Operation",
    "OperationNotAllowed",
    "OperationRunning",
    "Transition",
    "after_report",
    "allowed_operations",
    "require_allowed",
    "transition",
    "way_back",
]


class OperationNotAllowed(HomeportError):
    """The item is in a state that this operation does not start from: the code says why (see refusals.py).
    ``details``: ``state`` and ``allowed_operations``."""

    code = "item.operation-not-allowed"


class OperationRunning(HomeportError):
    """Another operation works on the item. ``details``: ``job``, ``operation``."""

    code = "item.operation-running"
    remedy = "Wait for the job to end, or cancel it with `homeport job cancel JOB`."


_FORWARD: dict[State, tuple[Operation, ...]] = {
    State.PROTECTED: (
        Operation.TEST_FAILOVER,
        Operation.FAILOVER,
        Operation.RESYNC,
        Operation.POINT,
        Operation.PAUSE,
        Operation.DISABLE,
    ),
    State.RESYNCING: (Operation.TEST_FAILOVER, Operation.FAILOVER, Operation.PAUSE, Operation.DISABLE),
    State.PAUSED: (Operation.TEST_FAILOVER, Operation.FAILOVER, Operation.RESUME, Operation.DISABLE),
}

_REVERSE: dict[State, tuple[Operation, ...]] = {
    State.REVERSE_PROTECTED: (
        Operation.FAILBACK,
        Operation.RESYNC,
        Operation.POINT,
        Operation.PAUSE,
        Operation.DISABLE,
    ),
    State.RESYNCING: (Operation.FAILBACK, Operation.PAUSE, Operation.DISABLE),
    State.PAUSED: (Operation.FAILBACK, Operation.RESUME, Operation.DISABLE),
}

_EITHER: dict[State, tuple[Operation, ...]] = {
    State.TEST_FAILOVER_CLEANUP_PENDING: (Operation.CLEANUP,),
    State.FAILOVER_COMMIT_PENDING: (
        Operation.CHANGE_POINT,
        Operation.COMMIT,
        Operation.UNDO,
        Operation.COMPLETE_MIGRATION,
    ),
    State.FAILOVER_COMMITTED: (Operation.REPROTECT, Operation.DISABLE),
    State.FAILBACK_COMMIT_PENDING: (Operation.COMMIT,),
    State.FAILBACK_COMMITTED: (Operation.REPROTECT, Operation.DISABLE),
    State.MIGRATED: (Operation.DISABLE,),
    State.ENABLE_FAILED: (Operation.DISABLE,),
    State.FAILOVER_FAILED: (Operation.FAILOVER, Operation.DISABLE),
    State.REPROTECT_FAILED: (Operation.REPROTECT, Operation.DISABLE),
    # No disable: of its two machines neither may run until the failback is finished or undone.
    State.FAILBACK_FAILED: (Operation.FAILBACK,),
    State.MIGRATION_FAILED: (Operation.COMPLETE_MIGRATION, Operation.DISABLE),
    State.DISABLE_FAILED: (Operation.DISABLE,),
}

_NEED_POINTS = frozenset(
    {Operation.TEST_FAILOVER, Operation.FAILOVER, Operation.CHANGE_POINT, Operation.FAILBACK, Operation.RESYNC}
)


def allowed_operations(
    state: State, direction: Direction = Direction.FORWARD, *, has_points: bool = True, running: bool = False
) -> tuple[Operation, ...]:
    """What may be begun now. ``running``: a job works on the item, so nothing may; ``has_points``: one is offered."""
    if running:
        return ()
    by_direction = _FORWARD if direction is Direction.FORWARD else _REVERSE
    operations = by_direction.get(state) or _EITHER.get(state, ())
    return tuple(operation for operation in operations if has_points or operation not in _NEED_POINTS)


def require_allowed(
    operation: Operation,
    state: State,
    direction: Direction = Direction.FORWARD,
    *,
    has_points: bool = True,
    running: bool = False,
) -> None:
    """Raises :class:`OperationNotAllowed`, naming the operations that are allowed."""
    allowed = allowed_operations(state, direction, has_points=has_points, running=running)
    if operation in allowed:
        return
    everything = allowed_operations(state, direction, running=running)
    reason = ", which has no recovery point yet" if operation in everything else ""
    why = RUNNING if running else NO_POINTS if operation in everything else refusal(operation, state, direction)
    names = [str(name) for name in allowed]
    remedies = [why.remedy, f"Allowed now: {', '.join(names)}." if names else ""]
    raise OperationNotAllowed(
        f"{operation} is not allowed while the item is {state}{reason}.",
        code=why.code,
        remedy=" ".join(filter(None, remedies)) or "Nothing is allowed in this state.",
        state=str(state),
        allowed_operations=names,
    )


@dataclass(frozen=True)
class Transition:
    """Where an operation leads: ``during`` (None: the state stays as it is) and the state after each outcome."""

    during: State | None
    done: State
    failed: State
    cancelled: State


def _steady(direction: Direction) -> State:
    return State.PROTECTED if direction is Direction.FORWARD else State.REVERSE_PROTECTED


def transition(
    operation: Operation, state: State, direction: Direction = Direction.FORWARD, *, paused: bool = False
) -> Transition:
    """Where ``operation``, begun in ``state``, leads. ``direction``: the item's at its beginning; ``paused``: it was
    paused when its test failover began, so its cleanup leads back there.

    A failover and a failback end the pause: undone, the item replicates again. ``failed`` is the state when what a
    failure left could not be undone; an operation that undoes its own failure (test failover, planned failover, change
    of point, undo, failback) ends in ``cancelled`` instead.
    """
    s = State
    match operation:
        case Operation.PROTECT:
            return Transition(s.ENABLING_PROTECTION, s.PROTECTED, s.ENABLE_FAILED, s.UNPROTECTED)
        case Operation.TEST_FAILOVER:
            pending = s.TEST_FAILOVER_CLEANUP_PENDING
            before = s.PAUSED if paused or state is s.PAUSED else s.PROTECTED
            return Transition(s.TEST_FAILOVER_IN_PROGRESS, pending, pending, before)
        case Operation.CLEANUP:
            pending = s.TEST_FAILOVER_CLEANUP_PENDING
            done = s.PAUSED if paused else s.PROTECTED
            return Transition(s.TEST_FAILOVER_CLEANUP_IN_PROGRESS, done, pending, pending)
        case Operation.FAILOVER:
            return Transition(s.FAILOVER_IN_PROGRESS, s.FAILOVER_COMMIT_PENDING, s.FAILOVER_FAILED, s.PROTECTED)
        case Operation.CANCEL_FAILOVER:
            return Transition(s.FAILOVER_IN_PROGRESS, s.PROTECTED, s.FAILOVER_FAILED, s.FAILOVER_FAILED)
        case Operation.CHANGE_POINT:
            pending = s.FAILOVER_COMMIT_PENDING
            return Transition(s.CHANGE_POINT_IN_PROGRESS, pending, s.FAILOVER_FAILED, pending)
        case Operation.COMMIT:
            done = s.FAILOVER_COMMITTED if state is s.FAILOVER_COMMIT_PENDING else s.FAILBACK_COMMITTED
            return Transition(s.COMMIT_IN_PROGRESS, done, state, state)
        case Operation.UNDO:
            return Transition(s.UNDO_IN_PROGRESS, s.PROTECTED, s.FAILOVER_FAILED, s.FAILOVER_COMMIT_PENDING)
        case Operation.COMPLETE_MIGRATION:
            return Transition(s.MIGRATION_IN_PROGRESS, s.MIGRATED, s.MIGRATION_FAILED, state)
        case Operation.PAUSE:
            return Transition(None, s.PAUSED, state, state)
        case Operation.RESUME:
            return Transition(None, _steady(direction), state, state)
        case Operation.REPROTECT:
            forward = direction is Direction.REVERSE
            done = s.PROTECTED if forward else s.REVERSE_PROTECTED
            back = s.FAILBACK_COMMITTED if forward else s.FAILOVER_COMMITTED
            return Transition(s.REPROTECT_IN_PROGRESS, done, s.REPROTECT_FAILED, back)
        case Operation.FAILBACK:
            return Transition(s.FAILBACK_IN_PROGRESS, s.FAILBACK_COMMIT_PENDING, s.FAILBACK_FAILED, s.REVERSE_PROTECTED)
        case Operation.CANCEL_FAILBACK:
            return Transition(s.FAILBACK_IN_PROGRESS, s.REVERSE_PROTECTED, s.FAILBACK_FAILED, s.FAILBACK_FAILED)
        case Operation.RESYNC | Operation.POINT:
            return Transition(None, state, state, state)
        case Operation.DISABLE:
            return Transition(s.DISABLING, s.UNPROTECTED, s.DISABLE_FAILED, s.DISABLE_FAILED)


def way_back(operation: Operation, state: State) -> Operation | None:
    """What cancelling a failed job of ``operation`` begins: the way back out of a failover or failback that stuck."""
    if state is State.FAILOVER_FAILED and operation in _INTO_FAILOVER_FAILED:
        return Operation.CANCEL_FAILOVER
    if state is State.FAILBACK_FAILED and operation in (Operation.FAILBACK, Operation.CANCEL_FAILBACK):
        return Operation.CANCEL_FAILBACK
    return None


_INTO_FAILOVER_FAILED = frozenset(
    {Operation.FAILOVER, Operation.CHANGE_POINT, Operation.UNDO, Operation.CANCEL_FAILOVER}
)


def after_report(state: State, direction: Direction, phase: str, *, running: bool) -> State:
    """The state after a replication's report: a resync shows while nothing else is at work, and goes as it came."""
    if running or state in IN_PROGRESS:
        return state
    if phase == "resyncing" and state is _steady(direction):
        return State.RESYNCING
    if phase == "replicating" and state is State.RESYNCING:
        return _steady(direction)
    return state
