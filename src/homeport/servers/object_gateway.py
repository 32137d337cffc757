"""A site's recovery store, offered to the other site's process server: the only door between the sites.

    PUT    /objects/KEY            create if absent (201; 412 when there); X-Replace: 1 overwrites
    GET    /objects/KEY            200, or 206 for one ``Range: bytes=a-b``
    HEAD   /objects/KEY            Content-Length
    DELETE /objects/KEY            204, there or not; 423 while the storage keeps it
    GET    /list?prefix=P          a line of JSON per object: ["key", size]

Every request carries ``Authorization: Bearer TOKEN``. What is stored is sealed before it gets here.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from homeport.domain.errors import HomeportError
from homeport.store.errors import AlreadyExists, Locked, NotFound, StoreUnavailable
from homeport.store.objects import Objects

log = structlog.get_logger(__name__)

OBJECTS = "/objects/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 300
    objects: ClassVar[Objects]
    token: ClassVar[str]

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("object request", request=format % args)

    def _answer(self, status: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(body)
        self.wfile.flush()

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) != length:  # the sender died in the middle: half an object must never get a key
            self.close_connection = True
            return
        offered = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(offered.encode(), self.token.encode()):
            self._answer(401)
            return
        try:
            self._carry_out(body)
        except NotFound:
            self._answer(404)
        except AlreadyExists:
            self._answer(412)
        except Locked as error:
            self._answer(423, json.dumps(error.to_json()).encode())
        except StoreUnavailable as error:
            self._answer(507 if error.code == "store.full" else 503, json.dumps(error.to_json()).encode())
        except HomeportError as error:
            self._answer(500, json.dumps(error.to_json()).encode())

    def _carry_out(self, body: bytes) -> None:
        url = urlsplit(self.path)
        if self.command == "GET" and url.path == "/list":
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            lines = [json.dumps(entry) for entry in self.objects.list(prefix)]
            self._answer(200, "\n".join(lines).encode())
            return
        if not url.path.startswith(OBJECTS):
            self._answer(404)
            return
        key = unquote(url.path[len(OBJECTS) :])
        if ".." in key.split("/") or key.startswith("/"):
            self._answer(400)
        elif self.command == "PUT":
            self.objects.put(key, body, if_absent=self.headers.get("X-Replace") != "1")
            self._answer(201)
        elif self.command == "DELETE":
            self.objects.delete(key)
            self._answer(204)
        elif self.command == "HEAD":
            self._answer(200, length=self.objects.size(key))
        elif window := self.headers.get("Range"):
            first, last = (int(part) for part in window.removeprefix("bytes=").split("-"))
            self._answer(206, self.objects.get_range(key, first, last - first + 1))
        else:
            self._answer(200, self.objects.get(key))

    do_GET = do_PUT = do_HEAD = do_DELETE = _serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class ObjectGateway:
    """Serves ``objects`` on loopback. ``port`` 0 picks a free one; :attr:`url` says which."""

    def __init__(self, objects: Objects, token: str, host: str = "127.0.0.1", port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"objects": objects, "token": token})
        self._server = _Server((host, port), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="object-gateway", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
