"""A thread beside a replication loop that does what waits for the network: a store that is slow, or cut off, must not
keep the loop from taking points."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from homeport.store.errors import StoreUnavailable

Job = Callable[[], Any]


class Shipper:
    """Does jobs one after the other, in the order in which they were given. One whose store is not there is done again
    after ``retry`` seconds, or when it is poked. ``wake``: called when there is something to collect."""

    def __init__(self, name: str, retry: Callable[[], float], wake: Callable[[], None]) -> None:
        self._retry = retry
        self._wake = wake
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._results: list[Any] = []
        self._trouble: BaseException | None = None
        self._fatal = False
        self._poked = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def poke(self) -> None:
        """Try again now what failed; that it did says nothing any more."""
        with self._changed:
            self._poked = True
            if not self._fatal:
                self._trouble = None
            self._changed.notify_all()

    def collect(self) -> list[Any]:
        """Results since the last time, in order. Raises what a job raised that isn't tried again."""
        with self._changed:
            found, self._results = self._results, []
            if not found and self._fatal and self._trouble is not None:
                raise self._trouble
            return found

    @property
    def trouble(self) -> BaseException | None:
        """Why the job at hand is not done yet."""
        with self._changed:
            return self._trouble

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._jobs

    def settled(self, timeout: float) -> bool:
        """Wait until there is something to collect, nothing to do, or trouble; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._results or not self._jobs or self._trouble is not None), timeout
            )

    def stop(self) -> None:
        """Returns when the job at hand has ended; the others are dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._jobs)
                if self._stopped:
                    return
                job = self._jobs[0]
            try:
                result = job()
            except StoreUnavailable as error:
                with self._changed:
                    self._trouble, self._poked = error, False
                    self._changed.notify_all()
                self._wake()
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._poked, self._retry())
            except BaseException as error:
                with self._changed:
                    self._trouble, self._fatal = error, True
                    self._changed.notify_all()
                self._wake()
                return
            else:
                with self._changed:
                    self._jobs.popleft()
                    self._results.append(result)
                    self._trouble = None
                    self._changed.notify_all()
                self._wake()
