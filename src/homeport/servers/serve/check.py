"""Is everything that a server dials reachable? Each way is tried step by step; the one that blocks it is named.

name → tcp → tls → answer → throughput (where recovery points go)
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.joining import IDENTITY
from homeport.servers.object_gateway import PROBE
from homeport.servers.serve.settings import Config
from homeport.servers.work.mobility_work import remembered
from homeport.trust import tls
from homeport.trust.identity import Identity

SECONDS = 5.0
"""For each step."""
ROUNDS = 5
PROBE_BYTES = 4 << 20


@dataclass(frozen=True)
class Peer:
    """Whom a server dials. ``path``: what is asked for, with whatever answer; ``token``: of a gateway: then throughput
    is measured."""

    name: str
    url: str
    role: Role
    site: str | None
    path: str
    token: str | None = None


@dataclass
class Way:
    """``blocked``: the step at which it ends (None: it is open), ``why``; seconds and bytes per second elsewhere."""

    peer: str
    url: str
    steps: dict[str, str] = field(default_factory=dict)
    blocked: str | None = None
    why: str = ""
    remedy: str = ""
    latency: float | None = None
    up: float | None = None
    down: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "url": self.url,
            "steps": self.steps,
            "blocked": self.blocked,
            "why": self.why,
            "remedy": self.remedy,
            "latency_seconds": self.latency,
            "up_bytes_per_second": self.up,
            "down_bytes_per_second": self.down,
        }


REMEDY = {
    "name": "Correct the name in the address, or the name server of this machine.",
    "tcp": "Nothing listens there, or a firewall drops it: start that server, and open the port (docs/ports.md).",
    "tls": "Something in between answers in its place, or one of the two has to join again.",
    "answer": "It takes connections and does not answer: look at its log and its /health.",
    "throughput": "Look at the link: it breaks, or it is too slow for recovery points.",
}


def peers(config: Config, identity: Identity | None) -> list[Peer]:
    """Whom the role of ``config`` dials."""
    if config.role is Role.VAULT or identity is None:
        return [Peer("itself, as its sites see it", url, Role.VAULT, None, "/v1/authority") for url in
                (config.texts("urls") if config.role is Role.VAULT else [])]  # fmt: skip
    if config.role is Role.CONFIGURATION_SERVER:
        urls = config.texts("vault") or list(identity.urls)
        return [Peer("vault", url, Role.VAULT, None, f"/v1/agent/{identity.site}/self") for url in urls]
    url = config.text("configuration_server") or next(iter(identity.urls), "")
    found = [Peer("configuration server", url, Role.CONFIGURATION_SERVER, identity.site, "/v1/join")]
    if config.role is Role.PROCESS_SERVER:
        found += gateways(Path(config.text("cache") or config.servers_folder / "cache"))
    if config.role is Role.MOBILITY_SERVICE:
        dialled = {each["process_server"]: each["url"] for each in remembered(config.state)}
        found += [
            Peer(f"process server {name}", url, Role.PROCESS_SERVER, identity.site, PROBE)
            for name, url in sorted(dialled.items())
        ]
    return found


def gateways(caches: Path) -> list[Peer]:
    """Those that this process server's items replicate to."""
    found: dict[str, Peer] = {}
    for path in sorted(caches.glob("*/*/replicate.json"), key=lambda path: path.stat().st_mtime_ns):
        store = json.loads(path.read_bytes())["store"]
        found[store["site"]] = Peer(
            f"process server of {store['site']}",
            store["url"],
            Role.PROCESS_SERVER,
            store["site"],
            PROBE,
            store["token"],
        )
    return [peer for _, peer in sorted(found.items())]


def check(config: Config) -> list[Way]:
    """Try all ways. Raises IdentityMissing, IdentityDamaged."""
    if config.role is Role.VAULT:
        folder = config.state / IDENTITY
        identity = Identity.open(folder) if Identity.exists(folder) else None
    else:
        identity = Identity.open(config.state / IDENTITY)
    return [try_way(peer, identity) for peer in peers(config, identity)]


