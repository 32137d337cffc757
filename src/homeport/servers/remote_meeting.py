"""A machine elsewhere takes part in an instant that several share (group_barrier.py): the meeting is here, the machine
is held, switched and let go there.

    there                     here
    assemble ───────────────▶ waits for the others ──▶
    take ───────────────────▶ ─┐ Cut.take in a thread of its own, which is given a Hold and a switch that are
    ◀──────── do: hold ────────┤ carried out there
    did ────────────────────▶  ┤
    ◀──────── do: done, at … ──┘
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from homeport.domain.errors import HomeportError
from homeport.mobility.wire import Json, error_of_json
from homeport.sources.errors import SourceError
from homeport.sources.interface import Cut

STEP_MOST = 20.0
"""Seconds that a step may take there, or here: longer than any wait of the barrier, a freeze, and a guard."""


class Meeting:
    """One machine's part, step by step; ``step`` is called for one step after the other."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._orders: queue.Queue[Json] = queue.Queue()
        self._done: queue.Queue[Json] = queue.Queue()

    def step(self, said: Json) -> Json:
        """What is to be done there next. Raises SourceError."""
        match said["step"]:
            case "assemble":
                self._cut.assemble()
                return {}
            case "take":
                threading.Thread(target=self._take, name="meeting", daemon=True).start()
            case "did":
                self._done.put(said)
            case other:
                raise SourceError(f"{other!r} is no step")
        try:
            return self._orders.get(timeout=STEP_MOST)
        except queue.Empty as error:
            raise SourceError("the machines did not come to an instant in time") from error

    def _take(self) -> None:
        try:
            instant = self._cut.take(_Elsewhere(self._have_done), self._have_done("switch"))
        except HomeportError as error:
            self._orders.put({"do": "done", "instant": datetime.now(UTC).isoformat(), "error": error.to_json()})
            return
        self._orders.put({"do": "done", "instant": instant.isoformat()})

    def _have_done(self, what: str) -> Callable[[], None]:
        def act() -> None:
            self._orders.put({"do": what})
            try:
                told = self._done.get(timeout=STEP_MOST)
            except queue.Empty as error:
                raise SourceError(f"the machine did not {what} in time") from error
            if "error" in told:
                raise error_of_json(told["error"])

        return act


class _Elsewhere:
    """A machine that is held where it runs."""

    def __init__(self, have_done: Callable[[str], Callable[[], None]]) -> None:
        self.hold = have_done("hold")
        self.release = have_done("release")
