"""Why an operation is refused in a state: one table, from which codes, remedies and the document are made."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from homeport.domain.operation_kinds import Operation
from homeport.domain.states import FAILED, IN_PROGRESS, Direction, State


@dataclass(frozen=True)
class Refusal:
    """``code``: stable (docs/errors.md); ``remedy``: what leads on."""

    code: str
    remedy: str = ""


RUNNING = Refusal(code="item.operation-running", remedy="Wait until what is running ends.")
TEST_CLEANUP_PENDING = Refusal(
    code="item.test-cleanup-pending", remedy="Clean up the test failover first: `homeport cleanup ITEM`."
)
COMMIT_PENDING = Refusal(
    code="item.commit-pending", remedy="Commit first (`homeport commit ITEM`), or do another of what is allowed now."
)
MIGRATED = Refusal(
    code="item.migrated",
    remedy="The machine stays where it runs. Remove the item with `homeport disable ITEM`, then protect the machine.",
)
PAUSED = Refusal(code="item.paused", remedy="Resume replication first: `homeport resume ITEM`.")
NOT_REPROTECTED = Refusal(
    code="item.not-reprotected", remedy="Reprotect the machine where it runs now first: `homeport reprotect ITEM`."
)
LAST_FAILED = Refusal(
    code="item.last-operation-failed",
    remedy="Mend the cause of the failed job, then restart the job, or cancel it where it can be.",
)
WRONG_DIRECTION = Refusal(
    code="item.wrong-direction",
    remedy="A machine that runs at its home site fails over, one that runs away fails back.",
)
NO_POINTS = Refusal(code="item.no-points", remedy="Wait for the first recovery point.")
NOT_ALLOWED = Refusal(code="item.operation-not-allowed")


@dataclass(frozen=True)
class _Rule:
    """None: any state, operation, direction."""

    refusal: Refusal
    states: AbstractSet[State] | None = None
    operations: AbstractSet[Operation] | None = None
    direction: Direction | None = None

    def fits(self, operation: Operation, state: State, direction: Direction) -> bool:
        return (
            (self.states is None or state in self.states)
            and (self.operations is None or operation in self.operations)
            and (self.direction is None or direction is self.direction)
        )


_REPLICATING = frozenset({State.PROTECTED, State.REVERSE_PROTECTED, State.RESYNCING, State.PAUSED})
_FORWARD_ONLY = frozenset({Operation.TEST_FAILOVER, Operation.FAILOVER})
_OF_PROTECTED = _FORWARD_ONLY | {
    Operation.FAILBACK,
    Operation.RESYNC,
    Operation.POINT,
    Operation.PAUSE,
    Operation.RESUME,
}

_RULES = (
    _Rule(RUNNING, IN_PROGRESS),
    _Rule(TEST_CLEANUP_PENDING, {State.TEST_FAILOVER_CLEANUP_PENDING}),
    _Rule(COMMIT_PENDING, {State.FAILOVER_COMMIT_PENDING, State.FAILBACK_COMMIT_PENDING}),
    _Rule(MIGRATED, {State.MIGRATED}),
    _Rule(LAST_FAILED, FAILED),
    _Rule(NOT_REPROTECTED, {State.FAILOVER_COMMITTED, State.FAILBACK_COMMITTED}, _OF_PROTECTED),
    _Rule(WRONG_DIRECTION, _REPLICATING, _FORWARD_ONLY, Direction.REVERSE),
    _Rule(WRONG_DIRECTION, _REPLICATING, {Operation.FAILBACK}, Direction.FORWARD),
    _Rule(PAUSED, {State.PAUSED}, {Operation.RESYNC, Operation.POINT}),
    _Rule(NOT_ALLOWED),
)
"""The first that fits is the reason."""


def refusal(operation: Operation, state: State, direction: Direction) -> Refusal:
    """Why ``operation`` does not start from ``state``; asked only where it doesn't."""
    return next(rule.refusal for rule in _RULES if rule.fits(operation, state, direction))
