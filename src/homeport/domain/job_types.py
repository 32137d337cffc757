"""What kinds of jobs are called: the field's names (reference 9), and ours where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from homeport.domain.operations import Operation


@dataclass(frozen=True)
class JobType:
    """``name``: for programs; ``display``: for people."""

    name: str
    display: str


JOB_TYPES: dict[str, JobType] = {
    Operation.PROTECT: JobType("EnableProtection", "Enable protection"),
    Operation.TEST_FAILOVER: JobType("TestFailover", "Test failover"),
    Operation.CLEANUP: JobType("TestFailoverCleanup", "Test failover cleanup"),
    Operation.FAILOVER: JobType("Failover", "Failover"),
    Operation.CHANGE_POINT: JobType("ChangeRecoveryPoint", "Change recovery point"),
    Operation.COMMIT: JobType("Commit", "Commit"),
    Operation.UNDO: JobType("UndoFailover", "Undo failover"),
    Operation.COMPLETE_MIGRATION: JobType("CompleteMigration", "Complete migration"),
    Operation.REPROTECT: JobType("Reprotect", "Reprotect"),
    Operation.FAILBACK: JobType("Failback", "Failback"),
    Operation.RESYNC: JobType("Resync", "Resynchronize"),
    Operation.POINT: JobType("CreateRecoveryPoint", "Create recovery point"),
    Operation.PAUSE: JobType("PauseReplication", "Pause replication"),
    Operation.RESUME: JobType("ResumeReplication", "Resume replication"),
    Operation.DISABLE: JobType("DisableProtection", "Disable protection"),
    Operation.CANCEL_FAILOVER: JobType("CancelFailover", "Cancel failover"),
    Operation.CANCEL_FAILBACK: JobType("CancelFailback", "Cancel failback"),
}

STATUS: dict[str, str] = {
    "queued": "NotStarted",
    "running": "InProgress",
    "cancelling": "InProgress",
    "waiting": "Suspended",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
"""The field's word for each state of a job."""


def job_type(kind: str) -> JobType:
    """Of any kind, also one that a later version recorded."""
    return JOB_TYPES.get(kind) or JobType(kind, kind)
