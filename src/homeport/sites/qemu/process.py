"""The process of a machine: started so that it outlives us, found again, ended for certain."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from homeport.disks import unixpath
from homeport.qemu.qmp import Qmp, QmpError, QmpGone, QmpSilent
from homeport.sites.errors import MachineWouldNotStart, SiteError
from homeport.sites.qemu import launch, locks
from homeport.sites.qemu.durable import write_durably

log = structlog.get_logger(__name__)

_QUIT_SECONDS = 5.0
_CLOSE_SECONDS = 20.0
"""To write what it has in memory, its bitmaps too, and close the images."""
_KILL_SECONDS = 30.0
_POLL_SECONDS = 0.02
_PID_SECONDS = 5.0
_LOG_LINES = 8


class MachineProcess:
    """What runs in a machine's ``run`` folder. Made anew whenever it is asked about: nothing is remembered here.

    A process that we started inherited the locked descriptor of ``run/alive``, so it lives exactly as long as the lock
    is held. A QEMU that somebody else started is known by its QMP socket and the kernel's word on who listens there.
    """

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self._alive = self.run / "alive"

    def alive(self) -> bool:
        """Whether the machine's process exists, in whatever state."""
        return self.ours() or self._listening()

    def ours(self) -> bool:
        """Whether it was started by this site (else it is an adopted one)."""
        return locks.locked(self._alive)

    def pid(self) -> int | None:
        """The process's id, verified now; None where there is no process."""
        if locks.locked(self._alive):
            pid = _read_pid(self.run / "qemu.pid") or _read_pid(self.run / "pid")
            if pid is not None and self._holds_lock(pid):
                return pid
        deadline = time.monotonic() + _PID_SECONDS
        while True:
            try:
                return self._listener()
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return None
            except OSError:
                return None
            time.sleep(_POLL_SECONDS)

    def _holds_lock(self, pid: int) -> bool:
        wanted = os.stat(self._alive)
        try:
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                try:
                    found = os.stat(descriptor.path)
                except FileNotFoundError:
                    continue  # closed meanwhile
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return False

    def _listening(self) -> bool:
        """Whether anybody listens at the QMP socket; a full queue of waiting clients says yes as well."""
        try:
            self._listener()
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _listener(self) -> int | None:
        """The pid of whoever listens at the QMP socket (SO_PEERCRED: see unix(7)). Raises OSError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)  # connecting to a unix socket succeeds or fails at once
            unixpath.connect(connection, self.run / launch.QMP)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid: int = struct.unpack("3i", credentials)[0]
            return pid or None

    @contextmanager
    def monitor(self, timeout: float = 5.0) -> Iterator[Qmp]:
        """A QMP connection; raises QmpGone (no process) or QmpSilent (busy: it hangs, or waits in a drain)."""
        deadline = time.monotonic() + timeout
        while True:
            own = self.run / (launch.SITE_QMP if self.ours() else launch.QMP)
            try:
                qmp = Qmp.connect(own, timeout)
                break
            except QmpSilent:
                raise
            except QmpGone:
                # a full queue of clients refuses like a dead process
                if time.monotonic() > deadline or not self.alive():
                    raise
            time.sleep(_POLL_SECONDS)
        with qmp:
            yield qmp

    def start(self, command: list[str], timeout: float = 60.0) -> None:
        """Start ``command`` as a process of its own and wait for its QMP socket.

        Raises :class:`MachineWouldNotStart` with the end of its log; then nothing of it is left.
        """
        self.run.mkdir(exist_ok=True)
        lock = self._take_lock()
        try:
            for name in ("qemu.pid", "pid"):
                (self.run / name).unlink(missing_ok=True)
            with (self.run / "qemu.log").open("ab") as record:
                record.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {command}\n".encode())
            # the shell ends at once, so the machine is nobody's child here and leaves no zombie; a session of its own
            # keeps our terminal's signals away
            shell = '"$@" </dev/null >>qemu.log 2>&1 & echo $!'
            with subprocess.Popen(
                ["/bin/sh", "-c", shell, "sh", *command],
                cwd=self.run,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(lock,),
            ) as starter:
                pid = int(starter.communicate()[0])
        finally:
            os.close(lock)
        write_durably(self.run / "pid", f"{pid}\n")
        self._await_monitor(timeout)
        log.info("machine process started", folder=str(self.run.parent), pid=pid)

    def _take_lock(self) -> int:
        lock = locks.try_lock(self._alive)
        if lock is None:
            raise SiteError(f"{self.run.parent.name}: a process of this machine runs already", code="site.runs-already")
        return lock

    def _await_monitor(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                with Qmp.connect(self.run / launch.SITE_QMP, 2.0):
                    return
            except QmpGone as error:
                if not locks.locked(self._alive):
                    raise MachineWouldNotStart(f"{self.run.parent.name}: {self.log_tail()}") from error
                if time.monotonic() > deadline:
                    self.end()
                    raise MachineWouldNotStart(
                        f"{self.run.parent.name}: its process did not answer within {timeout:g} s: {self.log_tail()}"
                    ) from error
            time.sleep(_POLL_SECONDS)

    def log_tail(self) -> str:
        """The last lines that the process wrote, without the command lines that we wrote there."""
        try:
            lines = (self.run / "qemu.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "no log"
        for number in range(len(lines) - 1, -1, -1):
            if "Z ['" in lines[number]:
                lines = lines[number + 1 :]
                break
        return "; ".join(lines[-_LOG_LINES:]) or "it ended without a word"

    def end(self) -> None:
        """Quit, else kill; returns when the process is gone and with it the locks on its images."""
        pid = self.pid()
        if pid is None:
            if self.alive():
                raise SiteError(
                    f"{self.run.parent.name}: its process lives, but which one it is can't be told",
                    remedy=f"Find the process that holds {self._alive} (fuser) and end it.",
                )
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # opened first, verified second: the handle can't come to mean another process any more
            if self.pid() != pid:
                return
            patience = _CLOSE_SECONDS
            try:
                with self.monitor(timeout=_QUIT_SECONDS) as qmp:
                    qmp.execute("quit", timeout=_QUIT_SECONDS)
            except QmpSilent as error:
                log.debug("quit was not answered", pid=pid, why=str(error))
                patience = 0.0
            except (QmpGone, QmpError) as error:  # it may well close before it answers
                log.debug("quit was not answered", pid=pid, why=str(error))
            if not _ended(handle, patience):
                log.warning("machine process does not quit and is killed", folder=str(self.run.parent), pid=pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not _ended(handle, _KILL_SECONDS):
                    raise SiteError(f"{self.run.parent.name}: process {pid} does not end, not even by SIGKILL")
        finally:
            os.close(handle)


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
