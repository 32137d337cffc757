"""The replication loop of one item: a thread that takes points at the policy's interval and ships them.

Its truth is the store (design: the replication cycle is a loop, never a workflow). Whatever fails is reported and
tried again; only a fence ends it for good.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from homeport.domain import groups
from homeport.domain.errors import HomeportError
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.retention import points_to_prune
from homeport.domain.servers import Role
from homeport.servers.cache_room import CacheFull
from homeport.servers.crossing import Crossing
from homeport.servers.cycle import Cycle, Taken
from homeport.servers.durable import write_durably
from homeport.servers.group_barrier import GroupBarrier
from homeport.servers.machines import MachineHandle
from homeport.servers.planned_stop import Final
from homeport.servers.remote_objects import RemoteObjects
from homeport.servers.replication_spec import ReplicationSpec, renewed
from homeport.servers.shipper import Shipper
from homeport.servers.shipping import Shipping
from homeport.servers.traffic import Traffic
from homeport.store.errors import Fenced, StoreUnavailable
from homeport.store.objects import Objects
from homeport.store.spool import SpooledPoint
from homeport.store.timeline import MachineStore
from homeport.store.writer import Writer
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

PRUNE_EVERY = 30.0
THIN_EVERY = 900.0
"""Seconds between two droppings of points: each is some 40 requests, however many it drops."""
RETRY_AFTER = 5.0
REPORT_EVERY = 1.0
TRAFFIC_EVERY = 15.0
"""Seconds between two reports that bear statistics."""


class _Stop(Exception):
    """The loop was asked to end."""


class _Moved(Exception):
    """The store's gateway is somewhere else now."""


_STOPPED = HomeportError("replication has stopped", code="replication.stopped")


@dataclass
class _Request:
    consistency: Consistency
    tags: tuple[str, ...]
    answer: Future[Taken]


