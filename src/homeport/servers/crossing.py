"""Bytes that cross between sites, counted where they cross: at the socket, both ways, headers included."""

from __future__ import annotations

import http.client
import socket
import threading
from typing import Any


class Crossing:
    """A running count. ``sent``: bytes out of this site, ``received``: bytes into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent = 0
        self.received = 0

    def add(self, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.sent += sent
            self.received += received

    def to_json(self) -> dict[str, int]:
        return {"out": self.sent, "in": self.received}


class _CountedSocket(socket.socket):
    """Takes over a connected socket; what http.client sends and reads goes through these methods."""

    def __init__(self, taken: socket.socket, crossing: Crossing) -> None:
        timeout = taken.gettimeout()
        super().__init__(taken.family, taken.type, taken.proto, fileno=taken.detach())
        self.settimeout(timeout)
        self._crossing = crossing

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        super().sendall(data, flags)
        self._crossing.add(sent=memoryview(data).nbytes)

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        count = super().recv_into(*arguments, **options)
        self._crossing.add(received=count)
        return count


class CountedConnection(http.client.HTTPConnection):
    """An HTTP connection whose bytes are counted."""

    def __init__(self, host: str, port: int, timeout: float, crossing: Crossing) -> None:
        super().__init__(host, port, timeout=timeout, blocksize=256 * 1024)
        self._crossing = crossing

    def connect(self) -> None:
        super().connect()
        self.sock = _CountedSocket(self.sock, self._crossing)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
