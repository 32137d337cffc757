"""Bytes that cross between sites, counted where they cross: at the socket, both ways, headers included."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
from typing import Any

from homeport.servers.throttle import Throttle


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
    """An HTTP connection whose bytes are counted, and leave no faster than ``throttle`` lets them. ``context``: over
    TLS, with what that adds."""

    def __init__(
        self,
        host: str,
        port: int,
        timeout: float,
        crossing: Crossing,
        context: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        super().__init__(host, port, timeout=timeout, blocksize=256 * 1024)
        self._crossing = crossing
        self._context = context
        self._throttle = throttle
        self._counted = (0, 0)

    def send(self, data: Any) -> None:
        """What http.client sends, the parts of a file too, goes through here."""
        if self._throttle is None or not isinstance(data, (bytes, bytearray, memoryview)):
            super().send(data)
            return
        left = memoryview(data).cast("B")
        while left:
            piece = self._throttle.piece()
            self._throttle.take(len(left[:piece]))
            super().send(left[:piece])
            left = left[piece:]

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            self.sock = _CountedSocket(self.sock, self._crossing)
            return
        self._counted = (0, 0)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    def count(self) -> None:
        """Over TLS the kernel counts; what it has counted since the last time goes into the crossing."""
        if self._context is None or self.sock is None:
            return
        now = _carried(self.sock)
        self._crossing.add(now[0] - self._counted[0], now[1] - self._counted[1])
        self._counted = now

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.count()
        super().close()


def _carried(connection: socket.socket) -> tuple[int, int]:
    """Bytes that a TCP connection sent (and the other side has) and received: tcpi_bytes_acked, tcpi_bytes_received of
    struct tcp_info (linux/tcp.h)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    acked, received = struct.unpack_from("=QQ", info, 120)
    return acked, received
