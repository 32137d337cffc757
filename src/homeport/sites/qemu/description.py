"""A machine's description: ``machine.toml``.

::

    uuid = "7f6c…"                 # required
    memory = "256MiB"              # or a number of bytes
    cpus = 1
    firmware = "bios"
    runner = "qemu"                # "storage-daemon": disks only, for tests and rehearsals
    accelerator = "auto"           # "kvm", "tcg"
    machine = "pc"                 # QEMU's machine type
    cpu = "auto"                   # QEMU's CPU model; auto: "host" under KVM, "max" under TCG

    [[disk]]                       # in the guest's order; the first one boots
    id = "disk0"
    path = "disk0.raw"             # relative to this folder
    format = "raw"                 # or "qcow2"
    size = "8GiB"                  # optional: the image's own size is what counts

    [[nic]]
    mac = "52:54:00:12:34:56"
    network = "default"            # "isolated": no way out
    forward = ["8080:80"]          # loopback port → guest port; "127.0.0.1:8080:80" says the same
    ip = "10.0.2.40"               # optional: what the guest gets by DHCP

    [origin]                       # written by Homeport: the machine runs on a recovery point
    point = "<timeline>/<number>"
    socket = "/…/point.sock"
    command = ["…"]
    test = false
    hydrated = false
    exports = { disk0 = "disk0" }
"""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from homeport.domain.machines import Disk, Machine, Nic
from homeport.domain.points import PointId
from homeport.domain.units import GiB, KiB, MiB, TiB
from homeport.sites.interface import PointService
from homeport.sites.qemu.durable import write_durably

FILE = "machine.toml"
RUNNERS = ("qemu", "storage-daemon")
ACCELERATORS = ("auto", "kvm", "tcg")
ISOLATED = "isolated"
"""The network without a way out."""

