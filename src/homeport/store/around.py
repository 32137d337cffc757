"""Objects around other objects: what all decorators share. They stack: ``Retrying(Limiting(Tracing(S3Objects)))``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from homeport.store.local import unavailable
from homeport.store.objects import Objects, versioned

T = TypeVar("T")


class Around:
    """Passes each call through :meth:`_call`, but a list, whose entries come one by one."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def _call(self, verb: str, key: str, sent: int, action: Callable[[], T]) -> T:
        """``sent``: bytes that go to the storage."""
        return action()

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._call("put", key, len(data), lambda: self.inner.put(key, data, if_absent=if_absent))

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise unavailable(error, f"can't store {path} as {key}") from error
        self._call("put", key, size, lambda: self.inner.put_file(key, path, if_absent=if_absent))

    def get(self, key: str) -> bytes:
        return self._call("get", key, 0, lambda: self.inner.get(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._call("get", key, 0, lambda: self.inner.get_range(key, offset, length))

    def size(self, key: str) -> int:
        return self._call("head", key, 0, lambda: self.inner.size(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._call("delete", key, 0, lambda: self.inner.delete(key))

    def versioned(self) -> bool | None:
        return versioned(self.inner)
