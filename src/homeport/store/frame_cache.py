"""Decoded frames in memory, shared by all readers of a machine; each is fetched by one thread at a time.

A frame is named by a number, its *place*: which segment (counted as this process met them) and where in it. Looking it
up is the whole cost of a read that hits.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

from homeport.store.cache import Cache
from homeport.store.names import Segment

_OFFSET_BITS = 32  # a segment is less than 4 GiB


class Flight:
    """A frame that some thread fetches just now."""

    __slots__ = ("_done", "error", "view")

    def __init__(self) -> None:
        self._done = threading.Event()
        self.view: memoryview | None = None
        self.error: BaseException | None = None

    def land(self, view: memoryview | None, error: BaseException | None) -> None:
        self.view, self.error = view, error
        self._done.set()

    def wait(self) -> memoryview:
        """The frame. Raises what the fetching thread met."""
        self._done.wait()
        if self.view is None:
            raise self.error or AssertionError("a flight landed with nothing")
        return self.view


class FrameCache:
    """Thread-safe. Every claim must end in :meth:`deliver` or :meth:`fail`: others wait for it."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of decoded frames kept."""
        self.limit = limit
        self._frames: Cache[memoryview] = Cache(limit, len)
        #: A place's frame, read-only, where it is in memory; bound here because a read is little more than this call.
        self.get = self._frames.get
        self._segments: dict[Segment, int] = {}
        self._next = itertools.count()
        self._flights: dict[int, Flight] = {}
        self._lock = threading.Lock()

    @property
    def weight(self) -> int:
        """Bytes kept now."""
        return self._frames.weight

    def __contains__(self, place: int) -> bool:
        return place in self._frames or place in self._flights

    def place(self, segment: Segment, offset: int) -> int:
        """The name of the frame at byte ``offset`` of a segment."""
        number = self._segments.get(segment)
        if number is None:
            number = self._segments.setdefault(segment, next(self._next))
        return number << _OFFSET_BITS | offset

    def claim(self, places: Iterable[int]) -> tuple[list[int], dict[int, memoryview], dict[int, Flight]]:
        """Split frames into those to be fetched by the caller, those here by now, and those that others fetch."""
        mine: list[int] = []
        here: dict[int, memoryview] = {}
        others: dict[int, Flight] = {}
        with self._lock:
            for place in places:
                flight = self._flights.get(place)
                if flight is not None:
                    others[place] = flight
                    continue
                # A flight is forgotten after its frame was put: it can't be missed between the two.
                view = self._frames.get(place)
                if view is not None:
                    here[place] = view
                else:
                    self._flights[place] = Flight()
                    mine.append(place)
        return mine, here, others

    def deliver(self, place: int, blocks: bytes) -> memoryview:
        """A claimed frame is here."""
        view = self._frames.put(place, memoryview(blocks))
        self._land(place, view, None)
        return view

    def fail(self, place: int, error: BaseException) -> None:
        """A claimed frame can't be had; whoever waits for it gets ``error``."""
        self._land(place, None, error)

    def _land(self, place: int, view: memoryview | None, error: BaseException | None) -> None:
        with self._lock:
            flight = self._flights.pop(place)
        flight.land(view, error)
