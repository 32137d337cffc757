"""Progress of bytes that this process moves itself: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from homeport.cli.answers import Session
from homeport.cli.formats import show_size
from homeport.cli.progress import Rate, share
from homeport.cli.speech import fill, label, told
from homeport.cli.waiting import PLAIN_EVERY

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
"""Called with the bytes moved since the last call; from any thread."""


def _terminal() -> Console | None:
    """Standard error, if bars can be drawn there. Rich is loaded only for that."""
    if not sys.stderr.isatty():
        return None
    from homeport.cli.consoles import complaints

    console = complaints()
    return console if console.is_terminal else None


@contextmanager
def transfer(session: Session, title: str, total: int) -> Iterator[Advance]:
    """Shows how far ``total`` bytes have come while its body runs."""
    if session.json_wanted:
        yield lambda count: None
    elif (console := _terminal()) is not None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console) as bars:
            bar = bars.add_task(told(title), total=total)
            yield lambda count: bars.advance(bar, count)
    else:
        lines = _Lines(session, title, total)
        yield lines.advance


@contextmanager
def counting(session: Session, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how far something countable has come, such as objects: its body calls with what is done and what there is
    in all, from any thread."""
    if session.json_wanted:
        yield lambda done, total: None
    elif (console := _terminal()) is not None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(label(unit), markup=False),
        )
        with Progress(*columns, console=console) as bars:
            bar = bars.add_task(told(title), total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
    else:
        last = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_EVERY:
                last = time.monotonic()
                session.note(
                    f"{told(title)}: {fill('{done} of {total}', done=str(done), total=str(total))} {label(unit)}"
                )

        yield tell


class _Lines:
    def __init__(self, session: Session, title: str, total: int) -> None:
        self._session, self._title, self._total = session, title, total
        self._done = 0
        self._last = time.monotonic()
        self._rate = Rate()
        self._lock = threading.Lock()
        session.note(f"{title}: {show_size(total)}")

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < PLAIN_EVERY:
                return
            self._last = now
            rate = self._rate.observe(self._done)
            speed = f", {show_size(rate)}/s" if rate else ""
            percent = share(self._done, self._total) if self._total else 100
            amount = fill("{done} of {total}", done=show_size(self._done), total=show_size(self._total))
            self._session.note(f"{told(self._title)}: {amount} ({percent} %){speed}")
