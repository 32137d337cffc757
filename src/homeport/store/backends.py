"""Where a bucket can lie: an address, and the objects behind it. What is loaded is what the address needs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from homeport.store.errors import StoreError, StoreUnavailable
from homeport.store.objects import Objects


def open_objects(url: str, *, create: bool = False) -> Objects:
    """The storage at ``file:///path``, ``s3://bucket/prefix``, ``az://account/container/prefix`` or
    ``gs://bucket/prefix``; options and credentials: ``docs/backends.md``.

    Without ``create`` a missing folder is an error, never an empty store: it may be a disk that isn't mounted. A bucket
    is never made here; it is asked once whether it is there. Raises StoreUnavailable, StoreError.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return _open_cloud(url)
    from homeport.store.local import LocalObjects

    if parts.netloc not in ("", "localhost"):
        raise StoreError(
            f"can't open a store at {url!r}",
            code="store.unsupported-url",
            remedy="Give a local folder as file:///path.",
        )
    path = Path(unquote(parts.path))
    if not create and not path.is_dir():
        raise StoreUnavailable(f"there is no folder {path}", remedy="Check the path and that its disk is mounted.")
    return LocalObjects(path)


def _open_cloud(url: str) -> Objects:
    from homeport.store import address as addresses

    address = addresses.parse(url)
    from homeport.store.limiting import Limiting
    from homeport.store.retrying import Retrying
    from homeport.store.tracing import Tracing

    match address.scheme:
        case "s3":
            from homeport.store.s3 import open_s3 as open_kind
        case "az":
            from homeport.store.azure import open_azure as open_kind
        case _:
            from homeport.store.gcs import open_gcs as open_kind
    traced = Tracing(open_kind(address))
    limited = Limiting(traced, rate=address.number("rate"), requests=address.number("requests"))
    objects = Retrying(limited)
    next(objects.list("probe/none/"), None)  # is it there, and may we?
    return objects
