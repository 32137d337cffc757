"""A request to S3 signed with AWS Signature Version 4, for the few headers and subresources that obstore doesn't offer.

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, whose example is a test.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote


@dataclass(frozen=True)
class Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def signed_headers(
    verb: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    payload_sha256: str,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """All headers to send, signature among them. ``path``: quoted, as in the request; ``query``: not quoted;
    ``payload_sha256``: hex, of the body; ``now``: UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    every = {key.lower(): value.strip() for key, value in headers.items()}
    every |= {"host": host, "x-amz-date": stamp, "x-amz-content-sha256": payload_sha256}
    if credentials.session_token:
        every["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(every))
    canonical = "\n".join(
        [
            verb,
            path,
            canonical_query(query),
            *(f"{key}:{every[key]}" for key in sorted(every)),
            "",
            names,
            payload_sha256,
        ]
    )
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + credentials.secret_access_key.encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    every["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope},SignedHeaders={names},Signature={key.hex()}"
    )
    return every


def canonical_query(query: Mapping[str, str]) -> str:
    """As it is signed, and as it must be sent."""
    return "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in sorted(query.items()))
