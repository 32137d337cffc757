"""The way from a mobility service to one process server: it dials, asks for calls, answers them and brings frames.

A call that comes late can do harm: a machine would be powered off, or its guest shut down, for a failover that was
given up hours ago, while the host was suspended or the call waited its turn; "begin", "recover" or "commit" of an
earlier session would end the views of the one that goes on (no change is lost: what they do to a tracker gives it
another incarnation, and the next point compares digests). So no call is begun more than
:data:`~homeport.mobility.wire.CALL_MOST` seconds after it was last known to be waited for, and none that the process
server has said it doesn't wait for. This takes one clock, the own: a call was handed out after the poll was sent that
brought it, and each later poll that names it is told whether it is still wanted. A poll takes POLL_SECONDS at most, and
a process server gives up what it asked of a mobility service that it hasn't heard for 5 (source_exchange.GONE_AFTER):
what is refused for its age nobody waits for. "Begun": once it is, its outcome is unknown to who gave it up, as ever.
"""

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
from homeport.mobility.wire import ANSWER, CALL_MOST, CUT, FRAMES, POLL, POLL_SECONDS, Call, Json, error_of_json
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
_WITHDRAWN = float("-inf")


def boot_time() -> float:
    """Seconds, those too for which the machine was suspended: the monotonic clock leaves these out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Uplink:
    """``server``: the name that the process server at ``url`` must have; ``session``: of this process."""

    def __init__(
        self,
        server: str,
        url: str,
        identity: Identity,
        sender: Sender,
        session: str | None = None,
        *,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.server, self.url = server, url
        self._identity = identity
        self._sender = sender
        self._session = session or secrets.token_hex(8)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._clock = clock
        self._have: dict[str, float] = {}
        """Calls in hand: when a poll was sent whose answer said that they are waited for."""
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
                told, sent = self._told(), self._clock()
                answer = _ask(connection, POLL, told)
                self.heard, self.trouble = time.monotonic(), ""
                self._sender.renew(self.server, answer["open"])
                self._hear_of_calls(told["have"], answer.get("wanted"), sent)
                for call in answer["calls"]:
                    self._accept(Call.from_json(call), sent)
            except Exception as error:  # whatever it is: who polls no more is gone for good
                self._polling = None
                if connection is not None:
                    connection.close()
                connection = None
                self._drop_idle()  # they broke with it
                if self._stop.is_set():
                    break
                reason = tls.reason(error) or error
                said = reason.cause if isinstance(reason, HomeportError) else str(reason) or type(reason).__name__
                if said != self.trouble:
                    log.warning("the process server can't be reached", server=self.server, url=self.url, reason=said)
                self.trouble = said
                self._stop.wait(AGAIN_AFTER)
        if connection is not None:
            connection.close()

    def _told(self) -> Json:
        named = self._sender.named
        mine = {vm: one.fence for vm, one in named.items() if (one.process_server, one.url) == (self.server, self.url)}
        with self._lock:
            have = sorted(self._have)
        return {"session": self._session, "machines": mine, "have": have, "wait": POLL_SECONDS}

    def _hear_of_calls(self, told: list[str], wanted: list[str] | None, sent: float) -> None:
        if wanted is None:  # it is of an earlier version
            return
        with self._lock:
            for id in self._have.keys() & set(told):
                self._have[id] = sent if id in wanted else _WITHDRAWN

    def _must_be_wanted(self, call: Call) -> None:
        """Raises ViewBroken."""
        with self._lock:
            since = self._have[call.id]
        if self._clock() - since > CALL_MOST:
            raise ViewBroken(
                f"the call {call.name!r} comes too late: {self.server} may have given it up",
                remedy="Nothing is lost: what is still wanted is asked for again.",
            )

    def _accept(self, call: Call, sent: float) -> None:
        with self._lock:
            if call.id in self._have:
                return
            self._have[call.id] = sent
        threading.Thread(target=self._carry_out, args=(call,), name=f"{call.name}-{call.vm}", daemon=True).start()

    def _carry_out(self, call: Call) -> None:
        try:
            try:
                result = self._sender.carry_out(
                    self.server,
                    call,
                    lambda body: self._bring(call.args["stream"], body),
                    lambda: _Cut(self, call.id),
                    lambda: self._must_be_wanted(call),
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
                self._have.pop(call.id, None)

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
