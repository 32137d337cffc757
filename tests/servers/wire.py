"""A way between two servers that can be cut: bytes stop, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading


class Wire:
    """Listens at ``url``, and carries all to ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = threading.Event()
        self._whole.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_at: int | None = None
        """After so many bytes more to ``port`` it cuts itself."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    @property
    def is_cut(self) -> bool:
        return not self._whole.is_set()

    def mend(self) -> None:
        """What was on its way is lost: connections of before are as dead as after a long cut."""
        self.cut_at = None
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._whole.set()

    def close(self) -> None:
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [here, there]
                for source, target, counted in ((here, there, True), (there, here, False)):
                    threading.Thread(target=self._carry, args=(source, target, counted), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 << 10):
                if counted and self.cut_at is not None:
                    self.cut_at -= len(data)
                    if self.cut_at < 0:
                        self.cut()
                self._whole.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
