"""Several addresses of one peer: who answers is asked until it is away, then the next.

For instances of one vault, which all know the same. Sent again in the same breath, at the next address, is what never
was sent (no connection came about), and what a gateway before the vault or the vault itself says it can't do now (502
to 504) where it may be done twice: GET, HEAD, and what its caller declares :data:`REPEATABLE`. For who answers 503 may
have lost its database in the middle of a commit, and what stands before it may have waited too short. All else its
caller sees fail, as of a single address; when it asks again, the next instance is asked.

What a configuration server asks of a vault (vault/api/agents.py), by what a second time does there:

    hello             the same executor again: nothing is handed out anew
    work/ID           an outcome that is recorded stays
    report            says all of how things are; of bytes that crossed what was counted since the server began
    inventory         a newer look at the same
    servers           heard of once more
    certificates      a join: the same key gets the certificate that it has; a *renewal* gets one more: not declared
    renewal           a further certificate: not declared, it is due for months and tried again
    configuration-backups   one more is kept, and the oldest drops out: not declared, it is tried again

An Idempotency-Key would make nothing repeatable here: the vault keeps none for what servers ask.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import httpx
import structlog

log = structlog.get_logger(__name__)

_AWAY = frozenset({502, 503, 504})
"""Answers of one that can't do anything now: its database is away, or what stands before it finds nobody."""
REPEATABLE = {"homeport.repeatable": True}
"""``extensions`` of a request that, carried out twice, does what it does once."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)


class NextUrl(httpx.BaseTransport):
    """``urls``: at least one; ``transport``: to any of them. Requests are made for whichever of them."""

    def __init__(self, urls: Sequence[str], transport: httpx.BaseTransport) -> None:
        self._urls = [httpx.URL(url) for url in urls]
        self._transport = transport
        self._lock = threading.Lock()
        self._current = 0
        self._closed = False

    @property
    def current(self) -> str:
        """Whom the next request goes to first."""
        return str(self._urls[self._current])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises the last error where none can be reached; answers the last answer where all are away."""
        repeatable = request.method in ("GET", "HEAD") or "homeport.repeatable" in request.extensions
        for left in range(len(self._urls) - 1, -1, -1):
            with self._lock:
                at = self._current
            try:
                answer = self._transport.handle_request(_moved(request, self._urls[at]))
            except _NOT_SENT as error:
                self._leave(at, str(error))
                if not left:
                    raise
                continue
            except httpx.PoolTimeout:  # its own doing, not the other end's
                raise
            except httpx.TransportError as error:
                self._leave(at, str(error) or type(error).__name__)
                raise
            if answer.status_code not in _AWAY:
                return answer
            self._leave(at, f"it answers {answer.status_code}")
            if not (left and repeatable):
                return answer
            answer.close()
        raise AssertionError("there is no address")

    def _leave(self, at: int, why: str) -> None:
        if len(self._urls) == 1 or self._closed:
            return
        with self._lock:
            if self._current != at:  # another thread found out first
                return
            self._current = (at + 1) % len(self._urls)
        log.warning("goes to the next address", away=str(self._urls[at]), next=self.current, why=why)

    def close(self) -> None:
        self._closed = True
        self._transport.close()


def _moved(request: httpx.Request, to: httpx.URL) -> httpx.Request:
    url = request.url.copy_with(scheme=to.scheme, host=to.host, port=to.port)
    headers = httpx.Headers(request.headers)
    headers["Host"] = url.netloc.decode()
    return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
