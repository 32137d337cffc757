"""Objects of a cloud storage, through obstore's synchronous API on the caller's threads (its asynchronous one may
abort the interpreter at exit). What each kind needs beside is in ``s3.py``, ``azure.py`` and ``gcs.py``.

obstore never retries here (``store/retrying.py`` does, knowing what a repeated create may find), and puts in one
request: a conditional put has no parts. Its errors tell little by their class and more by their text, seen with 0.12.1
against moto and Azurite: any 409 is an AlreadyExistsError, a missing bucket a FileNotFoundError.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError

from homeport.store.address import Address
from homeport.store.errors import (
    AlreadyExists,
    Locked,
    NotFound,
    StoreDenied,
    StoreError,
    StoreThrottled,
    StoreUnavailable,
    StoreUnreachable,
    StoreUnsuitable,
)

PAGE = 1000
"""Keys of one list request; all three kinds of storage answer no more by default."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z]+)\s*</Code>|\(code: (\d{3})\)")
_QUERY = re.compile(r"\?[^\s\"')]*")

_MACHINES_OWN = "//169.254.169.254/"
"""Where obstore asks for the role of a cloud's machine when it has nothing else; here, nobody answered there."""

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_EXISTS = {"BlobAlreadyExists"}
_LOCKED = {"BlobImmutableDueToPolicy", "RetentionPolicyNotMet", "ObjectUnderActiveHold", "ObjectLocked"}
_THROTTLED = {"SlowDown", "ServerBusy", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
_AGAIN = {  # sent with 4xx, and yet another try may succeed: partial uploads, and creates that met another's request
    *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "Md5Mismatch"),
    *("ConditionalRequestConflict", "OperationAborted"),
}


def client_options(address: Address, endpoint: str | None) -> Any:
    """Time limits for one request: a segment of 64 MiB passes in the default of 300 s at 2 Mbit/s."""
    return {
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=10),
        "timeout": timedelta(seconds=address.number("timeout", 300)),
    }


def no_retries() -> Any:
    return {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}


class CloudObjects:
    """See :class:`homeport.store.objects.Objects`. ``store``: obstore's, with the address's prefix."""

    def __init__(self, store: Any, address: Address) -> None:
        self._store = store
        self.address = address

    def __repr__(self) -> str:
        return f"CloudObjects({str(self.address)!r})"

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._put(key, memoryview(data).cast("B") if data else b"", if_absent)

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        self._put(key, path, if_absent)

    def _put(self, key: str, data: memoryview | bytes | Path, if_absent: bool) -> Any:
        try:
            return obstore.put(self._store, key, data, mode="create" if if_absent else "overwrite", use_multipart=False)
        except (BaseError, OSError) as error:
            raise self._error(error, key, "write") from None

    def get(self, key: str) -> bytes:
        try:
            found = obstore.get(self._store, key)
            size = int(found.meta["size"])
            data = bytes(found.bytes())
        except (BaseError, OSError) as error:
            raise self._error(error, key, "read") from None
        if len(data) != size:
            raise StoreUnreachable(f"{self.address} sent {len(data)} of the {size} bytes of {key}")
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length <= 0:
            self.size(key)
            return b""
        try:
            return bytes(obstore.get_range(self._store, key, start=offset, length=length))
        except (BaseError, OSError) as error:
            text = str(error)
            if "status code: 416" in text or "StartTooLarge" in text:  # it begins behind the object's end
                return b""
            raise self._error(error, key, "read") from None

    def size(self, key: str) -> int:
        try:
            return int(obstore.head(self._store, key)["size"])
        except (BaseError, OSError) as error:
            raise self._error(error, key, "read") from None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As the storage lists them; raises StoreUnsuitable when that isn't in order."""
        last = ""
        try:
            for page in obstore.list(self._store, prefix.rstrip("/") or None, chunk_size=PAGE):
                for item in page:
                    key = item["path"]
                    if key <= last:
                        raise StoreUnsuitable(f"{self.address} lists {key} after {last}")
                    last = key
                    yield key, int(item["size"])
        except (BaseError, OSError) as error:
            raise self._error(error, prefix, "list") from None

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except (BaseError, OSError) as error:
            failure = self._error(error, key, "delete")
            if not isinstance(failure, NotFound):
                raise failure from None

    def versioned(self) -> bool | None:
        """Does the bucket keep what is overwritten or deleted? None: the storage doesn't say."""
        key = f"probe/{secrets.token_hex(8)}"
        try:
            version = self._put(key, b"homeport probe", True)["version"]
        finally:
            self.delete(key)
        return self._is_version(version)

    def _is_version(self, version: str | None) -> bool | None:
        """Of a put's answer. None of it says nothing by itself: what is deleted may be kept in other ways."""
        return True if version else None

    def _error(self, error: BaseException, key: str, verb: str) -> StoreError:
        """What obstore's error means. Of its text one line is told, without query strings: they may be signatures. (So
        it isn't raised "from" it either.)"""
        text = str(error)
        status = int(match[1]) if (match := _STATUS.search(text)) else 0
        code = next((a for a, _ in _CODE.findall(text) if a), "")
        status = status or next((int(b) for _, b in _CODE.findall(text) if b), 0)
        if _MACHINES_OWN in text:
            return StoreDenied(f"there are no credentials for {self.address}: no file, none in the environment")
        if "NotPartial" in text:
            return StoreUnsuitable(f"{self.address} answers a ranged read with the whole object")
        first = _QUERY.sub("", (text.splitlines() or [repr(error)])[0])[:300]
        if isinstance(error, FileNotFoundError):
            status = status or 404
        return answered(self.address, key, verb, status, code, first)


def answered(address: Address, key: str, verb: str, status: int, code: str, text: str) -> StoreError:
    """The error for a storage's answer. ``verb``: "write", "read", "list" or "delete"; ``status``: 0 if there was no
    answer; ``code``: the storage's own word for it, or ""."""
    said = f"can't {verb} {key or 'keys'} at {address}: {code or text}" + (f" ({status})" if status else "")
    if code in _NO_BUCKET:
        return StoreUnavailable(f"there is no bucket {address.bucket!r} for {address} ({code})")
    if code in _LOCKED:
        return Locked(f"{key} is kept by the storage's retention ({code})", key=key)
    if code in _THROTTLED or status in (429, 503):
        return StoreThrottled(said)
    if code in _AGAIN or not status or status == 408:
        return StoreUnreachable(said)
    if status == 404 and verb != "write":
        return NotFound(f"{key} is not there", key=key)
    if verb == "write" and (code in _EXISTS or status == 412 or (status == 409 and not code)):
        return AlreadyExists(f"{key} exists", key=key)
    if status in (401, 403):
        return StoreDenied(said)
    if status == 507 or code == "XMinioStorageFull":
        return StoreUnavailable(said, code="store.full", remedy="Free space at the storage, or shorten the retention.")
    return StoreUnreachable(said) if status >= 500 else StoreUnavailable(said)
