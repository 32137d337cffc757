"""Child processes that kill themselves with SIGKILL at a chosen step."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Container
from typing import Any


class Steps:
    """Counts steps, of all threads; the ``fatal``-th one is the last."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.count = 0
        self._lock = threading.Lock()

    def tick(self) -> None:
        with self._lock:
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, only: Container[int] = range(1 << 30)) -> None:
        """A step before and one after each call of ``owner.name`` (those calls ``only``, counted from 1). For a process
        that is going to die only."""
        original = getattr(owner, name)
        calls = itertools.count(1)

        def stepping(*arguments: Any, **named: Any) -> Any:
            if next(calls) not in only:
                return original(*arguments, **named)
            self.tick()
            result = original(*arguments, **named)
            self.tick()
            return result

        setattr(owner, name, stepping)

    def within(self, owner: Any, name: str, half: Callable[..., Any]) -> None:
        """Like :meth:`around`, and one step more when only ``half`` of the call has been done."""
        original = getattr(owner, name)

        def stepping(*arguments: Any, **named: Any) -> Any:
            self.tick()
            if self.count + 1 == self.fatal:
                half(original, *arguments, **named)
            self.tick()
            result = original(*arguments, **named)
            self.tick()
            return result

        setattr(owner, name, stepping)


def dies(work: Callable[[Steps], None], fatal: int, meanwhile: Callable[[], None] | None = None) -> bool:
    """Run ``work`` in a forked process that is killed at its ``fatal``-th step; False: it had fewer and finished.

    ``meanwhile`` is called here over and over while the child lives. The caller has no threads (it forks).
    """
    pid = os.fork()
    if not pid:
        try:
            work(Steps(fatal))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG if meanwhile else 0)
        if ended:
            break
        if meanwhile:
            meanwhile()
            time.sleep(0.005)  # leaves the child its share of the processor
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"the child failed before step {fatal}"
    return False
