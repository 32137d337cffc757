"""A bucket in memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from homeport.store.errors import AlreadyExists, NotFound
from homeport.store.local import unavailable


class MemoryObjects:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        with self._lock:
            if if_absent and key in self.objects:
                raise AlreadyExists(f"{key} exists", key=key)
            self.objects[key] = bytes(data)

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unavailable(error, f"can't store {path} as {key}") from error
        self.put(key, data, if_absent=if_absent)

    def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(f"{key} is not there", key=key) from None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.get(key)[offset : offset + max(length, 0)]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._lock:
            found = sorted((key, len(data)) for key, data in self.objects.items() if key.startswith(prefix))
        yield from found

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)

    def versioned(self) -> bool:
        return False
