"""Where the replications of a group's members meet, so that their points are of one instant.

    each member's thread:  … free ─ attend ─ prepare ─ assemble ─ (freeze) ─ hold ─┬─ switch ─ release ─ read, ship …
                                       bounded waits:   READY       FROZEN    HELD ┘

All are held before the first one goes on: nothing that any machine did after its view can be in another's. Whoever is
not ready in time is left out and takes a point of its own; where one of them can't be held in time, all go on at once
and none of these points counts as common. Nobody waits for what another one reads or ships.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType

import structlog

from homeport.domain import groups
from homeport.domain.errors import HomeportError
from homeport.domain.points import PointId, PointInfo
from homeport.sources.hold import Hold

log = structlog.get_logger(__name__)

READY = 2.0
"""Seconds that members wait for others that are expected; nothing stands still meanwhile."""
FROZEN = 6.0
"""Seconds that a member whose file systems are frozen waits for others to freeze: less than a freeze may last."""
HELD = 1.0
"""Seconds that a machine stands still for others to stand still: less than its guard gives it."""


class _Round:
    """One meeting. All fields belong to the barrier's condition."""

    def __init__(self, number: str, expected: set[str]) -> None:
        self.id = number
        self.expected = expected
        """Who is waited for."""
        self.ready: set[str] = set()
        self.closed = False
        """Who is not ready by now takes no part."""
        self.frozen: set[str] = set()
        self.held: set[str] = set()
        self.instant: datetime | None = None
        """When all were held."""
        self.broken: str | None = None
        """Why it came to no common instant."""


class GroupBarrier:
    """The members of one group at one site. Any thread may call any method."""

    def __init__(self, name: str, *, ready: float = READY, frozen: float = FROZEN, held: float = HELD) -> None:
        """``ready``, ``frozen``, ``held``: how long members wait for each other, in seconds."""
        self.name = name
        self.limits = {"ready": ready, "frozen": frozen, "held": held}
        self.news = threading.Condition()
        self._free: dict[str, float] = {}
        """Who waits, and when it comes (monotonic seconds)."""
        self._points: dict[str, Sequence[PointInfo]] = {}
        self._round: _Round | None = None

    # ── who is there ────────────────────────────────────────────────────────────────────────────────────────────

    def free(self, member: str, due: float) -> None:
        """It does nothing until ``due`` (monotonic seconds), and a round about then waits for it."""
        with self.news:
            self._free[member] = due

    def busy(self, member: str) -> None:
        """It does something else; no round waits for it."""
        with self.news:
            self._free.pop(member, None)
            if self._round is not None and not self._round.closed:
                self._round.expected.discard(member)
            self.news.notify_all()

    def knows(self, member: str, points: Sequence[PointInfo]) -> None:
        """These are the member's points, oldest first."""
        with self.news:
            self._points[member] = list(points)

    def leave(self, member: str) -> None:
        """It is no member here any more."""
        self.busy(member)
        with self.news:
            self._points.pop(member, None)

    def shared(self, member: str) -> list[PointId]:
        """Those of its points whose rounds all others here have, too."""
        with self.news:
            others = [points for name, points in self._points.items() if name != member]
            return groups.shared_points(self._points.get(member, ()), others)

    def attend(self, member: str) -> Attendance:
        """To take part in the round at hand, or to begin one."""
        return Attendance(self, member)

    # ── the round, for those who attend ─────────────────────────────────────────────────────────────────────────

    def enter(self, member: str) -> _Round:
        """Ready: returns when all are that are expected, or their time is up."""
        with self.news:
            found = self._round
            if found is None or found.closed:
                soon = time.monotonic() + self.limits["ready"]
                found = _Round(groups.new_round(), {each for each, due in self._free.items() if due <= soon})
                self._round = found
            self._free.pop(member, None)
            found.expected.add(member)
            found.ready.add(member)
            self.news.notify_all()
            self._wait(lambda: found.closed or found.ready >= found.expected, "ready")
            if not found.closed:
                found.closed = True
                if late := found.expected - found.ready:
                    log.info("a round goes on without members", group=self.name, late=sorted(late))
                self.news.notify_all()
            return found

    def meet_frozen(self, found: _Round, member: str) -> None:
        """All that are in the round are about to be held."""
        with self.news:
            found.frozen.add(member)
            self.news.notify_all()
            if not self._wait(lambda: found.broken is not None or found.frozen >= found.ready, "frozen"):
                self._break(found, "members were not frozen in time", found.ready - found.frozen)

    def meet_held(self, found: _Round, member: str) -> None:
        """Its machine stands still; returns when all do, or the round is broken."""
        with self.news:
            found.held.add(member)
            if found.broken is None and found.held >= found.ready:
                # Under this lock: whoever waits has not let its machine go on, and will see this instant.
                found.instant = datetime.now(UTC)
            self.news.notify_all()
            if not self._wait(lambda: found.broken is not None or found.instant is not None, "held"):
                self._break(found, "machines did not stand still in time", found.ready - found.held)

    def give_up(self, found: _Round, member: str, why: str) -> None:
        """It takes no part any more; before the instant, nobody does then."""
        with self.news:
            if found.instant is None and found.broken is None:
                self._break(found, why, {member})
                self.news.notify_all()

    def _break(self, found: _Round, why: str, who: set[str]) -> None:
        found.broken = why
        log.warning("a round came to no common instant", group=self.name, why=why, members=sorted(who))
        self.news.notify_all()

    def _wait(self, condition: Callable[[], bool], which: str) -> bool:
        return self.news.wait_for(condition, self.limits[which])


