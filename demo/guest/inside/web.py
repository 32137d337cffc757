"""The guest's answers over HTTP: a few lines of HTTP/1.0 on a socket, a thread for each connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from demo.guest.inside.jsontext import to_json

Handler = Callable[[str, dict[str, str]], tuple[int, dict[str, object]]]
"""Path and query → HTTP status and the answer's JSON object."""


def serve(port: int, handler: Handler, listening: str) -> None:
    """Answers for ever; the file ``listening`` appears when that begins. Raises OSError when the port is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(16)
        open(listening, "w").close()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, handler), daemon=True).start()


def _answer(connection: socket.socket, handler: Handler) -> None:
    with connection:
        connection.settimeout(30)
        try:
            request = b""
            while b"\r\n\r\n" not in request and len(request) < 8192:
                received = connection.recv(4096)
                if not received:
                    return
                request += received
            target = request.split(b" ", 2)[1].decode("ascii", "replace")
        except (OSError, IndexError):
            return  # whoever asked went away, or didn't speak HTTP
        path, _, query = target.partition("?")
        pairs = (pair.partition("=") for pair in query.split("&") if pair)
        try:
            status, answer = handler(path, {name: value for name, _, value in pairs})
        except (OSError, ValueError) as error:
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
        body = to_json(answer).encode() + b"\n"
        head = f"HTTP/1.0 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            connection.sendall(head.encode() + body)
        except OSError:
            return