class Replication:
    """One item's loop. ``report`` is called with the JSON of the agent API's report whenever something changed."""

    def __init__(
        self,
        spec: ReplicationSpec,
        machine: MachineHandle,
        own_objects: Objects,
        cache: Path,
        owner: str,
        report: Callable[[dict[str, Any]], None],
        crossing: Crossing,
        *,
        identity: Identity | None = None,
        barrier: GroupBarrier | None = None,
        shipping: Shipping | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        """``identity``: what is shown to the other site's gateway, where that is reached over TLS; ``barrier``: of the
        group that the machine is a member of; ``shipping``: what all of the process server's items share;
        ``traffic``: the item's statistics."""
        self.spec = spec
        self._identity = identity
        self._shipping = shipping or Shipping.unlimited(cache)
        self._traffic = traffic or Traffic()
        self._told_traffic = -math.inf
        self._oldest: float | None = None
        self._machine = machine
        self._own_objects = own_objects
        self._cache = cache
        self._owner = owner
        self._report = report
        self._crossing = crossing
        self._barrier = barrier
        self._short = False
        """No point was begun, for want of room in the cache."""
        self._shipper: Shipper | None = None
        self._awaited: list[tuple[_Request, Taken]] = []
        """Who waits for a point that is handed to be in the store."""
        self._trouble: StoreUnavailable | None = None
        self._sent = crossing.sent
        self._round: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._requests: list[_Request] = []
        self._final: tuple[float, Future[Final]] | None = None
        self._resync = threading.Event()
        self._lock = threading.Lock()
        self._phase = "starting"
        self._found_by: dict[str, str] = {}
        self._error: HomeportError | None = None
        self._progress: dict[str, Any] | None = None
        self._head: PointId | None = None
        self._epoch: int | None = None
        """In which it wrote last."""
        self._writes = False
        """Whether this session has claimed the timeline."""
        self.superseded = False
        """It ended since another writer took its place."""
        self._stored: PointId | None = None
        """The newest point that is in the store: what the vault is told, and goes on by."""
        # Members that began at the same moment must know of each other's points before they drop any.
        self._next_thin = 0.0 if barrier is None else time.monotonic() + THIN_EVERY
        self._points: list[PointInfo] | None = None
        self._rpo_from: datetime | None = None
        self._last_report = 0.0
        self._last_app = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"replication-{spec.vm}", daemon=True)

    # ── asked from other threads ────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    @property
    def head(self) -> PointId | None:
        return self._head

    def stop(self, timeout: float | None = None) -> bool:
        """End the loop after the piece of work at hand; True when it has ended."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def renew(self, raw: dict[str, Any]) -> None:
        """Go on with what the vault tells now: see :func:`renewed`."""
        with self._lock:
            self.spec = renewed(self.spec, raw)
        self._wake.set()

    def resync(self) -> None:
        self._resync.set()
        self._wake.set()

    def take_point(self, consistency: Consistency, tags: tuple[str, ...], timeout: float) -> Taken:
        """A point begun after this call and published. Raises TimeoutError, SourceError, StoreUnavailable."""
        request = _Request(consistency, tags, Future())
        with self._lock:
            self._requests.append(request)
        self._wake.set()
        self._refuse_if_ended()
        return request.answer.result(timeout)

    def finish(self, shutdown_timeout: float, timeout: float) -> Final:
        """The planned stop: guest shut down, last changes published, process ended, loop ended. Raises TimeoutError
        when nothing has moved for ``timeout`` seconds."""
        answer: Future[Final] = Future()
        self._final = (shutdown_timeout, answer)
        self._wake.set()
        self._refuse_if_ended()
        while True:
            before = self._progress, self._last_report
            try:
                return answer.result(timeout)
            except TimeoutError:
                if answer.done() or before == (self._progress, self._last_report):
                    raise

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session()
                except _Stop:
                    break
                except _Moved:
                    log.info("the store's gateway moved", item=self.spec.item, url=self.spec.store.url)
                except Fenced as error:
                    self.superseded = "epoch" in error.details
                    if self.superseded or not self._writes:
                        self._failed("stopped", error)
                        break
                    # Nobody has claimed the timeline since this loop did: what the one before brought there at last is
                    # in its way. A new session goes on from what is there.
                    self._failed("error", error)
                    self._refuse_requests(error)
                    self._wake.wait(RETRY_AFTER)
                    self._wake.clear()
                except HomeportError as error:
                    self._failed("error", error)
                    self._refuse_requests(error)
                    self._wake.wait(RETRY_AFTER)
                    self._wake.clear()
                except Exception as error:
                    log.exception("replication failed", item=self.spec.item)
                    internal = HomeportError(f"{type(error).__name__}: {error}", code="internal")
                    self._failed("error", internal)
                    self._refuse_requests(internal)
                    self._wake.wait(RETRY_AFTER)
                    self._wake.clear()
        finally:
            if self._barrier is not None:
                self._barrier.leave(self.spec.item)
            self._ended.set()
            self._refuse_requests(_STOPPED)
            if self._phase not in ("stopped",):
                self._say("stopped", force=True)
            self._traffic.keep(every=0)

    def _session(self) -> None:
        self._writes = False
        address = self.spec.store
        store = MachineStore(self._gateway(), self.spec.keys)
        if self._epoch is not None:
            # After trouble. The trouble may be another that was given the machine: two of them break each other's views
            # of it, and would claim its timeline from each other, for ever.
            self._still_mine(store, self._epoch)
        own = MachineStore(self._own_objects, self.spec.keys)
        cycle = Cycle(
            self.spec, self._machine.source(), store, own, self._cache, self._owner, self._look,
            self._machine.describe, self._shipping.room, self._shipping.threads, self._go_on,
            self._claimed, self._traffic,
        )  # fmt: skip
        try:
            self._head = cycle.head
            self._points = store.points(self.spec.timeline)
            self._stored = self._points[-1].id if self._points else None if cycle.backlog else cycle.head
            self._rpo_from = self._points[-1].time if self._points else None
            self._ship(cycle)
            if cycle.head is None:
                self._say("seeding", force=True)
                cycle.first_copy()
            self._shipper = Shipper(f"ship-{self.spec.vm}", lambda: RETRY_AFTER, self._wake.set)
            next_prune = 0.0
            since: float | None = None
            while True:
                if self._stop.is_set():
                    raise _Stop
                self._settle(cycle)
                if self.spec.store != address:
                    raise _Moved
                if self._final is not None:
                    self._finish(cycle, store)
                    raise _Stop
                resync = self._resync.is_set()
                if resync:
                    self._resync.clear()
                    cycle.resync()
                    since = None
                due = time.monotonic() >= self._due_at(since)
                request = self._next_request()
                if due or request:
                    began = time.monotonic()
                    try:
                        self._take(cycle, store, request, together=since is not None)
                    except BaseException:
                        if resync:
                            self._resync.set()  # still to be done
                        raise
                    if self._points and time.monotonic() >= next_prune:
                        self._prune(store)
                        next_prune = time.monotonic() + PRUNE_EVERY
                    since = began if self._barrier is None else time.monotonic()
                    continue
                due_at = self._due_at(since)
                if self._barrier is not None:
                    self._barrier.free(self.spec.item, due_at)
                pause = max(0.0, due_at - time.monotonic())
                self._wake.wait(min(pause, RETRY_AFTER) if self._short else pause)
                self._wake.clear()
                if self._short and cycle.full is None:
                    since = None  # no point was begun for want of room
        finally:
            try:
                if self._shipper is not None:
                    self._shipper.stop()
                    with contextlib.suppress(HomeportError, _Stop):
                        self._settle(cycle)
            finally:
                self._shipper = None
                cycle.close()

    def _still_mine(self, store: MachineStore, epoch: int) -> None:
        """Raises Fenced where another has claimed the timeline since ``epoch``. It may be this loop's own claim, whose
        answer was lost."""
        try:
            Writer(store, self.spec.timeline, epoch, self._owner).check()
        except Fenced as error:
            newest = error.details.get("epoch")
            if newest is None or store.owner_of(self.spec.timeline, int(newest)) != self._owner:
                raise

    def _claimed(self, epoch: int) -> None:
        self._epoch, self._writes = epoch, True

    def _gateway(self) -> RemoteObjects:
        address, identity = self.spec.store, self._identity
        context = None if identity is None else identity.client_context(Role.PROCESS_SERVER, address.site)
        try:
            return RemoteObjects(
                address.url, address.token, self._crossing, context=context, throttle=self._shipping.throttle
            )
        except ValueError as error:
            raise StoreUnavailable(str(error)) from error

    def _due_at(self, since: float | None) -> float:
        """When the next point is due (monotonic seconds), by the policy as it is now. ``since``: when the last one was
        begun; of a member of a group, when it was done: it joins the others at the next round after that, however long
        the last one took it. None: at once."""
        if since is None:
            return -math.inf
        if self._barrier is None:
            return since + self.spec.interval
        return groups.next_tick(since, self.spec.interval)

    def _take(
        self, cycle: Cycle, store: MachineStore, request: _Request | None, *, together: bool = False
    ) -> Taken | None:
        """``together``: with the others of the group, unless it was asked for one of this machine."""
        try:
            return self._take_one(cycle, store, request, together=together)
        finally:
            if self._barrier is not None:
                self._barrier.busy(self.spec.item)

    def _take_one(self, cycle: Cycle, store: MachineStore, request: _Request | None, *, together: bool) -> Taken | None:
        attendance = None
        self._short = cycle.full is not None
        if self._short:
            together = False
        if self._barrier is not None and (request or not together):
            self._barrier.busy(self.spec.item)
        if self._barrier is not None and together and not request:
            attendance = self._barrier.attend(self.spec.item)
        app_due = self.spec.app_consistent and self._app_due()
        wanted = request.consistency if request else Consistency.APP if app_due else Consistency.CRASH
        try:
            if cycle.needs_store:
                with contextlib.suppress(StoreUnavailable):
                    self._drain(cycle)
            taken = cycle.take_point(wanted, request.tags if request else (), attendance)
            if attendance:
                self._round = {
                    "group": self.spec.group,
                    "at": taken.instant if taken.group else (self._round or {}).get("at"),
                    "trouble": attendance.trouble,
                }
            self._head, self._found_by = cycle.head, taken.found_by
            self._short = False
            if wanted is Consistency.APP:
                self._last_app = time.monotonic()
            if isinstance(self._error, CacheFull):
                self._error = None
            self._offer(cycle, cycle.waiting[-1])
            self._progress = None
        except BaseException as error:
            if request:
                request.answer.set_exception(_STOPPED if isinstance(error, _Stop) else error)
            self._short = isinstance(error, CacheFull)
            if isinstance(error, CacheFull) or (isinstance(error, StoreUnavailable) and cycle.backlog):
                self._failed("error", error)  # points wait in the cache; the next round tries again
                return None
            raise
        if request:
            assert self._shipper is not None
            self._awaited.append((request, taken))
            self._shipper.poke()  # an earlier trouble is no answer
        return taken

    # ── shipping, in a thread of its own ────────────────────────────────────────────────────────────────────────

    def _offer(self, cycle: Cycle, spooled: SpooledPoint) -> None:
        assert self._shipper is not None
        self._oldest = cycle.oldest
        self._shipper.give(lambda: (spooled, cycle.publish(spooled)))

    def _settle(self, cycle: Cycle, *, retry: bool = False) -> None:
        """Take note of what was shipped meanwhile, and of what keeps the rest. Raises what ends the session."""
        assert self._shipper is not None
        done = self._shipper.collect()
        published = False
        for result in done:
            if not isinstance(result, tuple):  # what became of dropping points: those that are left, or an error
                if isinstance(result, StoreUnavailable):
                    self._failed("error", result)
                elif result is not None:
                    self._points, published = result, True
                continue
            spooled, info = result
            cycle.published(spooled)
            self._points = [*(self._points or []), info]
            self._stored, self._rpo_from = info.id, info.time
            published = True
        self._oldest = cycle.oldest
        self._sample()
        trouble = self._shipper.trouble
        if isinstance(trouble, StoreUnavailable):
            if trouble is not self._trouble and not isinstance(self._error, CacheFull):
                self._failed("error", trouble)
            self._trouble = trouble
            self._refuse_awaited(trouble)
            if retry:
                self._shipper.poke()
        elif published:
            if not isinstance(self._error, CacheFull):
                self._error = None
            self._say("replicating", force=True, points=True)
        if self._awaited:
            here = [(request, taken) for request, taken in self._awaited if self._is_there(cycle, taken.point)]
            self._awaited = [awaited for awaited in self._awaited if awaited not in here]
            for request, taken in here:
                request.answer.set_result(taken)

    @staticmethod
    def _is_there(cycle: Cycle, point: PointId) -> bool:
        return all(spooled.point != point for spooled in cycle.waiting)

    def _drain(self, cycle: Cycle) -> None:
        """Wait until nothing waits for the store. Raises StoreUnavailable, and what ends the session."""
        assert self._shipper is not None
        self._shipper.poke()
        while True:
            self._settle(cycle)
            trouble = self._shipper.trouble
            if isinstance(trouble, StoreUnavailable):
                raise trouble
            if self._shipper.idle and not cycle.backlog:
                return
            if self._stop.is_set():
                raise _Stop
            self._shipper.settled(0.5)

    def _refuse_awaited(self, error: BaseException) -> None:
        awaited, self._awaited = self._awaited, []
        for request, _ in awaited:
            request.answer.set_exception(error)

    def _sample(self) -> None:
        with self._lock:
            sent, self._sent = self._crossing.sent - self._sent, self._crossing.sent
            if sent:
                self._traffic.note_crossed(sent)
        self._traffic.keep()

    def statistics(self) -> dict[str, Any]:
        """As :meth:`Traffic.to_json`, and "pending": seconds that the oldest point has waited."""
        self._sample()
        oldest = self._oldest
        pending = max(0.0, time.time() - oldest) if oldest is not None else None
        return {**self._traffic.to_json(), "pending": pending}

    def _app_due(self) -> bool:
        """Members of a group come to it in the same round."""
        every, now = self.spec.app_consistent, time.monotonic()
        if self._barrier is not None:
            return now // every > self._last_app // every
        return now - self._last_app >= every

    def _ship(self, cycle: Cycle) -> None:
        """All that waits, before anything else: at the beginning of a session."""
        self._oldest = cycle.oldest
        published = cycle.ship()
        self._oldest = None
        self._sample()
        self._head = self._stored = cycle.head
        if published:
            self._points = [*(self._points or []), *published]
            self._rpo_from = published[-1].time
        self._error = None
        self._progress = None
        self._say("replicating" if self._head else self._phase, force=True, points=bool(published) or self._phase)

    def _finish(self, cycle: Cycle, store: MachineStore) -> None:
        assert self._final is not None
        shutdown_timeout, answer = self._final
        try:
            notes = []
            if not self._machine.quiesce(shutdown_timeout):
                notes.append(
                    f"the guest did not shut down within {shutdown_timeout:.0f} s; it was paused, its last changes "
                    "taken, and powered off"
                )
            self._drain(cycle)
            taken = cycle.take_point(tags=("final",), last=True)
            self._offer(cycle, cycle.waiting[-1])
            self._drain(cycle)
            self._head = taken.point
            final = Final(taken.point, True, notes + taken.notes)
            write_durably(self._cache / "final.json", json.dumps(final.to_json()).encode())
            self._machine.power_off()
            self._points = store.points(self.spec.timeline)
            self._rpo_from = self._points[-1].time
        except BaseException as error:
            answer.set_exception(_STOPPED if isinstance(error, _Stop) else error)
            self._final = None
            raise
        answer.set_result(final)

    def _prune(self, store: MachineStore) -> None:
        """Have the shipper drop what retention doesn't keep."""
        if not self._points or self._shipper is None:
            return
        taken_back = self.spec.untagged
        points = [replace(point, tags=()) if str(point.id) in taken_back else point for point in self._points]
        shared = self._barrier.shared(self.spec.item) if self._barrier is not None else ()
        drop = points_to_prune(points, datetime.now(UTC), self.spec.retention, shared=shared)
        if drop and time.monotonic() >= self._next_thin:
            self._next_thin = time.monotonic() + THIN_EVERY
        else:
            drop = []
        timeline, newest = self.spec.timeline, self._points[-1].id.number

        def prune() -> list[PointInfo] | StoreUnavailable | None:
            try:
                if drop:
                    store.expire(timeline, [point.number for point in drop])
                left = store.points(timeline) if drop else None
                store.maintain(timeline, newest)
            except StoreUnavailable as error:  # another time; points go on
                return error
            return left

        self._shipper.give(prune)

    # ── requests and reports ────────────────────────────────────────────────────────────────────────────────────

    def _next_request(self) -> _Request | None:
        with self._lock:
            return self._requests.pop(0) if self._requests else None

    def _refuse_if_ended(self) -> None:
        """Whoever asks just when the loop ends must not wait for an answer that nobody gives."""
        if self._ended.is_set():
            self._refuse_requests(_STOPPED)

    def _refuse_requests(self, error: BaseException) -> None:
        self._refuse_awaited(error)
        while request := self._next_request():
            request.answer.set_exception(error)
        if self._final is not None and not self._final[1].done():
            self._final[1].set_exception(error)
            self._final = None

    def _go_on(self, done: int, total: int) -> None:
        """Asked between two segments that are shipped: whoever ends the loop, for a fence perhaps, must not wait for
        the whole of a large point over a slow line. What is there already is not sent again."""
        if self._stop.is_set():
            raise _Stop

    def _look(self, phase: str, done: int, total: int) -> None:
        self._go_on(done, total)
        self._progress = {"done": done, "total": total, "unit": "bytes", "text": phase}
        self._say("replicating" if phase == "reading" and self._phase == "replicating" else
                  self._phase if phase == "reading" else phase)  # fmt: skip

    def _failed(self, phase: str, error: HomeportError) -> None:
        log.warning("replication", item=self.spec.item, phase=phase, code=error.code, cause=error.cause)
        self._error = error
        self._say(phase, force=True)

    def _say(self, phase: str, *, force: bool = False, points: object = False) -> None:
        now = time.monotonic()
        if not force and phase == self._phase and now - self._last_report < REPORT_EVERY:
            return
        self._phase = phase
        self._last_report = now
        report: dict[str, Any] = {
            "item": self.spec.item,
            "timeline": self.spec.timeline,
            "phase": phase,
            "progress": self._progress,
            "head": str(self._stored) if self._stored else None,
            "rpo_from": self._rpo_from.isoformat() if self._rpo_from else None,
            "error": self._error.to_json() if self._error else None,
            "crossed": self._crossing.to_json(),
            "found_by": self._found_by,
            "round": self._round,
        }
        if self._barrier is not None and self._points is not None:
            self._barrier.knows(self.spec.item, self._points)
        if points and self._points is not None:
            report["points"] = [point.to_json() for point in self._points]
        if now - self._told_traffic >= TRAFFIC_EVERY:
            self._told_traffic = now
            report["traffic"] = self.statistics()
        self._report(report)
