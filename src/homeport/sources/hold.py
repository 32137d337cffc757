"""Holding a running machine's processors for the instant at which several machines' views are taken.

    hold ─ query-status ─ a node that says so ─ guarded ─ stop ──▶ (its view is switched in) ──▶ release ─ cont

Production never hangs on us: the guard (hold_watchdog.py, a process of its own) lets the machine go on when we don't,
and where both were killed the node ``homeport-held``, which lies in QEMU, tells the next :func:`let_go` that this
machine stands still because of us. A machine that was paused by somebody else is not touched.
"""

from __future__ import annotations

import array
import contextlib
import socket
import subprocess
import sys
import threading
import time
from typing import Protocol

import structlog

from homeport.qemu.qmp import Qmp, QmpError, QmpGone, QmpSilent
from homeport.sources.errors import SourceError
from homeport.sources.waiting import readable

log = structlog.get_logger(__name__)

NODE = "homeport-held"
HELD_AT_MOST = 2.0
"""Seconds after which the guard lets a machine go on, come what may."""
_START = 15.0
_ANSWER = 5.0


class HoldFailed(SourceError):
    """The machine could not be held, or not for as long as it had to be; it goes on."""

    code = "source.hold-failed"
    remedy = "The point is of this machine alone; the next round tries again."


class Hold(Protocol):
    """A machine that can be made to stand still."""

    def hold(self) -> None:
        """Nothing of the machine writes from now on. Raises :class:`HoldFailed`; it goes on then."""

    def release(self) -> None:
        """It goes on as before. Raises :class:`HoldFailed` where it did so earlier already."""


class NothingRuns:
    """Disks without a processor: nothing of them writes by itself."""

    def hold(self) -> None:
        return

    def release(self) -> None:
        return


class QemuHold:
    """The processors of a QEMU, over ``qmp``, which its caller holds open meanwhile."""

    def __init__(self, qmp: Qmp) -> None:
        """The guard begins now, where there is none yet: while nothing stands still."""
        self._qmp = qmp
        self._ours = self._paused = False
        GUARD.warm_up()

    def hold(self) -> None:
        self._ours = False
        try:
            self._paused = not self._runs()
            if self._paused:
                return
            self._qmp.execute("blockdev-add", {"driver": "null-co", "node-name": NODE, "size": 0})
        except (QmpError, QmpGone, QmpSilent) as error:
            raise HoldFailed(f"the machine was not held: {error}") from error
        self._ours = True
        try:
            GUARD.begin(self._qmp.fileno())
            self._qmp.execute("stop", timeout=HELD_AT_MOST)
        except BaseException as error:
            # It may stop yet: what is asked after it undoes that.
            self._go_on()
            if isinstance(error, QmpError | QmpGone | QmpSilent):
                raise HoldFailed(f"the machine did not stop: {error}") from error
            raise

    def _runs(self) -> bool:
        return bool(self._qmp.execute("query-status", timeout=HELD_AT_MOST)["status"] == "running")

    def release(self) -> None:
        if not self._ours:
            try:
                went_on = self._paused and self._runs()
            except (QmpError, QmpGone, QmpSilent) as error:
                raise HoldFailed(f"the machine was not held: {error}") from error
            if went_on:
                raise HoldFailed("somebody else let the machine go on, before all was done")
            return
        let_go_by_guard = self._go_on()
        if let_go_by_guard:
            raise HoldFailed(f"the machine was let go on after {HELD_AT_MOST:g} s, before all was done")

    def _go_on(self) -> bool:
        """Whether the guard was first."""
        self._ours = False
        try:
            self._qmp.execute("cont")
        except (QmpError, QmpGone, QmpSilent) as error:
            log.warning("the machine may stand still; its guard sees to it", reason=str(error))
            return True  # not told "done"
        acted = GUARD.end(self._qmp.fileno())
        with contextlib.suppress(QmpError, QmpGone, QmpSilent):
            self._qmp.execute("blockdev-del", {"node-name": NODE})
        return acted


def let_go(qmp: Qmp, known: object) -> None:
    """A machine that stands still because a process of ours was killed with its guard goes on. ``known``: the names of
    its nodes."""
    if NODE not in known:  # type: ignore[operator]
        return
    log.warning("the machine was left standing still: it goes on", node=NODE)
    if qmp.execute("query-status")["status"] == "paused":
        qmp.execute("cont")
    qmp.execute("blockdev-del", {"node-name": NODE})


class Guard:
    """The one watchdog of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def warm_up(self) -> None:
        """So that :meth:`begin` takes no time."""
        with self._lock:
            try:
                if self._socket is None:
                    self._start()
            except OSError as error:
                log.warning("the guard of held machines did not start", reason=str(error))
                self._drop()

    def begin(self, descriptor: int, seconds: float = HELD_AT_MOST) -> None:
        """Let whatever QEMU is behind this QMP connection go on in ``seconds``, unless :meth:`end` comes first. Raises
        :class:`HoldFailed` where there is nobody to do so."""
        with self._lock:
            try:
                if self._ask(f"guard {descriptor} {seconds}", descriptor) != "guarded":
                    raise OSError("it said something else")
            except OSError as error:
                self._drop()  # the next one begins with the next hold
                raise HoldFailed(f"the guard of held machines does not answer: {error}") from error

    def end(self, descriptor: int) -> bool:
        """Whether the guard acted before; so, too, where it can't be asked."""
        with self._lock:
            try:
                return self._ask(f"done {descriptor}") != "done"
            except OSError as error:
                log.warning("the guard of held machines is gone", reason=str(error))
                self._drop()
                return True

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _ask(self, word: str, descriptor: int | None = None) -> str:
        if self._socket is None:
            raise OSError("there is none")
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self._socket.sendmsg([word.encode()], rights)
        return self._socket.recv(64).decode()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "homeport.sources.hold_watchdog", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._socket = ours
        deadline = time.monotonic() + _START
        if not readable(ours, deadline - time.monotonic()) or ours.recv(64) != b"ready":
            raise OSError("it did not start")

    def _drop(self) -> None:
        """It lets go of all that it still guards, and ends, when it finds the connection closed."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ANSWER)
        self._process = None


GUARD = Guard()
