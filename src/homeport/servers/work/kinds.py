"""Which role carries out which kind of work; several may have a part in one, and then the order counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who acts. ``PROVIDER`` and ``STORE`` are the configuration server's own: machines and recovery points as they are
    at its site."""

    PROVIDER = "provider"
    STORE = "store"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"


@dataclass(frozen=True)
class Part:
    """What one role does of a piece of work. ``when``: only where the params have this. ``patient``: whether the rest
    waits for it where that role's server isn't there."""

    role: Role
    kind: str
    when: str | None = None
    patient: bool = True

    def wanted(self, params: dict[str, Any]) -> bool:
        return self.when is None or bool(params.get(self.when))


ALONE: dict[Role, tuple[str, ...]] = {
    Role.PROVIDER: (
        *("inventory", "start-machine", "stop-machine", "remove-machine"),
        *("start-from-point", "hydrate", "power-off-original"),
    ),
    Role.STORE: (
        *("prepare-timeline", "end-timeline", "points", "hide-points", "drop-points", "thin-points", "drop-timeline"),
        *("verify-point", "describe", "purge", "probe-store", "store-vault-backup", "list-vault-backups"),
        "raise-fence",
    ),
    Role.PROCESS_SERVER: ("renew-replication", "stop-replication", "take-point", "resync", "planned-stop"),
    Role.MASTER_TARGET: ("write-disks", "rollback-disks", "probe-seed"),
}
"""Kinds that one role does alone."""

TOGETHER: dict[str, tuple[Part, ...]] = {
    "replicate": (Part(Role.MASTER_TARGET, "discard-journal"), Part(Role.PROCESS_SERVER, "replicate")),
    "import-base": (Part(Role.STORE, "keep-key"), Part(Role.MASTER_TARGET, "import-base")),
    "import-seed": (Part(Role.STORE, "keep-key"), Part(Role.MASTER_TARGET, "import-seed")),
    "start-original": (
        Part(Role.PROCESS_SERVER, "forget-stop"),
        Part(Role.MASTER_TARGET, "note-start"),
        Part(Role.PROVIDER, "start-original"),
    ),
    # A machine that goes on elsewhere must not be started here, whether or not its process server still answers.
    "fence": (
        Part(Role.PROVIDER, "fence"),
        Part(Role.PROCESS_SERVER, "stop-replication", when="power_off", patient=False),
        Part(Role.PROVIDER, "power-off", when="power_off"),
    ),
    "forget": (
        Part(Role.PROCESS_SERVER, "forget-replication"),
        Part(Role.MASTER_TARGET, "discard-journal"),
        Part(Role.STORE, "forget-timelines", when="timelines"),
    ),
}

PARTS: dict[str, tuple[Part, ...]] = {
    **{kind: (Part(role, kind),) for role, kinds in ALONE.items() for kind in kinds},
    **TOGETHER,
}
"""Every kind of work that the vault asks a site for."""
