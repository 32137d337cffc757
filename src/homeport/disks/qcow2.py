"""qcow2 images with any backing chain, through a qemu-nbd of our own that lives as long as the image is open.

The child can't outlive us: it serves until its last connection ends, and its first one is in the queue of its
listening socket (handed over by socket activation, sd_listen_fds(3)) before it is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

import structlog

from homeport.disks.errors import DiskError, DiskInUse
from homeport.disks.nbd import wire
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdError
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.status import allocated
from homeport.domain.extents import Extents

log = structlog.get_logger(__name__)

CONNECTIONS = 4
TIMEOUT = 600.0
"""Seconds: a flush may have to write gigabytes of cache."""
START_TIMEOUT = 60.0
"""Seconds to open the image; a backing file may lie behind a network."""
# The shell's process becomes qemu-nbd, so that its number is the one that socket activation asks for.
_ACTIVATE = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null'


class Qcow2Image:
    """See :class:`homeport.disks.images.Image`. Raises DiskInUse while a running machine holds the file."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path, self.writable = path, writable
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="homeport-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            self._keeper: NbdClient | None = None
            self._pool: NbdPool | None = None
            stack.callback(self._end)
            address = os.path.join(folder, "nbd")
            connection = self._start(address)
            try:
                self._keeper = NbdClient(connection, "", meta_contexts=[wire.BASE_ALLOCATION], timeout=START_TIMEOUT)
                self._pool = NbdPool(
                    address, "", connections=CONNECTIONS, meta_contexts=[wire.BASE_ALLOCATION], timeout=TIMEOUT
                )
            except NbdError as error:
                if self._keeper is not None:
                    self._keeper.close()
                raise self._why(error) from error
            self.size = self._pool.size
            self._resources = stack.pop_all()

    def _start(self, address: str) -> socket.socket:
        """Start the child; returns the connection that keeps it alive."""
        command = ["qemu-nbd", f"--shared={CONNECTIONS + 1}", "--format=qcow2", "--cache=writeback", "--discard=unmap"]
        if not self.writable:
            command.append("--read-only")
        # An absolute path can't be taken for a protocol ("nbd:…").
        command.append(os.path.abspath(self.path))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(address)
                listener.listen(CONNECTIONS + 1)
                connection.connect(address)
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _ACTIVATE, "qemu-nbd", *command],
                    stdin=listener,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=True,
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _why(self, error: NbdError) -> DiskError:
        """What the child says about its end."""
        process = self._process
        if process is not None and _wait(process, 5.0) is None:
            process.kill()
            process.wait()
        text = _text(self._errors) or error.cause
        if "lock" in text and "Failed to get" in text:
            return DiskInUse(f"{self.path} is in use by another process: {text}", path=str(self.path))
        return DiskError(f"{self.path} can't be opened: {text}", code="disk.open-failed", path=str(self.path))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._pool.read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        return self._pool.read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._pool.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self._pool.zero(offset, length)

    def flush(self) -> None:
        if self.writable:
            self._pool.flush()

    def allocated(self) -> Extents:
        return allocated(self._pool)

    def close(self) -> None:
        """Returns when the child has closed the image: its lock is free. Twice does no harm.

        Raises DiskError where a writable image was not closed cleanly.
        """
        self._resources.close()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._keeper is not None:
            self._keeper.close()
        process = self._process
        if process is None:
            return
        status = _wait(process, TIMEOUT if self.writable else 10.0)
        if status is None:
            log.warning("qemu-nbd does not end, it is killed", path=str(self.path), pid=process.pid)
            process.kill()
            status = process.wait()
        if status and self._keeper is not None and self.writable:
            raise DiskError(
                f"{self.path} was not closed cleanly (qemu-nbd ended with {status}): {_text(self._errors)}",
                code="disk.write-failed",
                path=str(self.path),
            )

    def __enter__(self) -> Qcow2Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return " ".join(stream.read().decode("utf-8", "replace").split())
