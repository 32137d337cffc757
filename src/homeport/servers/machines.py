"""What replication needs of the machines of a site, wherever they run: here (local_machine.py), or at a host whose
mobility service is asked (remote_source.py)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from homeport.sources.interface import Source


class MachineHandle(Protocol):
    """What the loop needs of the machine at its site."""

    def describe(self) -> dict[str, Any]:
        """The machine as JSON, for the point's record."""

    def source(self) -> Source: ...

    def quiesce(self, timeout: float) -> bool:
        """Shut the guest down, or pause it where it doesn't; True when it shut down. Disks stay readable."""

    def power_off(self) -> None: ...

    def is_off(self) -> bool: ...

    def stay_off(self, reason: str) -> None:
        """It is off, and is not started by anybody."""

    def forget_tracking(self) -> None:
        """Nothing of what was tracked is left in it."""


class Machines(Protocol):
    """The machines of a site, wherever they run."""

    def machine(self, vm: str, work: Path, exclude: Collection[str] = ()) -> MachineHandle:
        """``work``: the item's folder in the cache; ``exclude``: ids of disks that are not replicated."""
