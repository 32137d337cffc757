"""A qemu-nbd of our own that opens one image, and can't outlive us.

It serves until its last connection ends, and its first one, which we hold, is in the queue of its listening socket
(handed over by socket activation, sd_listen_fds(3)) before it is started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path

from homeport.disks.errors import DiskError, DiskInUse
from homeport.disks.nbd import wire
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdError
from homeport.domain.logs import get_logger

log = get_logger(__name__)

START_TIMEOUT = 60.0
"""Seconds to open the image; a backing file may lie behind a network."""
# The shell's process becomes qemu-nbd, so that its number is the one that socket activation asks for.
_ACTIVATE = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null'


class QemuNbd:
    """Serves ``path`` as the export "" at ``address``, to at most ``connections`` clients at once.

    Raises DiskInUse, DiskError where qemu-nbd can't open the image.
    """

    def __init__(self, path: Path, format: str, *, writable: bool, connections: int) -> None:
        self.path = path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _clean)
        self._socket = -1
        command = ["qemu-nbd", f"--shared={connections + 1}", f"--format={format}", "--cache=writeback"]
        command += ["--discard=unmap"] if writable else ["--read-only"]
        command += [os.path.abspath(path)]  # an absolute path can't be taken for a protocol ("nbd:…")
        try:
            connection = self._start(command, connections + 1)
        except BaseException:
            self._clean()
            raise
        try:
            self._keeper = NbdClient(connection, "", meta_contexts=[wire.BASE_ALLOCATION], timeout=START_TIMEOUT)
        except NbdError as error:
            failure = self._why(error)
            self._clean()
            raise failure from error

    def _start(self, command: list[str], connections: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                with tempfile.TemporaryDirectory(prefix="homeport-") as folder:
                    path = os.path.join(folder, "nbd")
                    listener.bind(path)
                    # Its name goes at once, so that nothing is left of it if we are killed; this reaches it without.
                    self._socket = os.open(path, os.O_PATH | os.O_CLOEXEC)
                listener.listen(connections)
                connection.connect(self.address)
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _ACTIVATE, "qemu-nbd", *command],
                    stdin=listener.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=True,  # Ctrl-C is for us; it ends when we let go of it
                )
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def address(self) -> str:
        """For connections from this process alone."""
        return f"/proc/self/fd/{self._socket}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def _why(self, error: NbdError) -> DiskError:
        """What the child says about its end."""
        self._wait(5.0)
        text = self._said() or error.cause
        if "Failed to get" in text and "lock" in text:
            return DiskInUse(f"{self.path} is in use by another process: {text}", path=str(self.path))
        return DiskError(f"{self.path} can't be opened: {text}", code="disk.open-failed", path=str(self.path))

    def close(self, timeout: float) -> None:
        """All other connections must be closed. Returns when the image's lock is free; twice does no harm.

        After ``timeout`` seconds the child is killed. Raises DiskError where the image was not closed cleanly.
        """
        if self._errors.closed:
            return
        self._keeper.close()
        status = self._wait(timeout)
        text = self._said()
        self._clean()
        if status:
            raise DiskError(
                f"{self.path} was not closed cleanly (qemu-nbd ended with status {status}): {text}",
                code="disk.write-failed",
                path=str(self.path),
            )

    def _wait(self, seconds: float) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("qemu-nbd does not end by itself, it is killed", path=str(self.path), pid=self.pid)
            self._process.kill()
            return self._process.wait()

    def _said(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().decode("utf-8", "replace").split())

    def _clean(self) -> None:
        self._errors.close()
        if self._socket >= 0:
            os.close(self._socket)
