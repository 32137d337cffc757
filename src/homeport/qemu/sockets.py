"""Unix sockets by paths of any length."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_SUN_PATH = 107
"""Longest path that fits ``sockaddr_un.sun_path`` with its terminating zero, bytes (unix(7))."""


def connect_unix(path: str | Path, timeout: float | None) -> socket.socket:
    """A stream socket connected to ``path``; a path too long for the kernel goes through ``/proc/self/fd``.

    ``timeout`` in seconds for connecting, and left set on the socket. Raises OSError.
    """
    path = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        if len(os.fsencode(path)) <= _SUN_PATH:
            sock.connect(str(path))
        else:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
    except BaseException:
        sock.close()
        raise
    return sock
