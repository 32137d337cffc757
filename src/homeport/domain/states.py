"""The states of a replicated item: what it is, not what may be done with it (that is derived: see operations.py)."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Names as in the documents of the original system, where these name them."""

    UNPROTECTED = "Unprotected"
    ENABLING_PROTECTION = "EnablingProtection"
    INITIAL_REPLICATION_IN_PROGRESS = "InitialReplicationInProgress"
    PROTECTED = "Protected"
    RESYNCING = "Resyncing"
    TEST_FAILOVER_IN_PROGRESS = "TestFailoverInProgress"
    TEST_FAILOVER_CLEANUP_PENDING = "TestFailoverCleanupPending"
    TEST_FAILOVER_CLEANUP_IN_PROGRESS = "TestFailoverCleanupInProgress"
    FAILOVER_IN_PROGRESS = "FailoverInProgress"
    FAILOVER_COMMIT_PENDING = "FailoverCommitPending"
    CHANGE_POINT_IN_PROGRESS = "ChangePointInProgress"
    COMMIT_IN_PROGRESS = "CommitInProgress"
    FAILOVER_COMMITTED = "FailoverCommitted"
    REPROTECT_IN_PROGRESS = "ReprotectInProgress"
    REVERSE_PROTECTED = "ReverseProtected"
    FAILBACK_IN_PROGRESS = "FailbackInProgress"
    FAILBACK_COMMIT_PENDING = "FailbackCommitPending"
    FAILBACK_COMMITTED = "FailbackCommitted"
    PAUSED = "Paused"
    UNDO_IN_PROGRESS = "UndoInProgress"
    MIGRATION_IN_PROGRESS = "CompleteMigrationInProgress"
    MIGRATED = "Migrated"
    DISABLING = "Disabling"

    ENABLE_FAILED = "EnableFailed"
    FAILOVER_FAILED = "FailoverFailed"
    REPROTECT_FAILED = "ReprotectFailed"
    FAILBACK_FAILED = "FailbackFailed"
    MIGRATION_FAILED = "MigrationFailed"
    DISABLE_FAILED = "DisableFailed"


class Direction(StrEnum):
    """Which way the item replicates, or would: from home to away, or back."""

    FORWARD = "forward"
    REVERSE = "reverse"


_REVERSE_ONLY = frozenset(
    {
        State.REVERSE_PROTECTED,
        State.FAILBACK_IN_PROGRESS,
        State.FAILBACK_COMMIT_PENDING,
        State.FAILBACK_COMMITTED,
        State.FAILBACK_FAILED,
    }
)

_EITHER_WAY = frozenset(
    {
        State.RESYNCING,
        State.PAUSED,
        State.COMMIT_IN_PROGRESS,
        State.REPROTECT_IN_PROGRESS,
        State.REPROTECT_FAILED,
        State.DISABLING,
        State.DISABLE_FAILED,
    }
)


def directions_of(state: State) -> tuple[Direction, ...]:
    """Those that an item in ``state`` can have: a reprotect turns it, when it is done."""
    if state in _EITHER_WAY:
        return tuple(Direction)
    return (Direction.REVERSE,) if state in _REVERSE_ONLY else (Direction.FORWARD,)


IN_PROGRESS = frozenset(
    {
        State.ENABLING_PROTECTION,
        State.INITIAL_REPLICATION_IN_PROGRESS,
        State.TEST_FAILOVER_IN_PROGRESS,
        State.TEST_FAILOVER_CLEANUP_IN_PROGRESS,
        State.FAILOVER_IN_PROGRESS,
        State.CHANGE_POINT_IN_PROGRESS,
        State.COMMIT_IN_PROGRESS,
        State.REPROTECT_IN_PROGRESS,
        State.FAILBACK_IN_PROGRESS,
        State.UNDO_IN_PROGRESS,
        State.MIGRATION_IN_PROGRESS,
        State.DISABLING,
    }
)
"""A job is at work; when it ends, the item is in one of the other states."""

STEADY = frozenset(
    {
        State.PROTECTED,
        State.RESYNCING,
        State.TEST_FAILOVER_CLEANUP_PENDING,
        State.FAILOVER_COMMIT_PENDING,
        State.FAILOVER_COMMITTED,
        State.REVERSE_PROTECTED,
        State.FAILBACK_COMMIT_PENDING,
        State.FAILBACK_COMMITTED,
        State.PAUSED,
        State.MIGRATED,
    }
)

FAILED = frozenset(
    {
        State.ENABLE_FAILED,
        State.FAILOVER_FAILED,
        State.REPROTECT_FAILED,
        State.FAILBACK_FAILED,
        State.MIGRATION_FAILED,
        State.DISABLE_FAILED,
    }
)

OFFERS_POINTS = frozenset(
    {
        State.PROTECTED,
        State.RESYNCING,
        State.TEST_FAILOVER_IN_PROGRESS,
        State.TEST_FAILOVER_CLEANUP_PENDING,
        State.TEST_FAILOVER_CLEANUP_IN_PROGRESS,
        State.FAILOVER_IN_PROGRESS,
        State.FAILOVER_COMMIT_PENDING,
        State.CHANGE_POINT_IN_PROGRESS,
        State.FAILOVER_FAILED,
        State.REVERSE_PROTECTED,
        State.FAILBACK_IN_PROGRESS,
        State.FAILBACK_COMMIT_PENDING,
        State.FAILBACK_FAILED,
        State.PAUSED,
        State.UNDO_IN_PROGRESS,
    }
)
"""Points are offered to the operator here, whatever the commit does with them (reference 2.5, invariant 1)."""

OFFERS_KEPT_POINTS = frozenset(
    {
        State.COMMIT_IN_PROGRESS,
        State.FAILOVER_COMMITTED,
        State.FAILBACK_COMMITTED,
        State.REPROTECT_IN_PROGRESS,
        State.REPROTECT_FAILED,
    }
)
"""Here a commit has passed, or passes: the list is empty, unless the commit keeps the points for their retention."""


def offers_points(state: State, *, points_kept: bool = False) -> bool:
    """Whether points are offered in ``state``. ``points_kept``: the commit did not erase them."""
    return state in OFFERS_POINTS or (points_kept and state in OFFERS_KEPT_POINTS)


REPLICATES = frozenset(
    {
        State.INITIAL_REPLICATION_IN_PROGRESS,
        State.PROTECTED,
        State.RESYNCING,
        State.TEST_FAILOVER_IN_PROGRESS,
        State.TEST_FAILOVER_CLEANUP_PENDING,
        State.TEST_FAILOVER_CLEANUP_IN_PROGRESS,
        State.REVERSE_PROTECTED,
    }
)
"""Replication should run, so its age, errors and silence count for the item's health."""

TRACKS_RPO = REPLICATES | {State.PAUSED}
"""The age of the newest point is what would be lost now; while replication is paused it grows."""
