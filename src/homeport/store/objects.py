"""The bucket: what the store needs of an object storage, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from homeport.store.errors import StoreError, StoreUnavailable


class Objects(Protocol):
    """Immutable objects by key. Keys are ``/``-separated names of letters, digits, ``.``, ``_``, ``-`` and ``%``.

    Every verb may raise :class:`~homeport.store.errors.StoreUnavailable`.
    """

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        """Store an object; it is durable and whole when this returns, and whole or absent after a crash.
        Raises AlreadyExists (with ``if_absent``)."""

    def get(self, key: str) -> bytes:
        """Raises NotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer at the object's end. Raises NotFound."""

    def size(self, key: str) -> int:
        """Bytes. Raises NotFound."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """``(key, size)`` of all keys that begin with ``prefix`` ("" or ending in "/"), in order of the keys."""

    def delete(self, key: str) -> None:
        """Absent: fine."""


def open_objects(url: str, *, create: bool = False) -> Objects:
    """The storage at ``file:///path``. Without ``create`` a missing folder is an error, never an empty store:
    it may be a disk that isn't mounted. Raises StoreUnavailable, StoreError."""
    from homeport.store.local import LocalObjects

    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise StoreError(
            f"this version can't open a store at {url!r}",
            code="store.unsupported-url",
            remedy="Give a local folder as file:///path.",
        )
    path = Path(unquote(parts.path))
    if not create and not path.is_dir():
        raise StoreUnavailable(f"there is no folder {path}", remedy="Check the path and that its disk is mounted.")
    return LocalObjects(path)
