"""The process that serves a recovery point to a machine here: found by its socket, started by its command."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import structlog

from homeport.disks import unixpath
from homeport.sites.errors import SiteError
from homeport.sites.interface import PointService
from homeport.sites.qemu import launch, locks

log = structlog.get_logger(__name__)

_START_SECONDS = 60.0
_POLL_SECONDS = 0.02


def answers(service: PointService) -> bool:
    """Whether somebody accepts connections at the service's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            unixpath.connect(connection, service.socket)
        except BlockingIOError:
            return True  # so many clients wait that it must be there
        except OSError:
            return False
    return True


def ensure(service: PointService, run: Path) -> bool:
    """Start the service where its socket is dead and wait until it answers; True when it had to be started.

    ``run``: the machine's run folder, where the link to the socket and the service's output lie. Raises SiteError.
    """
    run.mkdir(exist_ok=True)
    link(service, run)
    if answers(service):
        return False
    with locks.exclusive(run / "point.lock"):
        if answers(service):
            return False
        return _start(service, run)


def _start(service: PointService, run: Path) -> bool:
    output = run / "point.log"
    try:
        with output.open("ab") as record:
            started = subprocess.run(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=record,
                stderr=record,
                start_new_session=True,
                timeout=_START_SECONDS,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(service, str(error), output) from error
    if started.returncode != 0:
        raise _failed(service, f"its command ended with status {started.returncode}", output)
    deadline = time.monotonic() + _START_SECONDS
    while not answers(service):
        if time.monotonic() > deadline:
            raise _failed(service, f"its socket is dead after {_START_SECONDS:g} s", output)
        time.sleep(_POLL_SECONDS)
    log.info("point server started", socket=service.socket)
    return True


def link(service: PointService, run: Path) -> None:
    """Let ``run/point.sock`` lead to the service's socket, also for a process that runs and reconnects by it."""
    name, wanted = run / launch.POINT, str(Path(service.socket).absolute())
    if name.is_symlink() and str(name.readlink()) == wanted:
        return
    fresh = run / f".{launch.POINT}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(wanted)
    fresh.replace(name)


def _failed(service: PointService, why: str, output: Path) -> SiteError:
    try:
        tail = "; ".join(output.read_text(errors="replace").splitlines()[-5:])
    except FileNotFoundError:
        tail = ""
    return SiteError(
        f"the recovery point's server does not start: {why}{': ' + tail if tail else ''}",
        code="site.point-server",
        remedy="Look whether this site's recovery store is there, then restart the job.",
        socket=service.socket,
    )
