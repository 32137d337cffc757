"""The other site's recovery store, reached through its gateway; every byte is counted."""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from homeport.servers.crossing import CountedConnection, Crossing
from homeport.servers.object_gateway import OBJECTS, ROOM
from homeport.servers.throttle import Throttle
from homeport.store.errors import AlreadyExists, Locked, NotFound, StoreUnavailable
from homeport.trust import tls

TRIES = 3


class RemoteObjects:
    """Objects over HTTP. One connection per thread; safe from several threads.

    A request whose connection broke is tried again. Every verb may be repeated; a create that is told 'there already'
    by a later try looks whether that is what it brought.
    Raises StoreUnavailable when the gateway can't be reached or says that its store is full.
    """

    def __init__(
        self,
        url: str,
        token: str,
        crossing: Crossing | None = None,
        timeout: float = 60.0,
        context: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        """``context``: for https://. ``throttle``: for what is sent. Raises ValueError."""
        self._throttle = throttle
        parts = urlsplit(url)
        if not parts.hostname or not parts.port or parts.scheme != ("http" if context is None else "https"):
            wanted = "http://HOST:PORT, or https:// with a certificate"
            raise ValueError(f"not a gateway's address: {url!r} (expected {wanted})")
        self._context = context
        self._address = (parts.hostname, parts.port)
        self._token = token
        self._timeout = timeout
        self._local = threading.local()
        self.crossing = crossing or Crossing()
        self._full = False
        """The store had no room the last time."""

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._put(key, data, if_absent)

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        if not path.is_file():
            raise StoreUnavailable(f"can't store {path} as {key}: there is no such file")
        self._put(key, path, if_absent)

    def _put(self, key: str, data: bytes | memoryview | Path, if_absent: bool) -> None:
        headers = {} if if_absent else {"X-Replace": "1"}
        if self._full:
            self._require_room(data.stat().st_size if isinstance(data, Path) else memoryview(data).nbytes)
        try:
            status, _, _ = self._request("PUT", OBJECTS + quote(key), data, headers, lambda: self._holds(key, data))
        except StoreUnavailable as error:
            self._full = self._full or error.code == "store.full"
            raise
        self._full = False
        if status == 412:
            raise AlreadyExists(f"{key} exists", key=key)
        self._expect(status, 201, f"PUT {key}")

    def _require_room(self, size: int) -> None:
        """A full store is tried over and over: what it will refuse must not cross each time."""
        status, _, _ = self._request("GET", f"{ROOM}?bytes={size}", None, {})
        if status != 404:  # it is of an earlier version
            self._expect(status, 204, f"GET {ROOM}")

    def _holds(self, key: str, data: bytes | memoryview | Path) -> bool:
        """Is exactly this there? All that is created holds fresh random bytes: then an earlier try put it."""
        try:
            return self.get(key) == (data.read_bytes() if isinstance(data, Path) else data)
        except NotFound:
            return False

    def get(self, key: str) -> bytes:
        return self._fetch(key, {})

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length <= 0:
            self.size(key)
            return b""
        return self._fetch(key, {"Range": f"bytes={offset}-{offset + length - 1}"})

    def _fetch(self, key: str, headers: dict[str, str]) -> bytes:
        status, _, body = self._request("GET", OBJECTS + quote(key), None, headers)
        if status == 404:
            raise NotFound(key)
        self._expect(status, 206 if headers else 200, f"GET {key}")
        return body

    def size(self, key: str) -> int:
        status, headers, _ = self._request("HEAD", OBJECTS + quote(key), None, {})
        if status == 404:
            raise NotFound(key)
        self._expect(status, 200, f"HEAD {key}")
        return int(headers["Content-Length"])

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        status, _, body = self._request("GET", "/list?" + urlencode({"prefix": prefix}), None, {})
        self._expect(status, 200, f"list {prefix}")
        for line in body.splitlines():
            key, size = json.loads(line)
            yield key, size

    def delete(self, key: str) -> None:
        status, _, _ = self._request("DELETE", OBJECTS + quote(key), None, {})
        self._expect(status, 204, f"DELETE {key}")

    @staticmethod
    def _expect(status: int, wanted: int, what: str) -> None:
        if status != wanted:
            raise StoreUnavailable(f"the recovery store's gateway answered {status} to {what}")

    def _request(
        self,
        verb: str,
        path: str,
        body: bytes | memoryview | Path | None,
        headers: dict[str, str],
        landed: Callable[[], bool] = lambda: False,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """``landed``: whether an earlier try had done it, asked when a later one is refused with 412."""
        headers = {"Authorization": f"Bearer {self._token}", **headers}
        for attempt in range(TRIES):
            connection: CountedConnection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = CountedConnection(
                    *self._address, self._timeout, self.crossing, self._context, self._throttle
                )
                self._local.connection = connection
            try:
                response = _ask(connection, verb, path, body, headers)
                content = response.read()
                connection.count()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                refused = tls.reason(error)
                if refused is not None:
                    raise StoreUnavailable(f"{refused.cause} {refused.remedy}") from error
                if attempt == TRIES - 1:
                    raise StoreUnavailable(
                        f"the recovery store at {self._address[0]}:{self._address[1]} can't be reached: {error}"
                    ) from error
                time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
                continue
            if response.status in (401, 423, 500, 503, 507):
                raise self._refusal(response.status, content)
            if response.status == 412 and attempt and landed():
                return 201, response.headers, b""
            return response.status, response.headers, content
        raise AssertionError("unreachable")

    @staticmethod
    def _refusal(status: int, content: bytes) -> StoreUnavailable:
        if status == 401:
            why = json.loads(content)["cause"] if content else "it is not its token"
            return StoreUnavailable(f"the recovery store's gateway does not let us in: {why}")
        details: Any = json.loads(content) if content else {"cause": f"status {status}", "code": "store.unavailable"}
        if status == 423:
            return Locked(details["cause"], **details["details"])
        return StoreUnavailable(details["cause"], code=details["code"])


def _ask(
    connection: CountedConnection,
    verb: str,
    path: str,
    body: bytes | memoryview | Path | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    try:
        _send(connection, verb, path, body, headers)
    except (ConnectionError, ssl.SSLEOFError) as broken:
        if connection.sock is None:
            raise
        try:
            response = connection.getresponse()  # who refuses a request closes before its body came, and says why
        except (OSError, http.client.HTTPException):
            raise broken from None
        if response.status < 400:
            raise
        return response
    return connection.getresponse()


def _send(
    connection: CountedConnection,
    verb: str,
    path: str,
    body: bytes | memoryview | Path | None,
    headers: dict[str, str],
) -> None:
    if not isinstance(body, Path):
        connection.request(verb, path, body, headers)
        return
    with open(body, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        connection.request(verb, path, file, {**headers, "Content-Length": str(length)})
