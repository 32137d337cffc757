"""A recovery point as a folder that stands for itself: its disks as images, and what the machine is.

    point.json      which point of which machine this is, and everything its record tells of it
    disk0.raw, …    the disks
    machine.toml    the machine, as a QEMU site of Homeport runs it (formats raw and qcow2); written last

Such a folder, put into a site's folder under the machine's name, can be started there; any other hypervisor takes the
images, and a person finds the rest in the two text files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from homeport.bucket.holding import holding
from homeport.bucket.opening import StoredMachine
from homeport.bucket.restore_formats import Format, by_name
from homeport.bucket.restoring import Progress, Restored, TargetExists, no_progress, restore
from homeport.domain.points import PointId
from homeport.store.reader import PointReader

POINT, MACHINE = "point.json", "machine.toml"
_RUNNABLE = ("raw", "qcow2")


def export(
    machine: StoredMachine,
    point: PointId,
    folder: Path,
    *,
    format: str = "raw",
    progress: Progress = no_progress,
) -> list[Restored]:
    """Write ``point`` into ``folder``, which is new, or holds an export of the same point that was interrupted: then it
    goes on. Returns what was restored now. Raises TargetExists, PointNotFound, and as :func:`restore`."""
    kind = by_name(format, Path())
    reader = machine.store.open(point)
    facts = _facts(machine, reader, kind)
    text = json.dumps(facts, indent=2) + "\n"
    _begin(folder, text)
    done = []
    with holding(machine.store, point, "export"):
        for disk in reader.disks:
            target = folder / f"{disk}{kind.suffix}"
            if not target.exists():  # it gets its name when it is whole
                done.append(restore(machine.store, reader, disk, target, format=kind.name, progress=progress))
    if kind.name in _RUNNABLE:
        _write(folder / MACHINE, _toml(machine, reader, kind))
    return done


def _begin(folder: Path, text: str) -> None:
    """Raises TargetExists where the folder holds anything but the beginning of this very export."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        _write(folder / POINT, text)
        return
    try:
        same = (folder / POINT).read_text() == text
    except (OSError, UnicodeDecodeError):
        same = False
    if not same or (folder / MACHINE).exists():
        raise TargetExists(f"{folder} is not empty", remedy="Choose another --to.", path=str(folder))


def _facts(machine: StoredMachine, reader: PointReader, kind: Format) -> dict[str, Any]:
    return {
        "homeport": "exported recovery point",
        "version": 1,
        "vault": reader.keys.vault,
        "machine": {"uuid": machine.uuid, "name": machine.name},
        "point": reader.info.to_json(),
        "disks": [
            {"id": disk, "size": size, "format": kind.name, "file": f"{disk}{kind.suffix}"}
            for disk, size in reader.disks.items()
        ],
        "notes": list(reader.notes),
        "machine_at_the_point": reader.machine,
        "description": machine.store.description(),
    }


def _toml(machine: StoredMachine, reader: PointReader, kind: Format) -> str:
    """What a site needs to run it. Of what the record doesn't tell, the site's defaults hold."""
    told = reader.machine
    extra = told.get("extra") if isinstance(told.get("extra"), dict) else {}
    lines = [
        f"# {machine.name}, exported from recovery point {reader.point} of {reader.info.time.isoformat()}.",
        f"uuid = {_value(told.get('uuid') or machine.uuid)}",
    ]
    for name in ("memory", "cpus", "firmware"):
        if told.get(name):
            lines.append(f"{name} = {_value(told[name])}")
    for name in ("machine", "cpu"):
        if extra and extra.get(name):
            lines.append(f"{name} = {_value(extra[name])}")
    for disk, size in reader.disks.items():
        lines += ["", "[[disk]]", f"id = {_value(disk)}", f"path = {_value(disk + kind.suffix)}"]
        lines += [f"format = {_value(kind.name)}", f"size = {size}"]
    for nic in told.get("nics") or ():
        lines += ["", "[[nic]]"]
        lines += [f"{name} = {_value(nic[name])}" for name in ("mac", "network", "forward") if nic.get(name)]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """JSON's texts, numbers and lists of texts are TOML's (https://toml.io/en/v1.0.0)."""
    return json.dumps(value)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and durable."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
