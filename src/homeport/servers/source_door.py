"""Where mobility services of the site reach their process server: paths of its one door (object_gateway.py).

Over TLS alone, and for mobility services of this site alone; each speaks by the name in its certificate.
"""

from __future__ import annotations

import json
import ssl
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.domain.units import MiB
from homeport.mobility.frames import FrameWrong
from homeport.mobility.wire import ANSWER, ANSWER_MOST, CUT, FRAMES, POLL, PREFIX, Json
from homeport.servers.frame_stream import StreamClosed
from homeport.servers.request_body import LengthRefused, body_length
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.waiting import readable
from homeport.trust.certificates import Peer
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

__all__ = ["PREFIX", "serve"]

CALLERS = frozenset({Role.MOBILITY_SERVICE})
FRAMES_MOST = 64 * MiB
"""Bytes of frames in a body at most: sender.BODY_MOST of a disk and their headers. They are taken one by one."""


def serve(
    request: BaseHTTPRequestHandler, exchange: SourceExchange | None, identity: Identity | None, peer: Peer | None
) -> None:
    """Answer one request. What is refused before its body was read ends the connection."""
    if exchange is None or identity is None or peer is None:
        _answer(request, 404, {}, end=True)
        return
    if exchange.closed:
        request.close_connection = True
        return
    try:
        identity.check(peer, CALLERS, identity.site)
    except HomeportError as error:
        _answer(request, 403, error.to_json(), end=True)
        return
    frames = request.path.startswith(FRAMES)
    try:
        length = body_length(request.headers, FRAMES_MOST if frames else ANSWER_MOST)
    except LengthRefused as error:
        _answer(request, error.status, {}, end=True)
        return
    if frames:
        _frames(request, exchange, length)
    else:
        _words(request, exchange, peer.who.name, length)


def _frames(request: BaseHTTPRequestHandler, exchange: SourceExchange, length: int) -> None:
    try:
        exchange.take_frames(request.path[len(FRAMES) :], request.rfile, length)
    except StreamClosed as error:
        _answer(request, 410, error.to_json(), end=True)
    except FrameWrong as error:
        log.warning("frames refused", reason=error.cause)
        _answer(request, 422, error.to_json(), end=True)
    except (EOFError, OSError) as error:
        log.info("frames broke off", reason=str(error))
        request.close_connection = True
    else:
        _answer(request, 200, {})


def _words(request: BaseHTTPRequestHandler, exchange: SourceExchange, name: str, length: int) -> None:
    text = request.rfile.read(length)
    if len(text) != length:
        request.close_connection = True
        return
    try:
        body: Json = json.loads(text)
        if request.path == POLL:
            answer = exchange.poll(name, body, lambda: _gone(request.connection))
        elif request.path == ANSWER:
            exchange.answer(name, body)
            answer = {}
        elif request.path.startswith(CUT):
            answer = exchange.cut(name, request.path[len(CUT) :], body)
        else:
            _answer(request, 404, {})
            return
    except HomeportError as error:
        _answer(request, 409, error.to_json())
    except ConnectionError:
        request.close_connection = True
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong = HomeportError(f"this can't be understood: {error!r}", code="source.wire", remedy="Upgrade both sides.")
        _answer(request, 400, wrong.to_json())
    else:
        _answer(request, 200, answer)


def _gone(connection: Any) -> bool:
    """Nobody says anything while it waits for an answer: what can be read is the end, or an attack."""
    waiting = connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
    return bool(waiting) or readable(connection, 0)


def _answer(request: BaseHTTPRequestHandler, status: int, body: Json, *, end: bool = False) -> None:
    content = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(content)))
    if end:
        request.send_header("Connection", "close")
        request.close_connection = True
    request.end_headers()
    request.wfile.write(content)
    request.wfile.flush()
