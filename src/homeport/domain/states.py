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
    DISABLING = "Disabling"

    ENABLE_FAILED = "EnableFailed"
    FAILOVER_FAILED = "FailoverFailed"
    REPROTECT_FAILED = "ReprotectFailed"
    FAILBACK_FAILED = "FailbackFailed"
    DISABLE_FAILED = "DisableFailed"


class Direction(StrEnum):
    """Which way the item replicates, or would: from home to away, or back."""

    FORWARD = "forward"
    REVERSE = "reverse"


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
    }
)

FAILED = frozenset(
    {
        State.ENABLE_FAILED,
        State.FAILOVER_FAILED,
        State.REPROTECT_FAILED,
        State.FAILBACK_FAILED,
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
    }
)
"""Points exist for the operator only here: after a commit the list is empty (reference 2.5, invariant 1)."""

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
