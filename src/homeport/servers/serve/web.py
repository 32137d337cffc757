"""An ASGI application served in a thread of its own, on a socket that is bound before anything begins."""

from __future__ import annotations

import socket
import threading

import uvicorn

from homeport.domain.errors import HomeportError

END_SECONDS = 10.0


class PortTaken(HomeportError):
    code = "serve.port-taken"
    remedy = "Set another address or port; below 1024 a port needs the right to bind it, which the systemd unit gives."


def listen(address: tuple[str, int]) -> socket.socket:
    """Raises :class:`PortTaken`."""
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        raise PortTaken(f"{host}:{port} can't be listened at: {error.strerror or error}.") from error
    return listener


class Web:
    """``server``: made for the application, not yet run."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, name: str) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """What is under way gets a few seconds."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)
