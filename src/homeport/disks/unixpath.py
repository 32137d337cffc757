"""Unix sockets at paths of any length.

``sun_path`` holds 107 bytes and a terminating zero (unix(7)). A longer path is reached through its opened folder:
``/proc/self/fd/<folder>/<name>``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 107
"""Bytes of a path that fit into a socket's address."""


@contextmanager
def short_path(path: str | Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket's address and is valid in this process while the context lasts.

    Raises OSError where the folder can't be opened; the last part of the path must itself have less than 80 bytes.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield os.fspath(path)
        return
    folder, name = os.path.split(os.path.abspath(path))
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def bind(listener: socket.socket, path: str | Path) -> None:
    """Bind a unix socket to ``path``, however long it is. Raises OSError."""
    with short_path(path) as short:
        listener.bind(short)


def connect(client: socket.socket, path: str | Path) -> None:
    """Connect a unix socket to ``path``, however long it is. Raises OSError."""
    with short_path(path) as short:
        client.connect(short)
