"""When a machine that runs on its recovery point may be hydrated: after it has come up, booting comes first."""

from __future__ import annotations

import time

from homeport.domain.machines import Machine, Power
from homeport.domain.units import MINUTE

PATIENCE = 1 * MINUTE
"""A guest without an agent can't say that it is up: after this many seconds it is taken to be."""


class HydrationPlan:
    """Remembers since when each machine has been seen running."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def due(self, machine: Machine) -> bool:
        """Whether to copy the rest of the point now. A drill is never hydrated: it will be thrown away."""
        origin = machine.extra.get("origin")
        if not origin or origin["hydrated"] or origin["test"] or machine.power is not Power.RUNNING:
            self._seen.pop(machine.name, None)
            return False
        since = self._seen.setdefault(machine.name, time.monotonic())
        no_guest = machine.extra.get("runner") == "storage-daemon"
        return machine.guest_agent or no_guest or time.monotonic() - since > PATIENCE
