"""An HTTP proxy before a real storage, that fails as networks and storages do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOSE_ANSWER = "lose answer"  # done, and the connection broke before anybody heard of it
FAIL_AFTER = "fail after"  # done, and a 500 says it wasn't
RESET = "reset"  # the connection breaks before anything is done
CUT_REQUEST = "cut request"  # it breaks in the middle of an upload
CUT_ANSWER = "cut answer"  # it breaks in the middle of a download
SILENT = "silent"  # nothing is done and nobody answers

Fault = str | int
"""One of those above, or a status that is answered in the storage's place."""

CODES = {403: "AccessDenied", 409: "ConditionalRequestConflict", 429: "TooManyRequests", 503: "SlowDown"}


class Proxy:
    """``faults``: what becomes of the next requests of a verb, in turn. ``strip``: headers that don't reach the
    storage, as if it didn't know them. ``seen``: (verb, path with query) of all requests; ``headers``: those of
    the newest."""

    def __init__(self, upstream: str) -> None:
        self.faults: dict[str, deque[Fault]] = {}
        self.strip: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                faults = proxy.faults.get(self.command)
                fault = faults.popleft() if faults else None
                proxy.seen.append((self.command, self.path))
                proxy.headers = {key.lower(): value for key, value in self.headers.items()}
                if fault in (RESET, CUT_REQUEST):
                    self.rfile.read(length // 2 if fault == CUT_REQUEST else 0)
                    self._hang_up()
                    return
                body = self.rfile.read(length)
                if fault == SILENT:
                    proxy.woken.wait(20)
                    self._hang_up()
                elif isinstance(fault, int):
                    self._answer(fault, f"<Error><Code>{CODES.get(fault, 'Fault')}</Code></Error>".encode(), {})
                else:
                    status, content, headers = self._forward(body)
                    if fault == LOSE_ANSWER:
                        self._hang_up()
                    elif fault == FAIL_AFTER:
                        self._answer(500, b"<Error><Code>InternalError</Code></Error>", {})
                    else:
                        self._answer(status, content, headers, cut=fault == CUT_ANSWER)

            def _forward(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
                connection = http.client.HTTPConnection(upstream, timeout=30)
                headers = {key: value for key, value in self.headers.items() if key.lower() not in proxy.strip}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                return answer.status, content, {key.lower(): value for key, value in answer.getheaders()}

            def _answer(self, status: int, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    if key not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(key, value)
                length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self._hang_up()

            def _hang_up(self) -> None:
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """The client hung up: as meant."""

        self.woken = threading.Event()
        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.netloc = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fail(self, verb: str, *faults: Fault) -> None:
        self.faults[verb] = deque(faults)

    def close(self) -> None:
        self.woken.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
