"""Serves one recovery point's disks over NBD: a process of its own, which outlives all other roles.

    python -m homeport.servers.point_server SPEC.json

The specification (0600, it holds the machine's key): ``objects`` (URL of this site's store), ``vault``, ``machine``,
``machine_key`` (hex), ``point``, ``socket``, ``exports`` (disk id → export name). The command daemonizes and returns
once the socket answers; started twice for one socket, the second sees the first and returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from homeport.disks.nbd.server import NbdServer
from homeport.disks.nbd.status import status_of
from homeport.domain.points import PointId
from homeport.servers.durable import write_durably
from homeport.servers.process import detach, process_identity
from homeport.store.keys import MachineKey
from homeport.store.objects import open_objects
from homeport.store.reader import PointReader
from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)

STATUS_RUNS = 4096
"""Runs in one answer about a disk's holes; a client asks on from where it ends."""


class PointExport:
    """A point's disk as a read-only NBD export."""

    read_only = True

    def __init__(self, reader: PointReader, disk: str) -> None:
        self._reader = reader
        self._disk = disk
        self.size = reader.disks[disk]
        self._data = reader.extents(disk)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._reader.read_into(self._disk, offset, buffer)

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(length, flags) over the range, as NBD's base:allocation has it."""
        return status_of(self._data, offset, length, STATUS_RUNS)


def serve(specification: Path) -> None:
    """Serve until SIGTERM. The caller holds the lock beside the specification."""
    spec = json.loads(specification.read_bytes())
    keys = MachineKey(spec["vault"], spec["machine"], bytes.fromhex(spec["machine_key"]))
    store = MachineStore(open_objects(spec["objects"]), keys)
    reader = store.open(PointId.parse(spec["point"]))
    server = NbdServer({name: PointExport(reader, disk) for disk, name in spec["exports"].items()})
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spec["socket"])
    server.serve_unix(Path(spec["socket"]))
    server.start()
    write_durably(specification.with_suffix(".pid"), json.dumps(process_identity(os.getpid())).encode())
    log.info("serving", point=spec["point"], socket=spec["socket"])
    stop.wait()
    server.close()


def main() -> int:
    specification = Path(sys.argv[1])
    lock = os.open(specification.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # it is being served already
    return detach(lambda: serve(specification), specification.with_suffix(".log"))


if __name__ == "__main__":
    sys.exit(main())
