"""Disks that lie on a recovery point: empty qcow2 images whose backing is an NBD export of the point's server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import quote

from homeport.domain.machines import Disk
from homeport.sites.errors import SiteError
from homeport.sites.interface import PointService
from homeport.sites.qemu.durable import sync_file

_CREATE_SECONDS = 60


def create_overlays(folder: Path, disks: tuple[Disk, ...], service: PointService) -> None:
    """Make ``disks`` (qcow2, with their sizes) in ``folder``, durable; asks the point's server for nothing.

    The backing in the header is for people and tools; the machine's process is given its backing node at each start.
    """
    for disk in disks:
        backing = f"nbd+unix:///{quote(service.exports[disk.id])}?socket={quote(service.socket)}"
        path = folder / disk.path
        command = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            backing,
            "-F",
            "raw",
            path.name,
            str(disk.size),
        ]
        done = subprocess.run(
            command, cwd=path.parent, capture_output=True, text=True, timeout=_CREATE_SECONDS, check=False
        )
        if done.returncode != 0:
            raise SiteError(f"{path}: qemu-img could not create the overlay: {done.stderr.strip()}")
        sync_file(path)