_UNITS = {"": 1, "B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}
_SIZE = re.compile(r"^(\d+)\s*([KMGT]iB|B)?$")
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", re.IGNORECASE)
_FORWARD = re.compile(r"^(?:127\.\d{1,3}\.\d{1,3}\.\d{1,3}:)?\d{1,5}:\d{1,5}$")
_DISK_ID = re.compile(r"^disk\d{1,3}$")


@dataclass(frozen=True)
class Origin:
    """The recovery point under a machine's overlays. ``hydrated``: all of it has been copied, it is needed no more."""

    point: PointId
    service: PointService
    test: bool = False
    hydrated: bool = False


@dataclass(frozen=True)
class Description:
    """What ``machine.toml`` says. ``memory`` in bytes."""

    uuid: str
    memory: int = 512 * MiB
    cpus: int = 1
    firmware: str = "bios"
    runner: str = "qemu"
    accelerator: str = "auto"
    machine: str = "pc"
    cpu: str = "auto"
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    origin: Origin | None = None

    def write(self, folder: Path) -> None:
        """Replace the description in ``folder``; durable when it returns."""
        write_durably(folder / FILE, self.to_toml())

    def to_toml(self) -> str:
        lines = ["# A machine of Homeport's QEMU site. Sizes: bytes or KiB, MiB, GiB, TiB."]
        for name in ("uuid", "memory", "cpus", "firmware", "runner", "accelerator", "machine", "cpu"):
            value = _size_text(self.memory) if name == "memory" else getattr(self, name)
            lines.append(f"{name} = {_toml(value)}")
        for disk in self.disks:
            lines += ["", "[[disk]]"]
            lines += [f"{name} = {_toml(getattr(disk, name))}" for name in ("id", "path", "format")]
            lines += [f"size = {_toml(disk.size)}"] if disk.size else []
        for nic in self.nics:
            lines += ["", "[[nic]]"]
            lines += [f"{name} = {_toml(getattr(nic, name))}" for name in ("mac", "network", "forward")]
            lines += [f"ip = {_toml(nic.ip)}"] if nic.ip else []
        if self.origin is not None:
            service = self.origin.service
            lines += ["", "[origin]", f"point = {_toml(str(self.origin.point))}", f"socket = {_toml(service.socket)}"]
            lines += [f"command = {_toml(service.command)}", f"test = {_toml(self.origin.test)}"]
            lines += [f"hydrated = {_toml(self.origin.hydrated)}", f"exports = {_toml(service.exports)}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def like(cls, machine: Machine, origin: Origin, network: str | None, forward: tuple[str, ...]) -> Self:
        """A description of the same machine on overlays; a test has a uuid of its own: it is no second original."""
        accelerator = str(machine.extra.get("accelerator", "auto"))
        return cls(
            uuid=str(uuid.uuid4()) if origin.test else machine.uuid,
            memory=machine.memory or cls.memory,
            cpus=machine.cpus,
            firmware=machine.firmware,
            runner=str(machine.extra.get("runner", "qemu")),
            # what the other site insisted on says nothing about what works here
            accelerator="tcg" if accelerator == "tcg" else "auto",
            machine=str(machine.extra.get("machine", "pc")),
            cpu=str(machine.extra.get("cpu", "auto")),
            disks=tuple(Disk(disk.id, disk.size, "qcow2", f"{disk.id}.qcow2") for disk in machine.disks),
            nics=connected(machine.nics, network, forward),
            origin=origin,
        )


def connected(nics: tuple[Nic, ...], network: str | None, forward: tuple[str, ...]) -> tuple[Nic, ...]:
    """``nics`` on another network (None: on their own). ``forward`` replaces their own forwarded ports and goes to the
    first one; on an isolated network nothing else comes in."""
    if network is None and not forward:
        return nics
    keep = network != ISOLATED and not forward
    return tuple(
        replace(nic, network=network or nic.network, forward=nic.forward if keep else () if number else forward)
        for number, nic in enumerate(nics)
    )


@dataclass
class Described:
    """A description as far as it could be read, and what is wrong with it (empty: nothing)."""

    description: Description
    problems: list[str] = field(default_factory=list)


def read(folder: Path) -> Described:
    """Read ``folder``'s description; never raises for its content: problems name the line or the field."""
    empty = Description(uuid="")
    try:
        data = tomllib.loads((folder / FILE).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Described(empty, [f"{FILE}: {error}"])
    except OSError as error:
        return Described(empty, [f"{FILE}: {error.strerror}"])
    fields = _Fields(data, FILE)
    description = Description(
        uuid=_uuid(fields),
        memory=fields.size("memory", Description.memory),
        cpus=fields.number("cpus", 1, at_least=1),
        firmware=fields.text("firmware", "bios", among=("bios",)),
        runner=fields.text("runner", "qemu", among=RUNNERS),
        accelerator=fields.text("accelerator", "auto", among=ACCELERATORS),
        machine=fields.text("machine", "pc"),
        cpu=fields.text("cpu", "auto"),
        disks=tuple(_disk(part) for part in fields.tables("disk")),
        nics=tuple(_nic(part) for part in fields.tables("nic")),
        origin=_origin(fields),
    )
    ids = [disk.id for disk in description.disks]
    for double in sorted({name for name in ids if ids.count(name) > 1}):
        fields.problems.append(f"{FILE}: two disks are called {double}")
    if description.origin is not None:
        for name in ids:
            if name not in description.origin.service.exports:
                fields.problems.append(f"{FILE}: origin.exports: no export for {name}")
    fields.finish()
    return Described(description, fields.problems)


class _Fields:
    """A table of the file: takes fields out by kind and collects what is wrong, with the field's full name."""

    def __init__(self, data: dict[str, Any], where: str, problems: list[str] | None = None) -> None:
        self.data = dict(data)
        self.where = where
        self.problems: list[str] = [] if problems is None else problems

    def wrong(self, name: str, why: str) -> None:
        self.problems.append(f"{self.where}: {name}: {why}")

    def text(self, name: str, default: str | None = None, among: tuple[str, ...] = ()) -> str:
        value = self.data.pop(name, default)
        if value is None:
            self.wrong(name, "is missing")
            return ""
        if not isinstance(value, str) or not value:
            self.wrong(name, f"{value!r} is not a text")
            return default or ""
        if among and value not in among:
            self.wrong(name, f"{value!r} is not supported ({', '.join(among)})")
        return value

    def number(self, name: str, default: int, at_least: int) -> int:
        value = self.data.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            self.wrong(name, f"{value!r} is not a number from {at_least}")
            return default
        return value

    def size(self, name: str, default: int) -> int:
        value = self.data.pop(name, default)
        size = parse_size(value)
        if size is None:
            self.wrong(name, f'{value!r} is not a size (a number of bytes, or like "256MiB")')
            return default
        return size

    def flag(self, name: str) -> bool:
        value = self.data.pop(name, False)
        if not isinstance(value, bool):
            self.wrong(name, f"{value!r} is neither true nor false")
            return False
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.data.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(name, f"{value!r} is not a list of texts")
            return ()
        return tuple(value)

    def table(self, name: str) -> _Fields | None:
        value = self.data.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(name, "is not a table")
            return None
        return _Fields(value, f"{self.where}: {name}", self.problems)

    def tables(self, name: str) -> list[_Fields]:
        value = self.data.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(name, f"is not a list of tables ([[{name}]])")
            return []
        return [_Fields(item, f"{self.where}: {name} {number + 1}", self.problems) for number, item in enumerate(value)]

    def finish(self) -> None:
        """A field that nobody asked for is a misspelt one: its meaning must not be lost silently."""
        for name in self.data:
            self.wrong(name, "is not a known field")


def _uuid(fields: _Fields) -> str:
    value = fields.text("uuid")
    try:
        return str(uuid.UUID(value)) if value else ""
    except ValueError:
        fields.wrong("uuid", f"{value!r} is not a uuid")
        return ""


def _disk(fields: _Fields) -> Disk:
    name = fields.text("id")
    if name and not _DISK_ID.fullmatch(name):
        fields.wrong("id", f'{name!r} is not like "disk0"')
    disk = Disk(id=name, path=fields.text("path"), format=fields.text("format"), size=fields.size("size", 0))
    fields.finish()
    return disk


def _nic(fields: _Fields) -> Nic:
    mac = fields.text("mac")
    if mac and not _MAC.fullmatch(mac):
        fields.wrong("mac", f"{mac!r} is not a MAC address")
    ip = fields.text("ip") if "ip" in fields.data else ""
    nic = Nic(mac, fields.text("network", "default"), fields.texts("forward"), ip)
    for pair in nic.forward:
        try:
            parse_forward(pair)
        except ValueError as error:
            fields.wrong("forward", str(error))
    fields.finish()
    return nic


def _origin(fields: _Fields) -> Origin | None:
    part = fields.table("origin")
    if part is None:
        return None
    text, exports = part.text("point"), part.table("exports")
    try:
        point = PointId.parse(text)
    except ValueError as error:
        part.wrong("point", str(error))
        point = PointId("0" * 16, 0)
    names = {name: exports.text(name) for name in tuple(exports.data)} if exports else {}
    service = PointService(part.text("socket"), names, part.texts("command"))
    origin = Origin(point, service, test=part.flag("test"), hydrated=part.flag("hydrated"))
    part.finish()
    return origin


def parse_forward(pair: str) -> tuple[str, int, int]:
    """``"8080:80"`` or ``"127.0.0.1:8080:80"`` → (loopback address, local port, guest port). Raises ValueError."""
    if not _FORWARD.fullmatch(pair):
        raise ValueError(f'{pair!r} is not like "8080:80" or "127.0.0.1:8080:80"')
    *address, local, guest = pair.split(":")
    if not (0 < int(local) < 65536 and 0 < int(guest) < 65536):
        raise ValueError(f"{pair!r}: ports go from 1 to 65535")
    return (address[0] if address else "127.0.0.1"), int(local), int(guest)


def parse_size(value: object) -> int | None:
    """Bytes, as a number or like "256MiB"; None: neither."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) * _UNITS[match[2] or ""] if match else None


def _size_text(size: int) -> str | int:
    return f"{size // MiB}MiB" if size and size % MiB == 0 else size


def _toml(value: object) -> str:
    """A TOML value; JSON's texts are TOML's basic strings (https://toml.io/en/v1.0.0#string)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
