"""The guest as a machine of a site: its folder with machine.toml, as the QEMU site provider reads it."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

DEFAULT_MAC = "52:54:00:68:70:01"


@dataclass(frozen=True)
class GuestImages:
    """``disk0``: raw, the system; ``disk1``: qcow2, the data; ``kernel``: the kernel that disk0 boots, for trying."""

    disk0: Path
    disk1: Path
    kernel: Path


def write_machine(
    site: Path,
    name: str,
    images: GuestImages,
    *,
    forward: str | None = "127.0.0.1:8080:80",
    memory: str = "256MiB",
    mac: str = DEFAULT_MAC,
) -> str:
    """Makes the folder ``site``/``name``: the disks are moved there, and its machine.toml is written.

    Returns the machine's uuid. ``forward``: where on loopback the guest's port is reached, "ADDRESS:PORT:GUEST PORT".
    Raises OSError, also when the disks lie on another file system.
    """
    folder = site / name
    folder.mkdir(parents=True, exist_ok=True)
    images = replace(images, disk0=_moved(images.disk0, folder), disk1=_moved(images.disk1, folder))
    identity = str(uuid.uuid4())
    forwards = f'["{forward}"]' if forward else "[]"
    (folder / "machine.toml").write_text(
        f"""uuid = "{identity}"
memory = "{memory}"
cpus = 1
firmware = "bios"
machine = "pc"
runner = "qemu"

[[disk]]
id = "disk0"
path = "{images.disk0.name}"
format = "raw"

[[disk]]
id = "disk1"
path = "{images.disk1.name}"
format = "qcow2"

[[nic]]
mac = "{mac}"
network = "default"
forward = {forwards}
""",
        encoding="utf-8",
    )
    return identity


def _moved(disk: Path, folder: Path) -> Path:
    target = folder / disk.name
    os.replace(disk, target)
    return target
