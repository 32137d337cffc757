"""A Linux network namespace: who is in it, going there, and ending all that is in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/run/netns")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Namespace:
    """A network namespace by its name in /run/netns. ``address``: its own, on its site's network."""

    name: str
    address: str = ""

    @property
    def path(self) -> Path:
        return FOLDER / self.name

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace: sockets that it opens and processes that it starts belong there for good,
        wherever the thread goes afterwards. Raises OSError."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self.path)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(before)

    def enter(self) -> None:
        """This thread goes into the namespace to stay, and the threads and processes that it starts from now on."""
        _enter(self.path)

    def pids(self) -> list[int]:
        """Of every process in it, without this one."""
        try:
            wanted = self.path.stat()
        except FileNotFoundError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):  # ended, or a zombie
                    namespace = os.stat(f"/proc/{entry}/ns/net")
                    if (namespace.st_dev, namespace.st_ino) == (wanted.st_dev, wanted.st_ino):
                        found.append(int(entry))
        return found


def kill(namespaces: Sequence[Namespace], timeout: float = 10) -> list[int]:
    """SIGKILL to every process in these, all at once and again until none is left; the pids. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    killed: list[int] = []
    while pids := [pid for namespace in namespaces for pid in namespace.pids()]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in pids if pid not in killed]
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} are still there after SIGKILL")
        time.sleep(0.02)
    return killed


def _enter(path: Path) -> None:
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(there)
    finally:
        os.close(there)


def _set_namespace(opened: int) -> None:
    if _libc.setns(opened, _NEW_NETWORK):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
