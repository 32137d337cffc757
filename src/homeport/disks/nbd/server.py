"""An NBD server: one thread for each connection, any number of exports, unix socket or TCP.

Content that an export keeps in memory is sent from where it lies, else from the connection's own buffer; the answers to
requests that came together leave in one sendmsg. Zeroes are told as holes, which cost no data. Structured replies and
base:allocation are offered.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from homeport.disks import unixpath
from homeport.disks.nbd.connection import Connection
from homeport.disks.nbd.export import Export
from homeport.domain.logs import get_logger

log = get_logger(__name__)

HANDSHAKE_TIMEOUT = 30.0
"""Seconds of silence after which a client that hasn't chosen an export is dropped."""


class NbdServer:
    """Serves ``exports`` (by name; looked up at each handshake, so that the mapping may change meanwhile).

    ``serve_unix`` and ``serve_tcp`` bind and listen, several times if wished; ``start`` begins to answer.
    There is no authentication: a unix socket is made with mode 0600, TCP belongs on loopback.
    """

    def __init__(self, exports: Mapping[str, Export]) -> None:
        self._exports = exports
        self._listeners: list[socket.socket] = []
        self._paths: list[tuple[Path, int]] = []
        self._threads: list[threading.Thread] = []
        self._connections: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._started = False
        self._closing = threading.Event()

    def serve_unix(self, path: str | Path) -> None:
        """Listen at ``path`` (of any length). A socket left there by a dead server is replaced; a living one's, or
        another kind of file, raises OSError (EADDRINUSE)."""
        path = Path(path).absolute()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_dead(path)
            unixpath.bind(listener, path)
            os.chmod(path, 0o600)  # nobody can connect before listen()
            self._paths.append((path, path.stat().st_ino))
            self._listen(listener)
        except BaseException:
            listener.close()
            raise

    def serve_tcp(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen at an address; returns it, with the port that was chosen for 0. Raises OSError."""
        listener = socket.create_server((host, port))
        try:
            self._listen(listener)
        except BaseException:
            listener.close()
            raise
        name = listener.getsockname()
        return str(name[0]), int(name[1])

    def _listen(self, listener: socket.socket) -> None:
        listener.listen(64)
        self._listeners.append(listener)
        if self._started:
            self._accept_in_background(listener)

    def start(self) -> None:
        """Answer in background threads until :meth:`close`."""
        if not self._started:
            self._started = True
            for listener in self._listeners:
                self._accept_in_background(listener)

    def _accept_in_background(self, listener: socket.socket) -> None:
        thread = threading.Thread(target=self._accept, args=(listener,), name="nbd-accept", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except ConnectionAbortedError:
                continue  # the client was gone before its turn
            except OSError as error:
                if self._closing.is_set():
                    return
                # Out of file descriptors or memory: that passes.
                log.error("the NBD server can't accept a connection", reason=str(error))
                self._closing.wait(1.0)
                continue
            try:
                connection = Connection(sock, self._exports, HANDSHAKE_TIMEOUT)
            except OSError as error:
                sock.close()
                log.info("an NBD client went away", reason=str(error))
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-connection", daemon=True)
            with self._lock:
                if self._closing.is_set():
                    connection.close()
                    return
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            # Without this a client that said DISC would wait for ever.
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    @property
    def connections(self) -> int:
        """Clients connected now."""
        with self._lock:
            return len(self._connections)

    def close(self) -> None:
        """Stop listening, end all connections, wait for their threads. Twice does no harm."""
        with self._lock:
            self._closing.set()
            open_now = dict(self._connections)
        for listener in self._listeners:
            try:
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            except OSError:
                pass  # not listening any more
            listener.close()
        for path, inode in self._paths:
            try:
                if path.lstat().st_ino == inode:
                    path.unlink()
            except FileNotFoundError:
                pass
        for connection in open_now:
            connection.abort()
        for thread in (*self._threads, *open_now.values()):
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join()

    def __enter__(self) -> NbdServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove_dead(path: Path) -> None:
    """Unlink a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            unixpath.connect(probe, path)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