def try_way(peer: Peer, identity: Identity | None) -> Way:
    way = Way(peer.name, peer.url)
    for step, act in _steps(peer, identity, way):
        begun = time.monotonic()
        try:
            found = act()
        except (OSError, HomeportError, ValueError) as error:
            reason = tls.reason(error)
            way.blocked, way.why = step, _said(reason or error)
            way.remedy = reason.remedy if reason is not None and reason.remedy else REMEDY[step]
            return way
        way.steps[step] = found or f"{(time.monotonic() - begun) * 1000:.1f} ms"
    return way


def _steps(peer: Peer, identity: Identity | None, way: Way) -> Iterator[tuple[str, Callable[[], str]]]:
    parts = urlsplit(peer.url)
    host, port = parts.hostname or "", parts.port or 443

    def name() -> str:
        return ", ".join(sorted({str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}))

    def tcp() -> str:
        begun = time.monotonic()
        socket.create_connection((host, port), SECONDS).close()
        return f"connected in {(time.monotonic() - begun) * 1000:.1f} ms"

    def secured() -> str:
        with _connected(host, port, peer, identity) as connection:
            return f"{connection.version()}, {tls.peer(connection).who.uri}"

    def answer() -> str:
        with _connected(host, port, peer, identity) as connection:
            taken = []
            for _ in range(ROUNDS):
                begun = time.monotonic()
                _ask(connection, host, peer, 0, 0)
                taken.append(time.monotonic() - begun)
        way.latency = statistics.median(taken)
        return f"in {way.latency * 1000:.1f} ms (median of {ROUNDS})"

    def throughput() -> str:
        with _connected(host, port, peer, identity) as connection:
            begun = time.monotonic()
            _ask(connection, host, peer, PROBE_BYTES, 0)
            between = time.monotonic()
            _ask(connection, host, peer, 0, PROBE_BYTES)
            ended = time.monotonic()
        way.up, way.down = PROBE_BYTES / (between - begun), PROBE_BYTES / (ended - between)
        return f"{way.up / 1e6:.1f} MB/s there, {way.down / 1e6:.1f} MB/s back"

    yield from (("name", name), ("tcp", tcp), ("tls", secured), ("answer", answer))
    if peer.token is not None:
        yield "throughput", throughput


def _connected(host: str, port: int, peer: Peer, identity: Identity | None) -> ssl.SSLSocket:
    context = tls.client_context(None) if identity is None else identity.client_context(peer.role, peer.site)
    plain = socket.create_connection((host, port), SECONDS)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _ask(connection: ssl.SSLSocket, host: str, peer: Peer, send: int, receive: int) -> None:
    """One request on the open connection, its answer read whole."""
    head = [f"{'POST' if send else 'GET'} {peer.path}{f'?bytes={receive}' if receive else ''} HTTP/1.1"]
    head += [f"Host: {host}", f"Content-Length: {send}"]
    if peer.token is not None:
        head.append(f"Authorization: Bearer {peer.token}")
    connection.sendall("\r\n".join([*head, "", ""]).encode() + os.urandom(send))
    with connection.makefile("rb") as reader:
        status = reader.readline().split()
        if len(status) < 2 or not status[1].isdigit():
            raise OSError("what answers speaks no HTTP")
        length = 0
        while (line := reader.readline().strip()) and b":" in line:
            field_name, _, value = line.partition(b":")
            if field_name.lower() == b"content-length":
                length = int(value)
        while length > 0 and (piece := reader.read(min(length, 1 << 20))):
            length -= len(piece)
        if length:
            raise OSError("the connection was closed in the middle of an answer")
        if (send or receive) and status[1] not in (b"200", b"204"):
            raise OSError(f"it answers {status[1].decode()}")


def _said(error: BaseException) -> str:
    if isinstance(error, HomeportError):
        return error.cause
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:.0f} s"
    return str(error) or type(error).__name__
