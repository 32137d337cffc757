"""``gs://bucket/prefix``: Google Cloud Storage."""

from __future__ import annotations

from typing import Any

from obstore.store import GCSStore

from homeport.store.address import Address
from homeport.store.cloud import CloudObjects, client_options, no_retries
from homeport.store.credentials import read_credentials

OPTIONS = {"endpoint", "credentials", "timeout", "rate", "requests"}


class GcsObjects(CloudObjects):
    """A put's answer always has a generation, whether old ones are kept or not."""

    def _is_version(self, version: str | None) -> None:
        return None


def open_gcs(address: Address) -> CloudObjects:
    """Raises StoreError. Nothing is asked of the storage yet."""
    address.refuse_others(OPTIONS)
    endpoint = address.options.get("endpoint")
    config: Any = dict(read_credentials(address))
    if endpoint:
        config["base_url"] = endpoint.rstrip("/")
    store = GCSStore(
        address.bucket,
        prefix=address.prefix or None,
        config=config,
        client_options=client_options(address, endpoint),
        retry_config=no_retries(),
    )
    return GcsObjects(store, address)
