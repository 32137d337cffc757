"""GET /health on loopback: what a server is, since when it runs, and how it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """``text``: what was found, for people."""

    name: str
    ok: bool
    text: str

    def to_json(self) -> Json:
        return {"name": self.name, "ok": self.ok, "text": self.text}


class Health:
    """Answers 200 where all is well, 503 where a check fails. ``tell``: asked each time."""

    def __init__(self, address: tuple[str, int], tell: Callable[[], Json]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                found = tell() if self.path == "/health" else None
                body = json.dumps(found or {}, indent=2).encode() + b"\n"
                self.send_response(404 if found is None else 200 if found["healthy"] else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
