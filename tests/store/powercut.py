"""A folder's file system as a power cut may leave it, from the system calls that were made.

What is sure: a file's bytes as of its last fsync, a folder's names as of its own last fsync. All else may or may not
have reached the disk, each change by itself, in any order: stricter than any journaling file system.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Inode:
    """``writes``: each with its place in the file; ``sure``: how many of them are on the disk for certain. A folder has
    none."""

    folder: bool = False
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    sure: int = 0

    def content(self, writes: int | None = None) -> bytes:
        """After the first so many writes; None: all."""
        result = bytearray()
        for offset, data in self.writes[:writes]:
            result.extend(bytes(max(offset + len(data) - len(result), 0)))
            result[offset : offset + len(data)] = data
        return bytes(result)


@dataclass(eq=False)
class Change:
    """A name of a folder given to an inode, or taken (None)."""

    folder: Inode
    name: str
    inode: Inode | None
    sure: bool = False


class Disk:
    """Records what is done below ``root`` through :mod:`os`, while it is patched in; asserts that nothing else is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = Inode(folder=True)
        self.changes: list[Change] = []
        self.calls: list[tuple[str, ...]] = []
        self._open: dict[int, Inode] = {}
        self._writing: set[int] = set()

    def now(self, path: str | os.PathLike[str]) -> Inode:
        """As a process sees it."""
        inode = self.top
        for part in Path(path).relative_to(self.root).parts:
            inode = next(c.inode for c in reversed(self.changes) if c.folder is inode and c.name == part)  # type: ignore[assignment]
            assert inode is not None
        return inode

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(os, name) for name in ("open", "write", "pwrite", "fsync", "close")}
        for name in ("mkdir", "link", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._naming(name, getattr(os, name)))

        def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
            fd: int = real["open"](path, flags, *more, **options)
            if not isinstance(path, int) and self._mine(path):
                if flags & os.O_CREAT:
                    assert flags & os.O_EXCL, "a file that is there is never written to"
                    self._set(path, Inode())
                    self.calls.append(("create", self._short(path)))
                    self._writing.add(fd)
                self._open[fd] = self.now(path)
            return fd

        def written(fd: int, data: Any) -> int:
            count: int = real["write"](fd, data)
            if fd in self._open:
                self._open[fd].writes.append((len(self._open[fd].content()), bytes(memoryview(data)[:count])))
                self.calls.append(("write",))
            return count

        def placed(fd: int, data: Any, offset: int) -> int:
            count: int = real["pwrite"](fd, data, offset)
            if fd in self._open:
                self._open[fd].writes.append((offset, bytes(memoryview(data)[:count])))
                self.calls.append(("pwrite",))
            return count

        def flushed(fd: int) -> None:
            real["fsync"](fd)
            if (inode := self._open.get(fd)) is None:
                return
            inode.sure = len(inode.writes)
            for change in self.changes:
                change.sure = change.sure or change.folder is inode
            self.calls.append(("fsync", "folder" if inode.folder else "file"))

        def closed(fd: int) -> None:
            real["close"](fd)
            self._open.pop(fd, None)

        fakes = {"open": opened, "write": written, "pwrite": placed, "fsync": flushed, "close": closed}
        for name, fake in fakes.items():
            monkeypatch.setattr(os, name, fake)

    def _mine(self, path: Any) -> bool:
        return Path(os.fsdecode(path)).is_relative_to(self.root)

    def _short(self, path: Any) -> str:
        return Path(os.fsdecode(path)).relative_to(self.root).as_posix()

    def _set(self, path: Any, inode: Inode | None) -> None:
        place = Path(os.fsdecode(path))
        self.changes.append(Change(self.now(place.parent), place.name, inode))

    def _naming(self, name: str, real: Any) -> Any:
        def call(path: Any, *more: Any, **options: Any) -> None:
            mine = self._mine(path)
            inode = self.now(path) if mine and name in ("link", "replace") else None
            real(path, *more, **options)
            if not mine:
                return
            self.calls.append((name, self._short(path)))
            if name == "mkdir":
                self._set(path, Inode(folder=True))
            elif name == "unlink":
                self._set(path, None)
            else:
                self._set(more[0], inode)
                if name == "replace":
                    self._set(path, None)

        return call

    def after_power_cut(self) -> Iterator[dict[str, bytes]]:
        """Every tree of files that may be found: path → content. Unflushed bytes may be missing from the end, or be
        zeroes."""
        unsure = [change for change in self.changes if not change.sure]
        for kept in itertools.product((False, True), repeat=len(unsure)):
            lost = {id(change) for change, keep in zip(unsure, kept, strict=True) if not keep}
            for torn in (False, True):
                yield dict(self._tree(self.top, "", lost, torn))

    def _tree(self, folder: Inode, prefix: str, lost: set[int], torn: bool) -> Iterator[tuple[str, bytes]]:
        names: dict[str, Inode | None] = {}
        for change in self.changes:
            if change.folder is folder and id(change) not in lost:
                names[change.name] = change.inode
        for name, inode in names.items():
            if inode is None:
                continue
            if inode.folder:
                yield from self._tree(inode, f"{prefix}{name}/", lost, torn)
                continue
            whole, sure = inode.content(), inode.content(inode.sure)
            yield prefix + name, sure + bytes(len(whole) - len(sure)) if torn else sure
