"""``s3://bucket/prefix``: Amazon S3, and what speaks its language with conditional puts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from homeport.store.address import Address, unsupported
from homeport.store.cloud import CloudObjects, client_options, no_retries
from homeport.store.credentials import read_credentials

OPTIONS = {"endpoint", "region", "path-style", "credentials", "timeout", "rate", "requests", "lock-days", "lock-mode"}


class S3Objects(CloudObjects):
    """A bucket keeps old versions only if it says so in each put's answer (``x-amz-version-id``). Object lock needs
    versions, so that a locked bucket says so too."""

    def _is_version(self, version: str | None) -> bool:
        return version is not None


def open_s3(address: Address) -> CloudObjects:
    """Raises StoreError. Nothing is asked of the storage yet."""
    address.refuse_others(OPTIONS)
    endpoint, virtual = _endpoint(address)
    config: Any = {
        **read_credentials(address),
        "virtual_hosted_style_request": virtual,
        "disable_bulk_delete": True,  # one DELETE each: not every server knows the other, and errors stay clear
    }
    if endpoint:
        config["endpoint"] = endpoint
    if region := address.options.get("region"):
        config["region"] = region
    store = S3Store(
        address.bucket,
        prefix=address.prefix or None,
        config=config,
        client_options=client_options(address, endpoint),
        retry_config=no_retries(),
    )
    if days := address.number("lock-days"):
        from homeport.store.s3_lock import LockingS3Objects

        return LockingS3Objects(store, address, days)
    return S3Objects(store, address)


def _endpoint(address: Address) -> tuple[str | None, bool]:
    """Where requests go, and whether the bucket is part of the host's name. With an endpoint the default is path
    style, which servers other than Amazon's all know; a bucket with dots doesn't fit a certificate's host name."""
    endpoint = address.options.get("endpoint")
    virtual = not address.flag("path-style", default=endpoint is not None or "." in address.bucket)
    if endpoint is None:
        return None, virtual
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
        raise unsupported(
            "the endpoint in the store's URL is no http:// or https:// address", "Give https://HOST:PORT."
        )
    if virtual:
        endpoint = f"{parts.scheme}://{address.bucket}.{parts.netloc}{parts.path}"
    return endpoint.rstrip("/"), virtual


def request_endpoint(address: Address, region: str) -> str:
    """Where a request for an object goes, with the bucket in the host's name or the path."""
    endpoint, virtual = _endpoint(address)
    if endpoint is None:
        host = f"s3.{region}.amazonaws.com"
        return f"https://{address.bucket}.{host}" if virtual else f"https://{host}/{address.bucket}"
    return endpoint if virtual else f"{endpoint}/{address.bucket}"
