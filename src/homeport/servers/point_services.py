"""The point servers of a site: what each needs is written down, so that it can be started again by anyone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from homeport.domain.machines import Machine
from homeport.domain.points import PointId
from homeport.servers.durable import write_durably
from homeport.servers.process import end, read_identity
from homeport.sites.interface import PointService
from homeport.store.keys import MachineKey


class PointServices:
    """``folder`` holds one folder per machine served; ``objects`` is the URL of this site's own store."""

    def __init__(self, folder: Path, objects: str) -> None:
        self._folder = folder
        self._objects = objects

    def prepare(self, vm: str, machine: Machine, point: PointId, keys: MachineKey) -> PointService:
        """Write the specification for ``vm`` (the site starts the process). Idempotent."""
        place = self._folder / vm
        specification = place / "point.json"
        # The point is part of each export's name: a server of another point can't be taken for this one.
        exports = {disk.id: f"{point.timeline}-{point.number}-{disk.id}" for disk in machine.disks}
        content = {
            "objects": self._objects,
            "vault": keys.vault,
            "machine": keys.machine,
            "machine_key": keys.key.hex(),
            "point": str(point),
            "socket": str(place / "point.sock"),
            "exports": exports,
        }
        write_durably(specification, json.dumps(content).encode())
        command = (sys.executable, "-m", "homeport.servers.point_server", str(specification))
        return PointService(str(place / "point.sock"), exports, command)

    def end(self, vm: str) -> None:
        """End the point server of ``vm``, if any, and forget it."""
        place = self._folder / vm
        identity = read_identity(place / "point.pid")
        if identity:
            end(identity)
        shutil.rmtree(place, ignore_errors=True)
