"""TCP ports for servers that a test kills and starts again.

Not from the range that the kernel gives to outgoing connections: a client that knocks at a dead server's port may be
given that very port, connect to itself, and keep the server from coming back. Each process of a parallel run
(pytest-xdist) has ports of its own: a server that is down for a moment finds its port free again.
"""

from __future__ import annotations

import os
import random
import socket

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(10_240 + _WORKER % _WORKERS, 32_000, _WORKERS)  # the kernel's own begin at 32768 (ip_local_port_range)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
