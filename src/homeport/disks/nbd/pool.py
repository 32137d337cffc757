"""Several connections to one export, so that several threads read at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from homeport.disks.nbd.client import Address, NbdClient
from homeport.disks.nbd.errors import NbdClosed


class NbdPool:
    """At most ``connections`` to an export; the first is made at once, the others when threads ask for them.

    A connection that broke is replaced at the next call; the call that found it broken raises NbdClosed.
    """

    def __init__(
        self,
        address: Address,
        export: str,
        *,
        connections: int = 4,
        meta_contexts: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> None:
        self.export = export
        self._address, self._contexts, self._timeout = address, tuple(meta_contexts), timeout
        self._slots = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()
        self._closed = False
        first = self._connect()
        self.size, self.flags = first.size, first.flags
        self._idle = [first]

    def _connect(self) -> NbdClient:
        return NbdClient(self._address, self.export, meta_contexts=self._contexts, timeout=self._timeout)

    @contextmanager
    def client(self) -> Iterator[NbdClient]:
        """A connection for this thread alone while the context lasts; waits for one to be free."""
        with self._slots:
            with self._lock:
                if self._closed:
                    raise NbdClosed(f"the connections to NBD export {self.export!r} are closed")
                client = self._idle.pop() if self._idle else None
            if client is None:
                client = self._connect()
            try:
                yield client
            finally:
                with self._lock:
                    keep = not (self._closed or client.closed)
                    if keep:
                        self._idle.append(client)
                if not keep:
                    client.close()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self.client() as client:
            client.read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        with self.client() as client:
            return client.read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview, fua: bool = False) -> None:
        with self.client() as client:
            client.write(offset, data, fua)

    def zero(self, offset: int, length: int) -> None:
        with self.client() as client:
            client.zero(offset, length)

    def trim(self, offset: int, length: int) -> None:
        with self.client() as client:
            client.trim(offset, length)

    def flush(self) -> None:
        """Covers writes of all connections where the server says CAN_MULTI_CONN, and in QEMU always: one cache."""
        with self.client() as client:
            client.flush()

    def block_status(self, context: str, offset: int, length: int) -> NDArray[np.int64]:
        with self.client() as client:
            return client.block_status(context, offset, length)

    def close(self) -> None:
        """Idle connections end now, those in use when their call returns. Twice does no harm."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def __enter__(self) -> NbdPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
