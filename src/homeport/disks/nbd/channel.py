"""A connected stream socket that moves whole buffers, in as few system calls as it takes."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Sequence

from homeport.domain.buffers import buffer as new_buffer

Buffer = bytes | bytearray | memoryview
IOV_MAX = 1024
"""Buffers that one system call takes (Linux: UIO_MAXIOV)."""


class Channel:
    """Blocking; raises EOFError when the peer is gone, TimeoutError after ``timeout`` seconds without a byte.

    ``read_ahead``: bytes that :meth:`receive` may take in at once beyond what it was asked for.
    """

    def __init__(self, sock: socket.socket, *, timeout: float | None, read_ahead: int = 0) -> None:
        self.socket = sock
        self._ahead = read_ahead
        self._store = new_buffer(max(read_ahead, 4096))
        self._first = self._end = 0
        # The kernel's own time-outs keep the socket blocking, so that one call with MSG_WAITALL fills a buffer.
        sock.settimeout(None)
        self.set_timeout(timeout)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def set_timeout(self, seconds: float | None) -> None:
        """``None``: wait for ever."""
        fraction, whole = math.modf(seconds or 0.0)
        value = struct.pack("ll", int(whole), int(fraction * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def send(self, *parts: Buffer) -> None:
        """All of ``parts``, in order."""
        self.send_bytes([memoryview(part).cast("B") for part in parts])

    def send_bytes(self, views: Sequence[bytes | memoryview]) -> None:
        """All of ``views``, memoryviews of bytes among them only, in order."""
        left = sum(map(len, views))
        while left:
            try:
                sent = self.socket.sendmsg(views if len(views) <= IOV_MAX else views[:IOV_MAX])
            except BlockingIOError:
                raise TimeoutError("the peer does not read") from None
            left -= sent
            if not left:
                return
            first = 0
            while sent >= len(views[first]):
                sent -= len(views[first])
                first += 1
            views = [memoryview(views[first])[sent:], *views[first + 1 :]]

    @property
    def buffered(self) -> int:
        """Bytes that :meth:`receive` has taken in already."""
        return self._end - self._first

    @property
    def ahead(self) -> memoryview:
        """Those bytes; valid until its next call."""
        return self._store[self._first : self._end]

    def receive(self, length: int) -> memoryview:
        """The next ``length`` bytes; valid until the next call."""
        if length > len(self._store):
            large = new_buffer(length)
            self.receive_into(large)
            return large
        have = self._end - self._first
        if have < length:
            self._store[:have] = bytes(self._store[self._first : self._end])
            self._first, self._end = 0, have
            limit = max(length, self._ahead)
            while self._end < length:
                self._end += self._fill(self._store[self._end : limit])
        start = self._first
        self._first += length
        return self._store[start : start + length]

    def receive_into(self, buffer: memoryview) -> None:
        """Fill all of ``buffer``."""
        ahead = min(self._end - self._first, len(buffer))
        if ahead:
            buffer[:ahead] = self._store[self._first : self._first + ahead]
            self._first += ahead
        while ahead < len(buffer):
            ahead += self._fill(buffer[ahead:], socket.MSG_WAITALL)

    def _fill(self, buffer: memoryview, flags: int = 0) -> int:
        try:
            count = self.socket.recv_into(buffer, 0, flags)
        except BlockingIOError:
            raise TimeoutError("the peer does not answer") from None
        if not count:
            raise EOFError("the peer closed the connection")
        return count

    def shut_down(self) -> None:
        """Wake a thread that waits in send or receive: they end with an error. The descriptor stays valid."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more

    def close(self) -> None:
        """Twice does no harm. Not while another thread sends or receives: the descriptor may be another file's then."""
        self.shut_down()
        self.socket.close()
