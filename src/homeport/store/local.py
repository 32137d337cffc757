"""A bucket in a local folder, through obstore's LocalStore, with durability of our own.

Tried with strace (obstore 0.12.1): ``put`` writes ``KEY#1`` and renames it (``create``: links it, so that an existing
key is never touched); ``copy(overwrite=False)`` is one ``link``; nothing is ever fsynced. A linked file whose content
isn't on the disk yet could be found torn after a power cut. So: put under a staging name, fsync the file, link it to
its key, fsync the folders. A key that exists is whole, whenever the power goes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from homeport.store.errors import AlreadyExists, NotFound, StoreUnavailable

STAGING = ".homeport-staging"
_STALE_AFTER = 86400.0
_OS_ERROR = re.compile(r"os error (\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger(__name__)


def fsync_path(path: Path) -> None:
    """Flush a file's or folder's content to its disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unavailable(error: BaseException, what: str) -> StoreUnavailable:
    """The operator's error for an I/O error: ``store.full`` or ``store.unavailable``."""
    number = getattr(error, "errno", None)
    if number is None and (match := _OS_ERROR.search(str(error))):
        number = int(match[1])
    first = (str(error).splitlines() or [repr(error)])[0]
    if number in _FULL:
        return StoreUnavailable(
            f"{what}: no space left ({first})",
            code="store.full",
            remedy="Free space where the store lies, or shorten the retention. Replication goes on by itself.",
        )
    return StoreUnavailable(f"{what}: {first}")


class LocalObjects:
    """See :class:`homeport.store.objects.Objects`. The folder is made by the first put."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._store: Any = None
        self._lock = threading.Lock()
        self._durable: set[Path] = set()

    def __repr__(self) -> str:
        return f"LocalObjects({str(self.path)!r})"

    def _open(self) -> Any:
        """obstore's handle, made when the folder is there."""
        if self._store is None:
            if not self.path.is_dir():
                raise NotFound(f"there is no folder {self.path}", key="")
            self._store = LocalStore(self.path)
        return self._store

    def _begin(self) -> None:
        """Make the folder durable and clear staged leftovers of long-dead processes, once."""
        with self._lock:
            if self.path in self._durable:
                if not self.path.is_dir():  # taken away under us: making it anew would look like an empty store
                    raise StoreUnavailable(f"there is no folder {self.path} any more")
                return
            staging = self.path / STAGING
            try:
                staging.mkdir(parents=True, exist_ok=True)
                for leftover in staging.iterdir():
                    if leftover.stat().st_mtime < time.time() - _STALE_AFTER:
                        leftover.unlink(missing_ok=True)
                for folder in (self.path, *self.path.parents):
                    fsync_path(folder)
                    if folder == folder.parent or os.path.ismount(folder):
                        break
            except OSError as error:
                raise unavailable(error, f"can't write to {self.path}") from error
            self._durable.add(self.path)

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._begin()
        staged = f"{STAGING}/{secrets.token_hex(12)}"
        target = self.path / key
        try:
            store = self._open()
            try:
                obstore.put(store, staged, data, mode="overwrite", use_multipart=False)
                fsync_path(self.path / staged)
                if if_absent:
                    obstore.copy(store, staged, key, overwrite=False)
                else:
                    obstore.rename(store, staged, key, overwrite=True)
            finally:
                (self.path / staged).unlink(missing_ok=True)
            self._sync_folders(target.parent)
        except AlreadyExistsError:
            # Its content was fsynced before it was linked; its name perhaps not, had that writer died just then.
            self._sync_folders(target.parent)
            raise AlreadyExists(f"{key} exists", key=key) from None
        except (BaseError, OSError) as error:
            raise unavailable(error, f"can't write {key}") from error

    def _sync_folders(self, folder: Path) -> None:
        """Flush the folder that a name was put into; those above too when this process first meets them."""
        fsync_path(folder)
        with self._lock:
            above = []
            while folder not in self._durable:
                above.append(folder)
                folder = folder.parent
        for known in above:
            fsync_path(known.parent)
        with self._lock:
            self._durable.update(above)

    def _failed(self, error: BaseException, key: str) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            if not self.path.is_dir():
                raise StoreUnavailable(f"there is no folder {self.path} any more") from None
            raise NotFound(f"{key} is not there", key=key) from None
        raise unavailable(error, f"can't read {key}") from error

    def get(self, key: str) -> bytes:
        try:
            return bytes(obstore.get(self._open(), key).bytes())
        except (BaseError, OSError) as error:
            self._failed(error, key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if length <= 0:
            return b""
        try:
            return bytes(obstore.get_range(self._open(), key, start=offset, length=length))
        except (BaseError, OSError) as error:
            if "Requested range was invalid" in str(error):
                return b""
            self._failed(error, key)

    def size(self, key: str) -> int:
        try:
            return int(obstore.head(self._open(), key)["size"])
        except (BaseError, OSError) as error:
            self._failed(error, key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if not self.path.is_dir():
            if self._store is not None:
                raise StoreUnavailable(f"there is no folder {self.path} any more")
            return
        folder = prefix.rstrip("/")
        if folder and not (self.path / folder).is_dir():
            return
        found: list[tuple[str, int]] = []
        try:
            for chunk in obstore.list(self._open(), folder or None):
                found.extend((item["path"], int(item["size"])) for item in chunk)
        except (BaseError, OSError) as error:
            raise unavailable(error, f"can't list {prefix}") from error
        yield from sorted(item for item in found if item[0].startswith(prefix) and not item[0].startswith(STAGING))

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._open(), key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise unavailable(error, f"can't delete {key}") from error

    def free(self) -> int:
        """Bytes free where the store lies."""
        return shutil.disk_usage(self.path).free
