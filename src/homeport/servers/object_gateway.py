"""A site's recovery store, offered to the other site's process server: the only door between the sites.

    PUT    /objects/KEY            create if absent (201; 412 when there); X-Replace: 1 overwrites
    GET    /objects/KEY            200, or 206 for one ``Range: bytes=a-b``
    HEAD   /objects/KEY            Content-Length
    DELETE /objects/KEY            204, there or not; 423 while the storage keeps it
    GET    /room?bytes=N           204, or 507: asked before what was refused for want of room is sent again
    GET    /list?prefix=P          a line of JSON per object: ["key", size]
    GET    /probe?bytes=N          N bytes of noise; POST takes any: how fast the way here is
    POST   /source/…               for mobility services of this site: source_door.py

Every request for objects carries ``Authorization: Bearer TOKEN``; over TLS the caller is a process server of this
vault, by its certificate, which is looked at with each request. What is stored is sealed before it gets here.

Of a body nothing is read before it is known who sends it, what for, and how long it says it is (411, 400, 413); with
whom is refused before, the connection ends.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.domain.units import BLOCK, MiB, TiB
from homeport.servers import source_door
from homeport.servers.request_body import LengthRefused, body_length
from homeport.servers.source_exchange import SourceExchange
from homeport.store import digests
from homeport.store.errors import AlreadyExists, Locked, NotFound, StoreUnavailable
from homeport.store.objects import Objects, require_room
from homeport.trust import tls
from homeport.trust.certificates import Peer
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

OBJECTS = "/objects/"
ROOM = "/room"
PROBE = "/probe"
PROBE_MOST = 64 * MiB
MOST = 64 * TiB // BLOCK * digests.SIZE + 64 * MiB
"""Bytes of an object at most. What grows largest is the digest map of a disk: sixteen bytes for each block of 16 KiB,
64 GiB for one of 64 TiB. Segments end soon after segment.TARGET, the index in a record has fewer bytes a block."""
CALLERS = frozenset({Role.PROCESS_SERVER})
HANDSHAKE_SECONDS = 20.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    timeout = 300
    objects: ClassVar[Objects]
    token: ClassVar[str]
    identity: ClassVar[Identity | None]
    exchange: ClassVar[SourceExchange | None]
    peer: Peer | None = None

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.identity is not None:
            self.peer = tls.peer(self.request)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("object request", request=format % args)

    def _answer(self, status: int, body: bytes = b"", length: int | None = None, *, end: bool = False) -> None:
        """``end``: the connection ends: the request's body was not read."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if end:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body:
            self.wfile.write(body)
        self.wfile.flush()

    def _serve(self) -> None:
        if self.command == "POST" and self.path.startswith(source_door.PREFIX):
            source_door.serve(self, self.exchange, self.identity, self.peer)
            return
        offered = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(offered.encode(), self.token.encode()):
            self._answer(401, end=self._bears_a_body())
            return
        try:
            if self.identity is not None and self.peer is not None:
                self.identity.check(self.peer, CALLERS)
        except HomeportError as error:
            self._answer(401, json.dumps(error.to_json()).encode(), end=self._bears_a_body())
            return
        try:
            self._carry_out()
        except LengthRefused as error:
            self._answer(error.status, end=True)
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

    def _bears_a_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0").strip() != "0"

    def _carry_out(self) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path.removeprefix(OBJECTS)) if url.path.startswith(OBJECTS) else None
        if key is not None and (".." in key.split("/") or key.startswith("/")):
            self._answer(400, end=True)
        elif self.command == "PUT":
            self._put(key)
        elif self.command == "POST":
            self._take_noise(url.path)
        elif body_length(self.headers, MOST):  # nothing else has a body that is of use
            raise LengthRefused(HTTPStatus.BAD_REQUEST)
        elif key is not None:
            self._object(key)
        elif self.command == "GET":
            self._tell(url.path, parse_qs(url.query))
        else:
            self._answer(404)

    def _put(self, key: str | None) -> None:
        if key is None:
            self._answer(404, end=True)
            return
        length = body_length(self.headers, MOST, required=True)
        body = self.rfile.read(length)
        if len(body) != length:  # the sender died in the middle: half an object must never get a key
            self.close_connection = True
            return
        self.objects.put(key, body, if_absent=self.headers.get("X-Replace") != "1")
        self._answer(201)

    def _take_noise(self, path: str) -> None:
        if path != PROBE:
            self._answer(405 if path.startswith(OBJECTS) else 404, end=True)
            return
        left = body_length(self.headers, PROBE_MOST)
        while left:
            piece = self.rfile.read(min(left, MiB))
            if not piece:
                self.close_connection = True
                return
            left -= len(piece)
        self._answer(200)

    def _tell(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/list":
            lines = [json.dumps(entry) for entry in self.objects.list(query.get("prefix", [""])[0])]
            self._answer(200, "\n".join(lines).encode())
        elif path == ROOM:
            require_room(self.objects, int(query.get("bytes", ["0"])[0]))
            self._answer(204)
        elif path == PROBE:
            self._answer(200, os.urandom(min(int(query.get("bytes", ["0"])[0]), PROBE_MOST)))
        else:
            self._answer(404)

    def _object(self, key: str) -> None:
        if self.command == "DELETE":
            self.objects.delete(key)
            self._answer(204)
        elif self.command == "HEAD":
            self._answer(200, length=self.objects.size(key))
        elif window := self.headers.get("Range"):
            first, last = (int(part) for part in window.removeprefix("bytes=").split("-"))
            self._answer(206, self.objects.get_range(key, first, last - first + 1))
        else:
            self._answer(200, self.objects.get(key))

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[_Handler], identity: Identity | None) -> None:
        self._context = identity.server_context() if identity is not None else None
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a handshake that hangs keeps nobody else waiting."""
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(HANDSHAKE_SECONDS)
        with self._context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away, or that was refused, is no fault of ours."""
        log.info("object request ended early", address=client_address[0], exc_info=True)


class ObjectGateway:
    """Serves ``objects``: on loopback, or with an ``identity`` over TLS at any address. ``port`` 0 picks a free one.
    ``advertise``: the URL under which the process servers of other sites find it."""

    def __init__(
        self,
        objects: Objects,
        token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        identity: Identity | None = None,
        advertise: str | None = None,
        exchange: SourceExchange | None = None,
    ) -> None:
        """``exchange``: where mobility services bring what machines of this site wrote."""
        fixed = {"objects": objects, "token": token, "identity": identity, "exchange": exchange}
        handler = type("Handler", (_Handler,), fixed)
        self._server = _Server((host, port), handler, identity)
        self.port = self._server.server_address[1]
        self.url = advertise or f"{'http' if identity is None else 'https'}://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="object-gateway", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
