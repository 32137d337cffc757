"""Object lock: what a recovery needs is put with a retention, so that nobody deletes it before its time, not even who
holds the store's credentials (mode "compliance": the account's owner neither).

A bucket with object lock has versions. A plain DELETE there only hides an object, and its bytes stay for ever; so
deletes name the version, which the bucket refuses while it is locked. obstore offers neither, so these requests are
made here.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from homeport.store.address import Address, unsupported
from homeport.store.cloud import answered
from homeport.store.credentials import read_credentials
from homeport.store.errors import Locked, NotFound, StoreDenied, StoreUnreachable
from homeport.store.s3 import S3Objects, request_endpoint
from homeport.store.sigv4 import Credentials, canonical_query, signed_headers

_KEPT = re.compile(r"vault/\d+\.json|machines/[^/]+/(key/\d+|t/[^/]+/(timeline|(point|part|segment)/.+))")


def is_kept(key: str) -> bool:
    """What a point can't be read without. Not thinning records: one that met a lease or a fork must be withdrawn
    again."""
    return _KEPT.fullmatch(key) is not None


class LockingS3Objects(S3Objects):
    """``days``: how long each object is kept from when it was put, at least."""

    def __init__(self, store: Any, address: Address, days: int) -> None:
        super().__init__(store, address)
        self._days = days
        self._mode = address.options.get("lock-mode", "governance").upper()
        if self._mode not in ("GOVERNANCE", "COMPLIANCE"):
            raise unsupported("lock-mode in the store's URL is unknown", "Give governance or compliance.")
        self._credentials = _credentials(address)
        self._region = address.options.get("region") or os.environ.get("AWS_REGION", "us-east-1")
        endpoint = urlsplit(request_endpoint(address, self._region))
        self._secure, self._host, self._base = endpoint.scheme == "https", endpoint.netloc, endpoint.path
        self._connections = threading.local()

    def _put(self, key: str, data: memoryview | bytes | Path, if_absent: bool) -> Any:
        if not (if_absent and is_kept(key)):
            return super()._put(key, data, if_absent)
        content = data.read_bytes() if isinstance(data, Path) else data
        digest = hashlib.sha256(content)
        until = datetime.now(UTC) + timedelta(days=self._days)
        headers = {
            "If-None-Match": "*",
            "x-amz-object-lock-mode": self._mode,
            "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
        }
        answer = self._request("PUT", key, {}, headers, content, digest.hexdigest(), "write")
        return {"version": answer.get("x-amz-version-id")}

    def delete(self, key: str) -> None:
        """All versions that are not locked, the newest first. Raises Locked: the object stays, whole and readable."""
        while True:
            try:
                found = self._request("HEAD", key, {}, {}, b"", _EMPTY, "read")
            except NotFound:
                return
            version = found.get("x-amz-version-id")
            if version in (None, "null"):
                super().delete(key)
                return
            until = found.get("x-amz-object-lock-retain-until-date", "")
            hold = found.get("x-amz-object-lock-legal-hold", "") == "ON"
            if hold or (until and _time(until) > datetime.now(UTC)):
                raise Locked(f"{key} is locked until {until or 'its legal hold ends'}", key=key, until=until)
            try:
                self._request("DELETE", key, {"versionId": version}, {}, b"", _EMPTY, "delete")
            except StoreDenied as error:  # another clock than ours, or a retention that we may not read
                raise Locked(
                    f"the storage refuses to delete a version of {key}: it is locked, or the credentials lack the "
                    f"right s3:DeleteObjectVersion",
                    key=key,
                ) from error

    def _request(
        self,
        verb: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes | memoryview,
        sha256: str,
        doing: str,
    ) -> dict[str, str]:
        """The answer's headers, by lower-case names. Raises as all verbs do."""
        path = quote("/".join(part for part in (self._base, self.address.prefix, key) if part), safe="/-_.~")
        signed = signed_headers(
            verb, self._host, path, query, headers, sha256, self._credentials, self._region, datetime.now(UTC)
        )
        target = f"{path}?{canonical_query(query)}" if query else path
        connection = getattr(self._connections, "connection", None) or self._connect()
        try:
            connection.request(verb, target, body or None, signed)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._connections.connection = None
            raise StoreUnreachable(f"can't {doing} {key} at {self.address}: {error!r}") from error
        if answer.status >= 300:
            code = match[1].decode() if (match := re.search(rb"<Code>(\w+)</Code>", content)) else ""
            raise answered(self.address, key, doing, answer.status, code, answer.reason)
        return {name.lower(): value for name, value in answer.getheaders()}

    def _connect(self) -> http.client.HTTPConnection:
        timeout = self.address.number("timeout", 300)
        connection: http.client.HTTPConnection
        if self._secure:
            connection = http.client.HTTPSConnection(self._host, timeout=timeout, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(self._host, timeout=timeout)
        self._connections.connection = connection
        return connection


_EMPTY = hashlib.sha256(b"").hexdigest()


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _credentials(address: Address) -> Credentials:
    table = read_credentials(address) or {
        "access_key_id": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "secret_access_key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "session_token": os.environ.get("AWS_SESSION_TOKEN", ""),
    }
    if not table.get("access_key_id") or not table.get("secret_access_key"):
        raise unsupported(
            "object lock needs an access key: an instance's role is not supported with it",
            "Put access_key_id and secret_access_key into a credentials file; or leave lock-days out, set a default "
            "retention on the bucket, and AWS_CHECKSUM_ALGORITHM=SHA256 in the environment.",
        )
    return Credentials(table["access_key_id"], table["secret_access_key"], table.get("session_token") or None)
