"""A blocking, thread-safe QMP client.

It wraps the asyncio library ``qemu.qmp`` in an event-loop thread of its own, one per connection.

QEMU's QMP socket (``server=on,wait=off``) takes **one client at a time**: a second one connects but gets no greeting
until the first has gone. So hold connections shortly, and expect :class:`QmpSilent` where somebody else doesn't.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError
from qemu.qmp.protocol import StateError

from homeport.disks import unixpath
from homeport.qemu.errors import QmpError, QmpGone, QmpSilent

__all__ = ["Qmp", "QmpError", "QmpGone", "QmpSilent"]

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # its errors come to us as exceptions as well

_EVENTS_KEPT = 1024
_CLOSE_SECONDS = 5.0

T = TypeVar("T")


class Qmp:
    """One connection to a QEMU or qemu-storage-daemon. Any thread may call any method; make it by :meth:`connect`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._client = QMPClient()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._news = threading.Condition()
        self._closed = False
        self._closing = threading.Lock()

    @classmethod
    def connect(cls, path: str | Path, timeout: float = 5.0) -> Qmp:
        """Connect and negotiate within ``timeout`` seconds.

        Raises :class:`QmpGone` where nobody listens, :class:`QmpSilent` where no greeting comes in time.
        """
        qmp = cls(Path(path))
        deadline = time.monotonic() + timeout
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            unixpath.connect(sock, path)
        except TimeoutError as error:
            sock.close()
            qmp._loop.close()
            raise QmpSilent(f"{path}: not accepted within {timeout:g} s") from error
        except OSError as error:
            sock.close()
            qmp._loop.close()
            raise QmpGone(f"{path}: {error}") from error
        sock.setblocking(False)
        qmp._socket = sock
        qmp._thread.start()
        try:
            qmp._run(qmp._establish(sock), max(deadline - time.monotonic(), 0.05), "greeting")
        except BaseException:
            qmp.close()
            sock.close()
            raise
        return qmp

    async def _establish(self, sock: socket.socket) -> None:
        listener = _Keeper(self._keep)
        self._client.register_listener(listener)
        try:
            await self._client.connect(sock)
        except AssertionError as error:  # what the library makes of a process that ends just then
            raise ConnectionResetError("it ended during the greeting") from error

    def _keep(self, event: dict[str, Any]) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout: float = 60.0) -> Any:
        """The command's return value. ``arguments`` go as they are (QMP's own names); ``timeout`` in seconds.

        Raises :class:`QmpError` where QEMU refuses, :class:`QmpGone` where it is gone, :class:`QmpSilent` on time-out.
        """
        return self._run(self._client.execute(command, dict(arguments) if arguments else None), timeout, command)

    def wait_event(
        self, name: str, timeout: float, where: Callable[[dict[str, Any]], bool] = lambda data: True
    ) -> dict[str, Any] | None:
        """The oldest event ``name`` since connecting (the last 1024 are kept) whose ``data`` satisfies ``where``.

        It is taken out: asked again, the next one is waited for. None after ``timeout`` seconds (0: don't wait).
        Raises :class:`QmpGone` where the connection ended and no such event is left.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for event in self._events:
                    if event.get("event") == name and where(event.get("data", {})):
                        self._events.remove(event)
                        return event
                if not self.alive:
                    raise QmpGone(f"{self.path}: the connection ended")
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._news.wait(min(left, 0.5))

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known without asking."""
        return not self._closed and self._client.runstate.name == "RUNNING"

    def fileno(self) -> int:
        """The connection's descriptor, for whoever must be able to speak over it when we can't any more."""
        if self._closed or self._socket is None:
            raise QmpGone(f"{self.path}: the connection is closed")
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection and its thread. Twice does no harm."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._thread.is_alive():
            ending = asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop)
            try:
                ending.result(_CLOSE_SECONDS)
            except concurrent.futures.TimeoutError:
                ending.cancel()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_SECONDS)
        if not self._loop.is_running():
            self._loop.close()

    async def _disconnect(self) -> None:
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            pass  # it reports why the connection had ended already; we are leaving anyway
        current = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not current:
                task.cancel()

    def _run(self, work: Coroutine[Any, Any, T], timeout: float, command: str) -> T:
        if self._closed:
            work.close()
            raise QmpGone(f"{self.path}: {command}: the connection is closed")
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), self._loop)
        try:
            # wait_for ends it; the second limit only guards against a dead loop
            return future.result(timeout + _CLOSE_SECONDS)
        except ExecuteError as error:
            raise QmpError(error.error_class, str(error), command) from error
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            future.cancel()
            raise QmpSilent(f"{self.path}: {command}: no answer within {timeout:g} s") from error
        except (
            ConnectError,
            StateError,
            ExecInterruptedError,
            QMPError,
            OSError,
            EOFError,
            concurrent.futures.CancelledError,
        ) as error:
            raise QmpGone(f"{self.path}: {command}: {error or type(error).__name__}") from error

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Keeper(EventListener):
    """Hands each event over at once instead of queueing it for a coroutine."""

    def __init__(self, keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._hand_over = keep

    async def put(self, event: Message) -> None:
        self._hand_over(dict(event))
