"""TCP ports for servers that a test kills and starts again.

Not from the range that the kernel gives to outgoing connections: a client that knocks at a dead server's port may be
given that very port, connect to itself, and keep the server from coming back.
"""

from __future__ import annotations

import random
import socket

_PORTS = range(10_240, 32_000)  # the kernel's own begin at 32768 (ip_local_port_range)


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
