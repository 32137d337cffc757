"""The bucket: what the store needs of an object storage, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


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


def require_room(objects: Objects, size: int) -> None:
    """Raises StoreUnavailable (``store.full``) where it is certain that ``size`` bytes don't fit: a storage that can't
    tell has room."""
    ask = getattr(objects, "require_room", None)
    if ask is not None:
        ask(size)


def versioned(objects: Objects) -> bool | None:
    """Does the storage keep what is overwritten or deleted (versions, object lock)? None: it doesn't say.
    May put and delete a small object to find out. Raises StoreUnavailable."""
    ask = getattr(objects, "versioned", None)
    return ask() if ask is not None else None
