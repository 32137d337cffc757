"""A disk of a recovery point written to a raw image: sparse, durable, and under its name only when whole."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from homeport.cli.transfers import Advance
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.units import MiB

PIECE = 4 * MiB
"""Bytes read and written at a time by each worker."""

WORKERS = 2


class TargetExists(HomeportError):
    """Nothing is overwritten by a restore."""

    code = "store.target-exists"
    remedy = "Choose another --to, or move that file away."


class TargetBusy(HomeportError):
    """Another restore writes the same file."""

    code = "store.target-busy"
    remedy = "Wait for it to end, or choose another --to."


class Disks(Protocol):
    """What a restore needs of a PointReader."""

    def read_into(self, disk: str, offset: int, buffer: memoryview) -> None: ...


def restore_disk(reader: Disks, disk: str, size: int, data: Extents, target: Path, advance: Advance) -> None:
    """Write ``disk`` of ``size`` bytes, zero outside ``data``, to the new file ``target``.

    It grows as ``target``.partial and is renamed when everything is on stable storage; an interrupted restore leaves
    the partial file, which the next one begins anew. Every frame is verified as it is read. Raises TargetExists,
    TargetBusy, OSError (no space), and what the reader raises.
    """
    if target.exists() or target.is_symlink():
        raise TargetExists(f"{target} exists already", path=str(target))
    partial = target.with_name(target.name + ".partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetBusy(f"another process writes {partial}", path=str(partial)) from None
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size)
        _copy(reader, disk, data.clip(0, size).pieces(PIECE), descriptor, advance)
        os.fsync(descriptor)
        os.rename(partial, target)
    finally:
        os.close(descriptor)
    _sync_folder(target.absolute().parent)


def _copy(reader: Disks, disk: str, pieces: Iterator[tuple[int, int]], descriptor: int, advance: Advance) -> None:
    """Workers take the next piece until there is none, or until one of them fails."""
    lock = threading.Lock()
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        buffer = memoryview(bytearray(PIECE))
        try:
            while not stop.is_set():
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                offset, length = piece
                part = buffer[:length]
                reader.read_into(disk, offset, part)
                _write(descriptor, part, offset)
                advance(length)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, name=f"restore-{number}") for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        # Ctrl-C: nobody may write to the descriptor once it is closed.
        stop.set()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
