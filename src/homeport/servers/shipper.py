"""What crosses the WAN goes in a thread of its own: while the WAN stands still, points go on being taken."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Shipper:
    """Does one piece of work after the other, in their order, in one thread, which keeps its connections.

    The thread doesn't keep a process from ending: what it had in hand is done again by who comes after.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """The answer has what ``work`` returned or raised. From one thread only."""
        if not self._started:
            self._started = True
            self._thread.start()
        answer: Future[T] = Future()

        def carry_out() -> None:
            try:
                result = work()
            except BaseException as error:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self._work.put(carry_out)
        return answer

    def close(self) -> None:
        """Returns when the work at hand is done; nothing may be submitted after."""
        if self._started:
            self._work.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
