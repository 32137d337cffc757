"""Frames on their way to who reads a disk: they come over several connections, in about the order that was asked for,
and wait here in bounded memory until they are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from homeport.domain.extents import Extents
from homeport.domain.units import MiB
from homeport.mobility.frames import Frame, FrameWrong
from homeport.sources.errors import SourceError, ViewBroken

WINDOW = 48 * MiB
"""Bytes from the first unread piece on that are let in: what a reader may find ready, and the most that waits here.
More than two bodies' worth, so that one is sent while the other is read."""
LOOK_EVERY = 0.5
STALLED = 60.0
"""Seconds without any frame after which a reader gives up."""


class StreamClosed(ViewBroken):
    """Nobody wants these frames any more."""


class FrameStream:
    """The pieces of ``extents`` of one disk (``number``: in its view), each once. Any thread may call any method.

    ``alive``: asked now and then while a reader waits; raises where nothing can come any more."""

    def __init__(self, disk: str, number: int, extents: Extents, piece: int, alive: Callable[[], None]) -> None:
        self._disk, self._number = disk, number
        self._alive = alive
        self._changed = threading.Condition()
        self._pieces: Iterator[tuple[int, tuple[int, int]]] = enumerate(extents.pieces(piece))
        self._wanted: dict[int, tuple[int, int]] = {}
        """Number → (offset, length) of the pieces within the window that were not read yet."""
        self._at: dict[int, int] = {}
        """Offset → number of the same."""
        self._arrived: dict[int, Frame] = {}
        self._starts: dict[int, int] = {}
        """Number → bytes of all pieces before it, of the same."""
        self._let_in = self._let_in_bytes = 0
        self._following: tuple[int, tuple[int, int]] | None = None
        self._all_let_in = False
        self._finished = False
        self._error: SourceError | None = None
        self._came = time.monotonic()
        with self._changed:
            self._advance()

    def _advance(self) -> None:
        """Let in what the window has room for since the first unread piece was read."""
        low = next(iter(self._starts.values()), self._let_in_bytes)
        while True:
            following = self._following = self._following or next(self._pieces, None)
            if following is None:
                self._all_let_in = True
                return
            number, (offset, length) = following
            if self._let_in_bytes + length > low + WINDOW:
                return
            self._wanted[number], self._at[offset], self._starts[number] = (offset, length), number, self._let_in_bytes
            self._let_in, self._let_in_bytes, self._following = number + 1, self._let_in_bytes + length, None

    # ── from the wire ───────────────────────────────────────────────────────────────────────────────────────────

    def put(self, frame: Frame) -> None:
        """Returns when there was room for it. Raises FrameWrong where it was not asked for, :class:`StreamClosed`."""
        with self._changed:
            self._changed.wait_for(lambda: frame.number < self._let_in or self._all_let_in or self._error is not None)
            self._refuse_if_over()
            wanted = self._wanted.get(frame.number)
            if frame.disk != self._number or wanted != (frame.offset, frame.length) or frame.number in self._arrived:
                raise FrameWrong(
                    f"{self._disk}: frame {frame.number}, {frame.length} bytes at {frame.offset} of disk {frame.disk}, "
                    "was not asked for",
                    disk=self._disk,
                )
            self._arrived[frame.number] = frame
            self._came = time.monotonic()
            self._changed.notify_all()

    def _refuse_if_over(self) -> None:
        if self._error is not None:
            raise StreamClosed(f"{self._disk}: nobody reads these frames any more", disk=self._disk)

    # ── to the reader ───────────────────────────────────────────────────────────────────────────────────────────

    def take_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` with the piece at ``offset``, when it has come; False: that is no piece that is still to be
        read here. Raises what ended the stream, ViewBroken."""
        with self._changed:
            number = self._at.get(offset)
            if number is None or self._wanted[number][1] != len(buffer):
                return False
        began = time.monotonic()
        while (frame := self._next(number, offset)) is None:
            if time.monotonic() - max(began, self._came) > STALLED:
                self.fail(ViewBroken(f"{self._disk}: no frame came for {STALLED:.0f} s", disk=self._disk))
            self._alive()  # without the lock: it has one of its own, whose owner may just be about to tell us
        try:
            frame.unpack_into(buffer)
        except FrameWrong as error:
            self.fail(error)
            raise
        return True

    def _next(self, number: int, offset: int) -> Frame | None:
        """The frame of that piece, which then counts as read; None: it has not come in a while."""
        with self._changed:
            over = self._changed.wait_for(
                lambda: number in self._arrived or self._error is not None or self._finished, LOOK_EVERY
            )
            if self._error is not None:
                raise self._error
            frame = self._arrived.pop(number, None)
            if frame is None:
                if over:
                    raise ViewBroken(f"{self._disk}: all was sent, and bytes from {offset} on are missing")
                return None
            del self._wanted[number], self._at[offset], self._starts[number]
            self._advance()
            self._changed.notify_all()
            return frame

    def fail(self, error: SourceError) -> None:
        """Whoever waits is told; the first error counts."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._arrived.clear()
            self._changed.notify_all()

    def finish(self) -> None:
        """All of it was sent, says who sent it."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        self.fail(StreamClosed(f"{self._disk}: the read is over", disk=self._disk))
