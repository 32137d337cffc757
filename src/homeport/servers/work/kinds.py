"""Who carries out which kind of work; several may have a part in one, and then the order counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Duty(StrEnum):
    """What a role is there for at its site. ``PROVIDER`` and ``STORE`` are the configuration server's own: machines and
    recovery points as they are at its site."""

    PROVIDER = "provider"
    STORE = "store"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"
    MOBILITY_SERVICE = "mobility-service"
    """Has no part in the vault's work: it serves the process servers that run elsewhere than the machines."""


@dataclass(frozen=True)
class Part:
    """What one role does of a piece of work. ``when``: only where the params have this. ``patience``: seconds that the
    rest waits for that role's server, where it isn't there (None: until it is); ``limit``: in all, though it is there.
    Then, if the part is not ``needed``, it goes on without. What is not needed is left out where the site has no such
    server at all."""

    duty: Duty
    kind: str
    when: str | None = None
    patience: float | None = None
    needed: bool = True
    limit: float | None = None

    def wanted(self, params: dict[str, Any]) -> bool:
        return self.when is None or bool(params.get(self.when))


SWITCH = "switch-process-server"
"""An item gets another process server: what the configuration server sees to."""
THROTTLE = "throttle"
"""What the vault says of the bandwidth of a site's process servers: the configuration server tells each its own."""

ALONE: dict[Duty, tuple[str, ...]] = {
    Duty.PROVIDER: (
        *("inventory", "start-machine", "stop-machine", "remove-machine"),
        *("start-from-point", "hydrate", "power-off-original"),
    ),
    Duty.STORE: (
        *("prepare-timeline", "end-timeline", "points", "hide-points", "drop-points", "thin-points", "drop-timeline"),
        *("verify-point", "describe", "purge", "probe-store", "store-vault-backup", "list-vault-backups"),
        "raise-fence",
    ),
    Duty.PROCESS_SERVER: ("renew-replication", "stop-replication", "take-point", "resync"),
    Duty.MASTER_TARGET: ("write-disks", "rollback-disks", "probe-seed"),
}
"""Kinds that one role does alone, and that wait for its server."""

TOGETHER: dict[str, tuple[Part, ...]] = {
    # A failover must not wait for long for a process server that is away: then the machine is only fenced.
    "planned-stop": (Part(Duty.PROCESS_SERVER, "planned-stop", patience=30.0),),
    "replicate": (Part(Duty.MASTER_TARGET, "discard-journal", needed=False), Part(Duty.PROCESS_SERVER, "replicate")),
    "import-base": (Part(Duty.STORE, "keep-key"), Part(Duty.MASTER_TARGET, "import-base")),
    "import-seed": (Part(Duty.STORE, "keep-key"), Part(Duty.MASTER_TARGET, "import-seed")),
    "start-original": (
        Part(Duty.PROCESS_SERVER, "forget-stop", needed=False),
        Part(Duty.MASTER_TARGET, "note-start", needed=False),
        Part(Duty.PROVIDER, "start-original"),
    ),
    # A machine that goes on elsewhere must not be started here nor go on, whether or not its process server still
    # answers, and however long what that ships takes it.
    "fence": (
        Part(Duty.PROVIDER, "fence"),
        Part(Duty.PROVIDER, "power-off", when="power_off"),
        Part(Duty.PROCESS_SERVER, "stop-replication", when="power_off", patience=5.0, needed=False),
    ),
    "forget": (
        Part(Duty.PROCESS_SERVER, "forget-replication", needed=False),
        Part(Duty.MASTER_TARGET, "discard-journal", needed=False),
        Part(Duty.STORE, "forget-timelines", when="timelines"),
    ),
}

PARTS: dict[str, tuple[Part, ...]] = {
    **{kind: (Part(role, kind),) for role, kinds in ALONE.items() for kind in kinds},
    **TOGETHER,
    SWITCH: (Part(Duty.PROCESS_SERVER, SWITCH),),
    THROTTLE: (Part(Duty.PROCESS_SERVER, THROTTLE),),
}
"""Every kind of work that the vault asks a site for."""
