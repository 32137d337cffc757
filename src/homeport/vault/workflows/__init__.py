"""The durable operations, one per file. Importing this package registers them all with the workflow library."""

from homeport.vault.workflows import (
    change_point,
    cleanup,
    commit,
    disable,
    failback,
    failover,
    point,
    protect,
    reprotect,
    resync,
    test_failover,
)

__all__ = [
    "change_point",
    "cleanup",
    "commit",
    "disable",
    "failback",
    "failover",
    "point",
    "protect",
    "reprotect",
    "resync",
    "test_failover",
]
