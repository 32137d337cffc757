"""A bucket in a local folder, with plain system calls: durability is in their order, so they stand here one by one.

A put writes a file under a staging name, fsyncs it, links it to its key (link(2) never touches a name that is there)
and fsyncs the folders. A key that exists is whole, whenever the power goes; a key that was put is there.
obstore's LocalStore (0.12.1, seen with strace) never fsyncs, and takes four to five times as long for a ranged read;
clouds go through it, see ``store/cloud.py``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from homeport.store.errors import AlreadyExists, NotFound, StoreUnavailable

STAGING = ".homeport-staging"
_STALE_AFTER = 86400.0
_PIECE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)
"""Another file system, somebody else's file (fs.protected_hardlinks), or too many links: then it is copied."""


def fsync_path(path: Path) -> None:
    """Flush a file's or folder's content to its disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unavailable(error: BaseException, what: str) -> StoreUnavailable:
    """The operator's error for an I/O error: ``store.full`` or ``store.unavailable``."""
    first = (str(error).splitlines() or [repr(error)])[0]
    if getattr(error, "errno", None) in _FULL:
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
        self._seen = False
        self._lock = threading.Lock()
        self._durable: set[Path] = set()

    def __repr__(self) -> str:
        return f"LocalObjects({str(self.path)!r})"

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        self._begin()
        staged = self._staged()
        try:
            with _removed_after(staged):
                _write(staged, [data])
                self._name(staged, key, if_absent)
        except OSError as error:
            raise unavailable(error, f"can't write {key}") from error

    def put_file(self, key: str, path: Path, *, if_absent: bool = True) -> None:
        """A hard link to the file where the file system allows it: nothing is copied."""
        self._begin()
        try:
            try:
                self._link(path, key, if_absent)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy(path, key, if_absent)
        except OSError as error:
            raise unavailable(error, f"can't store {path} as {key}") from error

    def _link(self, path: Path, key: str, if_absent: bool) -> None:
        if if_absent:
            self._name(path, key, if_absent)
            return
        staged = self._staged()
        with _removed_after(staged):
            os.link(path, staged)
            self._name(staged, key, if_absent)

    def _copy(self, path: Path, key: str, if_absent: bool) -> None:
        staged = self._staged()
        with open(path, "rb", buffering=0) as source, _removed_after(staged):
            _write(staged, iter(lambda: source.read(_PIECE), b""))
            self._name(staged, key, if_absent)

    def delete(self, key: str) -> None:
        """Not flushed: after a power cut the object may be there again."""
        try:
            os.unlink(self.path / key)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unavailable(error, f"can't delete {key}") from error

    def _staged(self) -> Path:
        return self.path / STAGING / secrets.token_hex(12)

    def _name(self, file: Path, key: str, if_absent: bool) -> None:
        """Give a whole and flushed file its key, durably."""
        target = self.path / key
        give = os.link if if_absent else os.replace
        try:
            try:
                give(file, target)
            except FileNotFoundError:
                self._make_folder(target.parent)
                give(file, target)
        except FileExistsError:
            # Its content was fsynced before it was linked; its name perhaps not, had that writer died just then.
            self._sync_folders(target.parent)
            raise AlreadyExists(f"{key} exists", key=key) from None
        self._sync_folders(target.parent)

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
                    with contextlib.suppress(FileNotFoundError):  # another process clears too
                        if leftover.stat().st_mtime < time.time() - _STALE_AFTER:
                            if leftover.is_dir():
                                shutil.rmtree(leftover, ignore_errors=True)
                            else:
                                leftover.unlink()
                for folder in (self.path, *self.path.parents):
                    fsync_path(folder)
                    if folder == folder.parent or os.path.ismount(folder):
                        break
            except OSError as error:
                raise unavailable(error, f"can't write to {self.path}") from error
            self._seen = True
            self._durable.add(self.path)

    def _make_folder(self, folder: Path) -> None:
        """And those above, within the store's own: that one is never made anew."""
        if folder == self.path:
            return
        try:
            os.mkdir(folder)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make_folder(folder.parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)

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

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        try:
            with open(self.path / key, "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            self._failed(error, key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            fd = os.open(self.path / key, os.O_RDONLY)
            try:
                data = os.pread(fd, max(length, 0), offset)
                while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                    data += more
                return data
            finally:
                os.close(fd)
        except OSError as error:
            self._failed(error, key)

    def size(self, key: str) -> int:
        try:
            return os.stat(self.path / key).st_size
        except OSError as error:
            self._failed(error, key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if not self.path.is_dir():
            if self._seen:
                raise StoreUnavailable(f"there is no folder {self.path} any more")
            return
        self._seen = True
        try:
            yield from self._within(prefix)
        except OSError as error:
            raise unavailable(error, f"can't list {prefix}") from error

    def _within(self, prefix: str) -> Iterator[tuple[str, int]]:
        """In order of the keys: a folder stands where its name with "/" would."""
        names: list[tuple[str, int | None]] = []
        try:
            with os.scandir(self.path / prefix) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if prefix or entry.name != STAGING:
                            names.append((entry.name + "/", None))
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted since
                        names.append((entry.name, entry.stat().st_size))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, size in sorted(names):
            if size is None:
                yield from self._within(prefix + name)
            else:
                yield prefix + name, size

    def _failed(self, error: OSError, key: str) -> NoReturn:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            if self._seen and not self.path.is_dir():
                raise StoreUnavailable(f"there is no folder {self.path} any more") from None
            raise NotFound(f"{key} is not there", key=key) from None
        raise unavailable(error, f"can't read {key}") from error

    def scratch(self) -> Path:
        """A new folder on the store's file system, for files on their way to ``put_file``; whoever asked for it removes
        it, and a day after its last use the next writer does."""
        self._begin()
        path = self._staged()
        try:
            path.mkdir()
        except OSError as error:
            raise unavailable(error, f"can't make {path}") from error
        return path

    def versioned(self) -> bool:
        """Of what the file system itself keeps (snapshots) nothing is known here."""
        return False

    def require_room(self, size: int) -> None:
        """Raises StoreUnavailable (``store.full``) where ``size`` bytes can't be written: it is tried, without
        writing them, so that quotas count."""
        self._begin()
        staged = self._staged()
        try:
            with _removed_after(staged):
                fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    os.posix_fallocate(fd, 0, max(size, 1))
                finally:
                    os.close(fd)
        except OSError as error:
            raise unavailable(error, f"there is no room for {size} bytes") from error

    def free(self) -> int:
        """Bytes free where the store lies."""
        return shutil.disk_usage(self.path).free


@contextlib.contextmanager
def _removed_after(staged: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # replaced its key, or was never made
            os.unlink(staged)


def _write(staged: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """A new file, flushed."""
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
