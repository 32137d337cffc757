"""What can be done with a replicated item, by name."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    PROTECT = "protect"
    TEST_FAILOVER = "test-failover"
    CLEANUP = "cleanup"
    FAILOVER = "failover"
    CHANGE_POINT = "change-point"
    COMMIT = "commit"
    UNDO = "undo"
    """Before the commit: the source goes on where it stopped, what the recovery machine wrote is put aside."""
    COMPLETE_MIGRATION = "complete-migration"
    """Instead of the commit: the machine stays at the other site for good, and nothing is kept of its protection."""
    REPROTECT = "reprotect"
    FAILBACK = "failback"
    RESYNC = "resync"
    POINT = "point"
    PAUSE = "pause"
    RESUME = "resume"
    DISABLE = "disable"
    CANCEL_FAILOVER = "cancel-failover"
    """Begun by cancelling a failover that failed: the way back, while the source is still there."""
    CANCEL_FAILBACK = "cancel-failback"


CANCELLABLE = frozenset(
    {
        Operation.PROTECT,
        Operation.TEST_FAILOVER,
        Operation.FAILOVER,
        Operation.REPROTECT,
        Operation.FAILBACK,
        Operation.COMPLETE_MIGRATION,
    }
)
"""What a running job of this kind undoes when it is cancelled, unless it has come to a step from which there is no
return; the others are short, or can't be undone."""

NOT_ASKED_FOR = frozenset({Operation.PROTECT, Operation.CANCEL_FAILOVER, Operation.CANCEL_FAILBACK})
"""Never begun on an item that is there: they come with it, or with the cancelling of a job."""