class Attendance:
    """One member's part in a round: the ``cut`` that its source is given. A context: on leaving it nobody waits for the
    member any more."""

    def __init__(self, barrier: GroupBarrier, member: str) -> None:
        self._barrier = barrier
        self._member = member
        self._round: _Round | None = None
        self._late = False

    @property
    def mark(self) -> str | None:
        """What the point bears, once its view is taken; None: it is of this machine alone."""
        found = self._round
        return groups.mark(self._barrier.name, found.id) if found and found.instant and not self._late else None

    @property
    def trouble(self) -> str | None:
        """Why the point is of this machine alone."""
        if self._late:
            return "the machine went on before its view was taken"
        return self._round.broken if self._round else None

    def assemble(self) -> None:
        self._round = self._barrier.enter(self._member)

    def take(self, hold: Hold, switch: Callable[[], None]) -> datetime:
        assert self._round is not None
        found = self._round
        self._barrier.meet_frozen(found, self._member)
        if found.broken is None and len(found.ready) == 1:
            self._barrier.meet_held(found, self._member)  # nobody else: its own instant needs no standing still
        elif found.broken is None:
            return self._take_held(found, hold, switch)
        instant = found.instant or datetime.now(UTC)
        switch()
        return instant

    def _take_held(self, found: _Round, hold: Hold, switch: Callable[[], None]) -> datetime:
        began = time.monotonic()
        try:
            hold.hold()
        except HomeportError as error:
            self._barrier.give_up(found, self._member, error.cause)
            instant = datetime.now(UTC)
            switch()
            return instant
        try:
            self._barrier.meet_held(found, self._member)
            instant = found.instant or datetime.now(UTC)
            switch()
        finally:
            self._late = self._let_go(hold)
        log.info("held", group=self._barrier.name, member=self._member, ms=round(1000 * (time.monotonic() - began), 1))
        return instant

    def _let_go(self, hold: Hold) -> bool:
        """Whether it went on by itself before."""
        try:
            hold.release()
        except HomeportError as error:
            log.warning("held machine", group=self._barrier.name, member=self._member, reason=error.cause)
            return True
        return False

    def __enter__(self) -> Attendance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._round is not None:
            self._barrier.give_up(self._round, self._member, f"a member failed: {error or 'it took no view'}")
        self._barrier.busy(self._member)


class Groups:
    """All groups of a site, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._barriers: dict[str, GroupBarrier] = {}

    def of(self, name: str) -> GroupBarrier:
        with self._lock:
            return self._barriers.setdefault(name, GroupBarrier(name))
