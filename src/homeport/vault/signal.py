"""Waking those who wait for the database to change: threads of workflows, and long polls of the API."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopping(BaseException):
    """The vault stops: leave at once and record nothing; a durable workflow goes on at the next start.

    Not an Exception, so that neither a workflow's own handling nor the workflow library takes it for an outcome.
    """


class Signal:
    """A version that grows with every change. A waiter names the version it has seen, so that no change is missed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._version = 0
        self._stopped = False
        self._loops: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def version(self) -> int:
        return self._version

    @property
    def stopped(self) -> bool:
        return self._stopped

    def notify(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()
            for loop, woken in self._loops:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(woken.set)

    def stop(self) -> None:
        """Wake everyone; waits raise :class:`Stopping` from now on (in threads) or return (in the API)."""
        self._stopped = True
        self.notify()

    def wait(self, seen: int, timeout: float) -> int:
        """Until the version is above ``seen``, or ``timeout`` seconds; in a thread. Raises :class:`Stopping`."""
        with self._condition:
            self._condition.wait_for(lambda: self._version > seen or self._stopped, timeout)
            if self._stopped:
                raise Stopping
            return self._version

    def until(self, look: Callable[[], T | None], timeout: float | None = None, every: float = 1.0) -> T | None:
        """What ``look`` finds, looking again after each change and at least ``every`` seconds; None after ``timeout``.

        Raises :class:`Stopping`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self._version
            found = look()
            if found is not None:
                return found
            left = every if deadline is None else min(every, deadline - time.monotonic())
            if left <= 0:
                return None
            self.wait(seen, left)

    async def wait_async(self, seen: int, timeout: float) -> int:
        """The same for the API's event loop; returns at once when the vault stops."""
        woken = asyncio.Event()
        entry = (asyncio.get_running_loop(), woken)
        with self._condition:
            self._loops.add(entry)
        try:
            if self._version <= seen and not self._stopped:
                await asyncio.wait_for(woken.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            with self._condition:
                self._loops.discard(entry)
        return self._version
