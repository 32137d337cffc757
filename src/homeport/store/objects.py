"""The bucket: what the store needs of an object storage, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from homeport.store.errors import StoreError, StoreUnavailable


class Objects(Protocol):
    """Immutable objects by key. Keys are ``/``-separated names of letters, digits, ``.``, ``_``, ``-`` and ``=``.
    Calls from several threads at once are normal.

    Every verb may raise :class:`~homeport.store.errors.StoreUnavailable`.
    """

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        """Store an object; it is durable and whole when this returns, and whole or absent after a crash.
        Raises AlreadyExists (with ``if_absent``)."""

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        """The same with a file's content, never held in memory as a whole where that can be helped. The file must be
        flushed (fsync) already and never be changed again: in a local folder the object is a hard link to it."""

    def get(self, key: str) -> bytes:
        """Raises NotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer at the object's end. Raises NotFound."""

    def size(self, key: str) -> int:
        """Bytes. Raises NotFound."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """``(key, size)`` of all keys that begin with ``prefix`` ("" or ending in "/"), in order of the keys."""

    def delete(self, key: str) -> None:
        """Absent: fine. After a crash the object may be there again. Raises Locked where the storage keeps it."""


def versioned(objects: Objects) -> bool | None:
    """Does the storage keep what is overwritten or deleted (versions, object lock)? None: it doesn't say.
    May put and delete a small object to find out. Raises StoreUnavailable."""
    ask = getattr(objects, "versioned", None)
    return ask() if ask is not None else None


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
