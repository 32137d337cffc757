"""Where machines run: the interface that every provider keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from homeport.domain.machines import Machine
from homeport.domain.points import PointId


@dataclass(frozen=True)
class PointService:
    """How the site reaches a recovery point's data: one NBD export per disk on one unix socket. ``command`` starts the
    point server as a process of its own when the socket is dead (it daemonizes); ``exports``: disk id → export name."""

    socket: str
    exports: dict[str, str]
    command: tuple[str, ...]


@dataclass(frozen=True)
class Hydration:
    """How far a machine's disks are copied out of its recovery point. Bytes."""

    done: int
    total: int
    finished: bool


@dataclass(frozen=True)
class StartOptions:
    """``base``: what the tracker calls the disks' present content: tracking is on from the first instruction.
    ``network``: None is production; "isolated" has no way out. ``forward``: "LOCAL:GUEST" ports on loopback."""

    base: PointId | None = None
    network: str | None = None
    forward: tuple[str, ...] = ()


class Site(Protocol):
    """Every verb looks before it acts: called twice, it does no harm. Names are machine names of this site."""

    def machines(self) -> list[Machine]:
        """All machines found, whatever their state."""

    def machine(self, name: str) -> Machine:
        """Raises :class:`MachineNotFound`."""

    def create_from_point(
        self, name: str, like: Machine, point: PointId, service: PointService, options: StartOptions
    ) -> Machine:
        """A machine called ``name`` (same uuid as ``like`` unless isolated) whose disks are overlays on the point."""

    def start(self, name: str, options: StartOptions) -> Machine:
        """Power on and return once the hypervisor runs the guest. Refused while fenced."""

    def shut_down(self, name: str, timeout: float) -> bool:
        """Ask the guest (ACPI, agent) to power off and wait; True when it did. Its disks stay readable (held) until
        :meth:`power_off`."""

    def power_off(self, name: str) -> None:
        """End the machine's process, whatever it does. A guest that had not shut down loses power."""

    def delete(self, name: str) -> None:
        """Remove the machine and its disks. Absent: fine."""

    def fence(self, name: str, reason: str | None) -> None:
        """With a reason: the machine must not be started here (it runs elsewhere). None lifts it. Durable."""

    def hydrate(self, name: str, bytes_per_second: int) -> Hydration:
        """Begin or go on copying the point into the machine's own disks; idempotent; reports how far it is."""

    def facts(self) -> dict[str, Any]:
        """For checks: memory, processors, disk (bytes), networks, quota, privileges as tried, the clock, and the
        accelerator with how it was proven."""
