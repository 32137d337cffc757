"""What changed, as of one instant: the interface that every source of changes keeps.

    first point:  track(P0) ─ live() ─ copy ─┐
                                             ▼
    each point:   begin_point(P1, base=P0) ─ read the view ─ handed(P1) ─ … ship … ─ commit(P1)
                                          └ abort(P1): the changes are back, as if it never began

``handed``: the changes lie fsynced at a process server, the view may go and the next point may begin; the generation
of changes stays until ``commit``: the point is in the store. The base's id is stored with the tracker; a base that is
not the one asked for means ``unknown``: compare digests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.sources.hold import Hold


class Knowledge(StrEnum):
    EXTENTS = "extents"
    """Exactly these extents may differ from the base."""
    EVERYTHING = "everything"
    """There is no base: all of the disk."""
    UNKNOWN = "unknown"
    """The tracker can't say: compare digests."""


@dataclass(frozen=True)
class Changed:
    knowledge: Knowledge
    extents: Extents = field(default_factory=Extents)


class DiskView(Protocol):
    """One disk, as of the view's instant. Reads are safe from several threads."""

    id: str
    size: int
    changed: Changed

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``. Raises :class:`ViewBroken` where the view is gone."""

    def allocated(self) -> Extents:
        """What may hold data; the rest reads as zeroes for certain (holes are skipped at a first copy)."""


@runtime_checkable
class ReadsRanges(Protocol):
    """A :class:`DiskView` that reads many small places at less than a round trip each."""

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its byte offset: ascending, no byte twice. Raises :class:`ViewBroken`."""


@dataclass(frozen=True)
class PointView:
    """All disks of a machine as of ``instant`` (UTC). ``incarnation``: the tracker's fresh identity for this cycle,
    to be kept in the point's record. ``notes``: what an operator should know (an app-consistent point that could
    only be taken crash-consistent, and why)."""

    point: PointId
    base: PointId | None
    consistency: Consistency
    instant: datetime
    incarnation: str
    disks: tuple[DiskView, ...]
    notes: tuple[str, ...] = ()


class Cut(Protocol):
    """Where machines meet that take a point of one instant (servers/group_barrier.py). Every wait is bounded."""

    def assemble(self) -> None:
        """All that the instant needs is prepared here; returns when it is elsewhere, too."""

    def take(self, hold: Hold, switch: Callable[[], None]) -> datetime:
        """The machine is held, with the others; ``switch`` is called; it goes on. Returns the instant (UTC), which is
        the others', too, where it came to one. Raises what ``switch`` raised."""


class Source(Protocol):
    def track(self, base: PointId) -> None:
        """Begin to track changes since ``base`` on all disks (now, whatever the disks hold), unless tracked already."""

    def tracked(self) -> dict[PointId, str]:
        """The bases that the tracker of *every* disk knows, with their incarnation; newest last."""

    def live(self) -> PointView:
        """All disks as they are at each read: for the first copy only. Knowledge is EVERYTHING."""

    def begin_point(
        self,
        point: PointId,
        base: PointId,
        consistency: Consistency = Consistency.CRASH,
        *,
        incarnation: str | None = None,
        cut: Cut | None = None,
    ) -> PointView:
        """A view of one instant over all disks, with what changed since ``base``; a tracker of ``base`` with another
        ``incarnation`` than the one given is not that base's: UNKNOWN. ``cut``: where the instant is shared with other
        machines."""

    def handed(self, point: PointId) -> None:
        """Drop the view of ``point``; keep its generation. Twice does no harm."""

    def commit(self, point: PointId) -> None:
        """``point`` is in the store: forget the generations older than it. Twice does no harm."""

    def abort(self, point: PointId) -> None:
        """``point`` will not be: put its changes back to its base. Twice does no harm."""

    def recover(self, handed: list[PointId]) -> None:
        """After a restart: drop views left open; keep generations of ``handed`` points (they will be shipped from
        the process server's cache), put back all others."""

    def close(self) -> None:
        """Let go of connections; the machine and its tracking go on."""
