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

from homeport.domain.points import PointId
from homeport.servers.durable import write_durably
from homeport.servers.point_export import default_cache, served
from homeport.servers.process import detach, process_identity
from homeport.store.backends import open_objects
from homeport.store.keys import MachineKey
from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)


def serve(specification: Path) -> None:
    """Serve until SIGTERM. The caller holds the lock beside the specification."""
    spec = json.loads(specification.read_bytes())
    keys = MachineKey(spec["vault"], spec["machine"], bytes.fromhex(spec["machine_key"]))
    store = MachineStore(open_objects(spec["objects"]), keys, cache_bytes=default_cache())
    reader = store.open(PointId.parse(spec["point"]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spec["socket"])
    with served(reader, spec["exports"]) as server:
        server.serve_unix(Path(spec["socket"]))
        server.start()
        write_durably(specification.with_suffix(".pid"), json.dumps(process_identity(os.getpid())).encode())
        log.info("serving", point=spec["point"], socket=spec["socket"])
        stop.wait()


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
