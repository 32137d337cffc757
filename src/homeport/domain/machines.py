"""Machines as a site sees them, and as a recovery point remembers them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Power(StrEnum):
    RUNNING = "running"
    OFF = "off"
    PAUSED = "paused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Disk:
    """``id``: stable within the machine ("disk0", …); ``size`` in bytes; ``format``: raw or qcow2; ``path``: the
    image, relative to the machine's folder, known at its own site only."""

    id: str
    size: int
    format: str
    path: str = ""


@dataclass(frozen=True)
class Nic:
    """``network``: the site's network; ``forward``: "LOCAL:GUEST" pairs of TCP ports reachable on loopback; ``ip``: the
    address that the site shall give it (empty: any)."""

    mac: str
    network: str = "default"
    forward: tuple[str, ...] = ()
    ip: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine of a site. ``memory`` in bytes; ``obstacles``: why it can't be protected (empty: it can)."""

    uuid: str
    name: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    memory: int = 0
    cpus: int = 1
    firmware: str = "bios"
    power: Power = Power.UNKNOWN
    guest_agent: bool = False
    obstacles: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def protectable(self) -> bool:
        return not self.obstacles

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "protectable": self.protectable, "power": str(self.power)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        return cls(
            uuid=data["uuid"],
            name=data["name"],
            disks=tuple(Disk(**disk) for disk in data["disks"]),
            nics=tuple(
                Nic(nic["mac"], nic.get("network", "default"), tuple(nic.get("forward", ())), nic.get("ip", ""))
                for nic in data.get("nics", ())
            ),
            memory=data.get("memory", 0),
            cpus=data.get("cpus", 1),
            firmware=data.get("firmware", "bios"),
            power=Power(data.get("power", "unknown")),
            guest_agent=data.get("guest_agent", False),
            obstacles=tuple(data.get("obstacles", ())),
            extra=dict(data.get("extra", {})),
        )
