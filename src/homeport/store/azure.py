"""``az://account/container/prefix``: Azure Blob Storage."""

from __future__ import annotations

from typing import Any

from obstore.store import AzureStore

from homeport.store.address import Address
from homeport.store.cloud import CloudObjects, client_options, no_retries
from homeport.store.credentials import read_credentials

OPTIONS = {"endpoint", "credentials", "timeout", "rate", "requests"}


def open_azure(address: Address) -> CloudObjects:
    """Raises StoreError. Nothing is asked of the storage yet."""
    address.refuse_others(OPTIONS)
    endpoint = address.options.get("endpoint")
    config: Any = {**read_credentials(address), "account_name": address.account}
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    store = AzureStore(
        address.bucket,
        prefix=address.prefix or None,
        config=config,
        client_options=client_options(address, endpoint),
        retry_config=no_retries(),
    )
    return CloudObjects(store, address)
