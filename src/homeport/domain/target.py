"""What a machine shall be where it is recovered: its name, size and network there, and the disks that stay behind.

Each property that is not chosen (None) is as at the machine's own site (reference 12, F42-F44, F62).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.units import MiB, TiB

MOST_CPUS = 255
"""QEMU's machine type pc takes no more."""
LEAST_MEMORY = 16 * MiB
MOST_MEMORY = 12 * TiB

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TAG_LENGTH = 256


class TargetInvalid(HomeportError):
    """``details``: ``problems``, one sentence each."""

    code = "item.target-invalid"
    remedy = "Correct what the cause names; `homeport item show ITEM` shows the machine as it is."


class DiskUnknown(HomeportError):
    code = "protect.disk-unknown"
    remedy = "Name disks as `homeport machine list SITE` shows them."


class BootDiskExcluded(HomeportError):
    code = "protect.boot-disk-excluded"
    remedy = "Leave it out of --exclude-disk: without its first disk the machine could not be started."


@dataclass(frozen=True)
class Target:
    """``memory`` in bytes; ``ip``: the address that its first network card shall get; ``excluded_disks``: ids, chosen
    once when the machine is protected."""

    name: str | None = None
    cpus: int | None = None
    memory: int | None = None
    network: str | None = None
    ip: str | None = None
    excluded_disks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "excluded_disks": list(self.excluded_disks), "tags": list(self.tags)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Target:
        return cls(
            name=data.get("name"),
            cpus=data.get("cpus"),
            memory=data.get("memory"),
            network=data.get("network"),
            ip=data.get("ip"),
            excluded_disks=tuple(data.get("excluded_disks") or ()),
            tags=tuple(data.get("tags") or ()),
        )

    def applied_to(self, machine: Machine) -> Machine:
        """The machine as it shall be made at the other site."""
        nics = tuple(
            replace(nic, network=self.network or nic.network, ip=(self.ip or nic.ip) if number == 0 else nic.ip)
            for number, nic in enumerate(machine.nics)
        )
        return replace(
            machine,
            name=self.name or machine.name,
            cpus=self.cpus or machine.cpus,
            memory=self.memory or machine.memory,
            nics=nics,
            disks=tuple(disk for disk in machine.disks if disk.id not in self.excluded_disks),
        )


def validate(target: Target) -> None:
    """Raises :class:`TargetInvalid`, naming every value that can't be."""
    found: list[str] = []
    if target.name is not None and not _NAME.fullmatch(target.name):
        found.append(f"name {target.name!r}: letters, digits, dots, dashes and underscores, at most 63")
    if target.cpus is not None and not 1 <= target.cpus <= MOST_CPUS:
        found.append(f"CPUs {target.cpus}: 1 to {MOST_CPUS}")
    if target.memory is not None and not LEAST_MEMORY <= target.memory <= MOST_MEMORY:
        found.append(f"memory {target.memory} bytes: {LEAST_MEMORY // MiB} MiB to {MOST_MEMORY // TiB} TiB")
    if target.network is not None and not target.network.strip():
        found.append("network: a name is missing")
    if target.ip is not None and not _usable(target.ip):
        found.append(f"IP {target.ip!r}: an address that a machine can have, such as 10.0.2.15")
    if any(not tag.strip() or len(tag) > _TAG_LENGTH for tag in target.tags):
        found.append(f"tags: 1 to {_TAG_LENGTH} characters each")
    if found:
        raise TargetInvalid(f"The target's properties can't be: {'; '.join(found)}.", problems=found)


def check_excluded(excluded: tuple[str, ...], machine: Machine) -> None:
    """Raises :class:`DiskUnknown` for a disk that the machine hasn't, :class:`BootDiskExcluded` for its first."""
    there = [disk.id for disk in machine.disks]
    unknown = [disk for disk in excluded if disk not in there]
    if unknown:
        raise DiskUnknown(
            f"{machine.name} has no disk {', '.join(unknown)}; it has {', '.join(there) or 'none'}.", disks=there
        )
    if there and there[0] in excluded:
        raise BootDiskExcluded(f"{there[0]} is the disk that {machine.name} boots from.", disk=there[0])


def _usable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local)
