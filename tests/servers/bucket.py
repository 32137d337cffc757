"""A bucket in a folder, in plain Python: unlike the real one it makes no threads, so that tests may fork beside it."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from homeport.domain.points import PointId
from homeport.store import MachineKey, MachineStore
from homeport.store.errors import AlreadyExists, NotFound, StoreUnavailable

KEYS = MachineKey("11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", bytes(range(32)))


class FolderObjects:
    """``down``: it can't be reached. ``sent``: bytes put; ``again``: of these, what was there already.
    ``answers``: while it isn't set, a put takes for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.down = False
        self.sent = 0
        self.again = 0
        self.answers = threading.Event()
        self.answers.set()

    def _path(self, key: str) -> Path:
        if self.down:
            raise StoreUnavailable("the test's store is down")
        return self.folder / quote(key, safe="")

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self.answers.wait()
        path = self._path(key)
        draft = self.folder / f".{secrets.token_hex(8)}"
        draft.write_bytes(data)
        self.sent += len(data)
        if not if_absent:
            draft.replace(path)
            return
        try:
            os.link(draft, path)
        except FileExistsError:
            self.again += len(data)
            raise AlreadyExists(key) from None
        finally:
            draft.unlink()

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        self.put(key, path.read_bytes(), if_absent=if_absent)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise NotFound(key, key=key) from None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.get(key)[offset : offset + length]

    def size(self, key: str) -> int:
        return len(self.get(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._path(prefix)
        keys = sorted(unquote(path.name) for path in self.folder.iterdir() if not path.name.startswith("."))
        yield from ((key, self.size(key)) for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)


def read_point(store: MachineStore, point: PointId) -> dict[str, bytes]:
    reader = store.open(point)
    return {disk: reader.read(disk, 0, size) for disk, size in reader.disks.items()}
