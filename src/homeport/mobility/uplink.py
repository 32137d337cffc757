"""The way from a mobility service to one process server: it dials, asks for calls, answers them and brings frames."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.mobility.sender import Sender
from homeport.mobility.wire import ANSWER, CUT, FRAMES, POLL, POLL_SECONDS, Call, Json, error_of_json
from homeport.sources.errors import SourceError, ViewBroken
from homeport.sources.hold import Hold
from homeport.trust import tls
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

AGAIN_AFTER = 1.0
CONNECT = 10.0
TIMEOUT = 120.0
"""Seconds without a byte moving after which a connection is given up; one that polls is answered sooner."""
POLL_TIMEOUT = POLL_SECONDS + 10.0
IDLE_MOST = 60.0
"""Seconds after which an idle connection is not used again: the other side may just be closing it."""
TRIES = 3
_BROKEN = (OSError, http.client.HTTPException)


class Uplink:
    """``server``: the name that the process server at ``url`` must have; ``session``: of this process."""

    def __init__(self, server: str, url: str, identity: Identity, sender: Sender, session: str | None = None) -> None:
        self.server, self.url = server, url
        self._identity = identity
        self._sender = sender
        self._session = session or secrets.token_hex(8)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._have: set[str] = set()
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []
        self._polling: http.client.HTTPSConnection | None = None
        self.heard: float | None = None
        """When it answered last (monotonic seconds)."""
        self.trouble = ""
        """Why it can't be talked to."""
        self._thread = threading.Thread(target=self._poll, name=f"uplink-{server}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refresh(self) -> None:
        """What machines are named with it has changed: tell it now, beside the poll that waits."""
        threading.Thread(target=self._announce, name=f"announce-{self.server}", daemon=True).start()

    def _announce(self) -> None:
        try:
            self.ask(POLL, {**self._told(), "wait": 0})
        except (*_BROKEN, HomeportError) as error:
            log.debug("not announced", server=self.server, reason=str(error))  # the next poll tells it

    def stop(self) -> None:
        self._stop.set()
        polling = self._polling
        if polling is not None and polling.sock is not None:
            with suppress(OSError):
                polling.sock.shutdown(socket.SHUT_RDWR)
        self._drop_idle()

    # ── asking for calls ────────────────────────────────────────────────────────────────────────────────────────

    def _poll(self) -> None:
        connection: http.client.HTTPSConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self._connect(POLL_TIMEOUT)
                self._check(connection)
                self._polling = connection
                answer = _ask(connection, POLL, self._told())
                self.heard, self.trouble = time.monotonic(), ""
                self._sender.renew(self.server, answer["open"])
                for call in answer["calls"]:
                    self._accept(Call.from_json(call))
            except Exception as error:  # whatever it is: who polls no more is gone for good
                self._polling = None
                if connection is not None:
                    connection.close()
                connection = None
                self._drop_idle()  # they broke with it
                if self._stop.is_set():
                    break
                reason = tls.reason(error) or error
                told = reason.cause if isinstance(reason, HomeportError) else str(reason) or type(reason).__name__
                if told != self.trouble:
                    log.warning("the process server can't be reached", server=self.server, url=self.url, reason=told)
                self.trouble = told
                self._stop.wait(AGAIN_AFTER)
        if connection is not None:
            connection.close()

    def _told(self) -> Json:
        named = self._sender.named
        mine = {vm: one.fence for vm, one in named.items() if (one.process_server, one.url) == (self.server, self.url)}
        with self._lock:
            have = sorted(self._have)
        return {"session": self._session, "machines": mine, "have": have, "wait": POLL_SECONDS}

    def _accept(self, call: Call) -> None:
        with self._lock:
            if call.id in self._have:
                return
            self._have.add(call.id)
        threading.Thread(target=self._carry_out, args=(call,), name=f"{call.name}-{call.vm}", daemon=True).start()

    def _carry_out(self, call: Call) -> None:
        try:
            try:
                result = self._sender.carry_out(
                    self.server, call, lambda body: self._bring(call.args["stream"], body), lambda: _Cut(self, call.id)
                )
                answer: Json = {"id": call.id, "result": result}
            except HomeportError as error:
                answer = {"id": call.id, "error": error.to_json()}
            except Exception as error:
                log.exception("a call failed", call=call.name, vm=call.vm)
                internal = SourceError(f"{type(error).__name__}: {error}", code="internal")
                answer = {"id": call.id, "error": internal.to_json()}
            for attempt in range(TRIES):
                try:
                    self.ask(ANSWER, answer)
                    return
                except (*_BROKEN, HomeportError) as error:
                    log.info("answer not delivered", server=self.server, call=call.name, reason=str(error))
                    if self._stop.wait(0.2 * 2**attempt):
                        return
        finally:
            with self._lock:
                self._have.discard(call.id)

    # ── connections ─────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, path: str, body: Json) -> Json:
        """One request on a connection of its own. Raises OSError, HTTPException, and what the other side refuses."""
        connection = self._take()
        try:
            answer = _ask(connection, path, body)
        except _BROKEN:
            connection.close()
            raise
        except HomeportError:
            self._give(connection)
            raise
        self._give(connection)
        return answer

    def _bring(self, stream: str, frames: list[bytes]) -> None:
        """A body that did not arrive whole is not sent again: who waits for it has seen it break, and the view with
        it. Raises ViewBroken, and what the other side says."""
        headers = {"Content-Length": str(sum(map(len, frames))), "Content-Type": "application/octet-stream"}
        try:
            connection = self._take()
        except _BROKEN as error:
            raise ViewBroken(f"the process server {self.server} can't be reached: {error}") from error
        try:
            connection.request("POST", FRAMES + stream, iter(frames), headers)
            _read(connection)
        except _BROKEN as error:
            connection.close()
            raise ViewBroken(f"frames did not reach the process server {self.server}: {error}") from error
        except HomeportError:
            connection.close()  # it may not have read all that was sent
            raise
        self._give(connection)

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _take(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE_MOST:
                    break
                connection.close()
            else:
                connection = None
        if connection is None:
            return self._connect()
        self._check(connection)
        return connection

    def _give(self, connection: http.client.HTTPSConnection) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _connect(self, timeout: float = TIMEOUT) -> http.client.HTTPSConnection:
        """Raises OSError (see tls.reason) and WrongPeer: another process server than the one that is named."""
        parts = urlsplit(self.url)
        connection = self._identity.http_connection(
            parts.hostname or "", parts.port or 443, Role.PROCESS_SERVER, self._identity.site, CONNECT
        )
        connection.connect()
        try:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sock.settimeout(timeout)
        except BaseException:
            connection.close()
            raise
        connection.auto_open = 0  # who is at the other end is looked at for this connection
        self._check(connection)
        return connection

    def _check(self, connection: http.client.HTTPSConnection) -> None:
        """Each time: it may have been revoked meanwhile. Raises WrongPeer, CertificateRevoked, CertificateExpired; the
        connection is closed then."""
        try:
            if connection.sock is None:
                raise http.client.NotConnected
            who = self._identity.check_peer(connection.sock, Role.PROCESS_SERVER, self._identity.site).who
            if who.name != self.server:
                raise tls.WrongPeer(f"{who.uri} answers in place of {self.server}.", peer=who.uri)
        except BaseException:
            connection.close()
            raise


class _Cut:
    """An instant that is shared with other machines, whose meeting is at the process server: it is asked what to do at
    each step."""

    def __init__(self, uplink: Uplink, call: str) -> None:
        self._uplink = uplink
        self._path = CUT + call

    def _step(self, said: Json) -> Json:
        try:
            return self._uplink.ask(self._path, said)
        except _BROKEN as error:
            raise SourceError(f"the process server went away while machines met: {error}") from error

    def assemble(self) -> None:
        self._step({"step": "assemble"})

    def take(self, hold: Hold, switch: Callable[[], None]) -> datetime:
        acts: dict[str, Callable[[], None]] = {"hold": hold.hold, "release": hold.release, "switch": switch}
        order = self._step({"step": "take"})
        held, raised = False, None
        try:
            while order["do"] != "done":
                said: Json = {"step": "did"}
                try:
                    acts[order["do"]]()
                    held = order["do"] == "hold" or (held and order["do"] != "release")
                except HomeportError as error:
                    said["error"] = error.to_json()
                    if order["do"] == "switch":
                        raised = error
                order = self._step(said)
        except BaseException:
            if held:
                with suppress(HomeportError):
                    hold.release()
            raise
        if raised is None and "error" in order:
            raised = error_of_json(order["error"])
        if raised is not None:
            raise raised
        return datetime.fromisoformat(order["instant"])


def _ask(connection: http.client.HTTPSConnection, path: str, body: Json) -> Json:
    connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return _read(connection)


def _read(connection: http.client.HTTPSConnection) -> Json:
    response = connection.getresponse()
    content = response.read()
    try:
        data: Any = json.loads(content) if content else {}
    except ValueError as error:
        raise http.client.HTTPException(f"status {response.status} and no JSON") from error
    if response.status >= 400:
        if not isinstance(data, dict) or "code" not in data:
            raise http.client.HTTPException(f"status {response.status}")
        raise error_of_json(data)
    return data if isinstance(data, dict) else {}
