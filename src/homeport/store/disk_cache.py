"""Ranges of segments kept in a local folder, for stores that are far: sealed, as they lie in the store.

A range is a file of its own, named by the hash of what it is a range of, written aside and renamed: whole or absent,
also after a crash of this process. Nothing is fsynced. After a power cut a file may hold anything: a header tells most
of that, the authentication of the frames all of it, and whoever finds a range damaged has it dropped and asks the
store. So the folder is never trusted, several processes share it without a word, and it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from homeport.domain.logs import get_logger
from homeport.store.errors import StoreError
from homeport.store.objects import Objects
from homeport.store.ranges import Range, RangeCache, get_ranges

log = get_logger(__name__)

FOLDER = "homeport-sealed-frames"
_HEADER = struct.Struct("<8sII")  # magic, length of what follows, its CRC32
_MAGIC = b"HPCACHE1"
_TRIMMED = 0.9
_STALE_SECONDS = 3600.0
_TOUCH_SECONDS = 60.0


class DiskCache:
    """Bytes by name in ``folder``, about ``limit`` bytes of them: what was used last stays. Thread-safe; shared by
    processes, each of which may exceed the limit by a sixteenth before it looks. An error of the disk is a miss."""

    def __init__(self, folder: Path, limit: int) -> None:
        """The files lie in a folder of their own below ``folder``, which is made if need be (0700). Raises StoreError
        (``store.cache-folder``: it can't be used, or another user's)."""
        self._path = folder.absolute() / FOLDER
        self._limit = limit
        self._lock = threading.Lock()
        self._written = 0
        self._told = False
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise PermissionError("it is another user's")
            self._path.chmod(0o700)
        except OSError as error:
            raise StoreError(
                f"the cache folder {self._path} can't be used: {error.strerror or error}",
                code="store.cache-folder",
                remedy="Give a folder that this user can write to, with --cache-dir, or none.",
            ) from error
        self.trim()

    def _file(self, name: str) -> Path:
        hashed = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self._path / hashed[:2] / hashed[2:]

    def get(self, name: str) -> memoryview | None:
        path = self._file(name)
        try:
            with path.open("rb", buffering=0) as file:
                data = file.readall() or b""
                if time.time() - os.fstat(file.fileno()).st_mtime > _TOUCH_SECONDS:
                    os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(error)
            return None
        body = memoryview(data)[_HEADER.size :]
        if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (_MAGIC, len(body), zlib.crc32(body)):
            self.drop(name)
            return None
        return body

    def put(self, name: str, data: memoryview) -> None:
        path = self._file(name)
        staged = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                header = _HEADER.pack(_MAGIC, len(data), zlib.crc32(data))
                if os.writev(file, [header, data]) != len(header) + len(data):
                    raise OSError("written in part")  # the disk is full
            finally:
                os.close(file)
            staged.rename(path)
        except OSError as error:
            self._tell(error)
            with contextlib.suppress(OSError):
                staged.unlink()
            return
        with self._lock:
            self._written += len(data) + _HEADER.size
            full = self._written > self._limit // 16
            if full:
                self._written = 0
        if full:
            self.trim()

    def drop(self, name: str) -> bool:
        """Whether it was there."""
        try:
            self._file(name).unlink()
        except OSError:
            return False
        return True

    def trim(self) -> None:
        """Down to nine tenths of the limit where it is exceeded: what wasn't used for longest goes. One process at a
        time; the others go on."""
        try:
            with (self._path / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                self._trim()
        except OSError as error:
            self._tell(error)

    def _trim(self) -> None:
        files = []
        total = 0
        for folder in self._path.iterdir():
            if len(folder.name) != 2:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if entry.name.startswith(".") and found.st_mtime < time.time() - _STALE_SECONDS:
                            os.unlink(entry.path)  # its writer died
                            continue
                        files.append((found.st_mtime, found.st_size, entry.path))
                        total += found.st_size
        if total <= self._limit:
            return
        for _, size, path in sorted(files):
            if total <= self._limit * _TRIMMED:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size

    def _tell(self, error: OSError) -> None:
        """Once: it goes on without the cache."""
        if not self._told:
            self._told = True
            log.warning("the cache folder fails; the store is asked instead", folder=str(self._path), reason=str(error))


class CachedObjects(RangeCache):
    """Objects whose ranges of segments are kept in a :class:`DiskCache`; everything else passes. See
    :class:`homeport.store.objects.Objects` and :class:`homeport.store.ranges.RangeCache`."""

    def __init__(self, inner: Objects, cache: DiskCache, store: str) -> None:
        """``store``: names the store (its URL), so that several may share a folder."""
        self._inner = inner
        self._cache = cache
        self._store = store
        self.put = inner.put
        self.put_file = inner.put_file
        self.get = inner.get
        self.get_range = inner.get_range
        self.size = inner.size
        self.delete = inner.delete

    def _name(self, key: str, range_: Range) -> str:
        return f"{self._store}\n{key}\n{range_[0]}+{range_[1]}"

    def get_ranges(self, key: str, ranges: Sequence[Range]) -> list[memoryview]:
        found = [self._cache.get(self._name(key, range_)) for range_ in ranges]
        missing = [range_ for range_, data in zip(ranges, found, strict=True) if data is None]
        fetched = iter(get_ranges(self._inner, key, missing) if missing else ())
        result = []
        for range_, data in zip(ranges, found, strict=True):
            if data is None:
                data = next(fetched)
                self._cache.put(self._name(key, range_), data)
            result.append(data)
        return result

    def drop_range(self, key: str, range_: Range) -> bool:
        return self._cache.drop(self._name(key, range_))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self._inner.list(prefix)
