"""The point servers of a site: what each needs is written down, so that it can be started again by anyone."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from pathlib import Path

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.points import PointId
from homeport.servers.durable import write_durably
from homeport.servers.process import end, read_identity
from homeport.sites.interface import PointService
from homeport.store.keys import MachineKey

END_SECONDS = 30.0


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
        """End the point server of ``vm``, if any, and forget it. One that is just starting holds the lock before it
        has written down who it is: it is waited for."""
        place = self._folder / vm
        deadline = time.monotonic() + END_SECONDS
        while True:
            identity = read_identity(place / "point.pid")
            if identity:
                end(identity)
            if not _held(place / "point.lock"):
                break
            if time.monotonic() > deadline:
                raise HomeportError(
                    f"the recovery point's server of {vm} neither answers nor ends",
                    code="point-server.stuck",
                    remedy="End the process that holds point.lock in the folder named, then restart the job.",
                    folder=str(place),
                )
            time.sleep(0.02)
        shutil.rmtree(place, ignore_errors=True)


def _held(lock: Path) -> bool:
    try:
        file = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
