"""The durable operations, one per file. Importing this package registers them all with the workflow library."""

from homeport.vault.workflows import (
    change_point,
    cleanup,
    commit,
    complete_migration,
    disable,
    failback,
    failover,
    pause,
    point,
    protect,
    reprotect,
    resume,
    resync,
    test_failover,
    undo,
)

__all__ = [
    "change_point",
    "cleanup",
    "commit",
    "complete_migration",
    "disable",
    "failback",
    "failover",
    "pause",
    "point",
    "protect",
    "reprotect",
    "resume",
    "resync",
    "test_failover",
    "undo",
]
