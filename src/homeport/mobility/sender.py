"""Carries out, next to the machines, what process servers elsewhere ask of their sources, and sends what these read.

    process server ──call──▶ its source here (sources/qemu.py) ──▶ answer
                   ──read──▶ pieces of a view ──2 threads──▶ frames ──▶ bodies of up to 16 MiB

A process server is served only while the configuration server names it for the machine, under the number that was
given out with that. One that falls silent loses its views after :data:`~homeport.mobility.wire.LEASE` seconds, so that
no scratch space is held for nobody; what changed stays tracked.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.domain.units import MiB
from homeport.mobility.frames import PIECE_MOST, pack
from homeport.mobility.wire import LEASE, Call, CallStale, Json, extents_of_text, extents_to_text, view_to_json
from homeport.sources.errors import SourceError, ViewBroken
from homeport.sources.interface import Cut, DiskView, PointView, Source

log = structlog.get_logger(__name__)

THREADS = 2
"""That read and compress for one reader at a time: compression takes most of it, and has no use for more."""
BODY_FIRST, BODY_MOST = MiB, 16 * MiB
"""Bytes of the disk in a body: little at first, so that who waits has something to do soon, then more and more."""


class TidySource(Source, Protocol):
    def drop_views(self) -> None:
        """Drop whatever view is open, whoever opened it; changes stay tracked."""


class Machine(Protocol):
    """A machine as it is here."""

    def describe(self) -> dict[str, Any]: ...

    def source(self) -> TidySource: ...

    def quiesce(self, timeout: float) -> bool: ...

    def power_off(self) -> None: ...

    def is_off(self) -> bool: ...

    def stay_off(self, reason: str) -> None: ...

    def forget_tracking(self) -> None: ...


Post = Callable[[list[bytes]], None]
"""Brings a body's frames to who asked for them. Raises SourceError where they are not wanted any more."""
NewCut = Callable[[], Cut]
Named = dict[str, "Assignment"]


@dataclass(frozen=True)
class Assignment:
    """Which process server has a machine: its name, where it listens, and the number of that word; a later one is
    greater."""

    process_server: str
    url: str
    fence: int


@dataclass
class _Session:
    """What one session of replication has open here. ``heard``: monotonic seconds."""

    id: str
    caller: str
    source: Source
    heard: float
    view: str | None = None
    disks: dict[str, DiskView] = field(default_factory=dict)

    def show(self, view: PointView) -> Json:
        self.view = secrets.token_hex(8)
        self.disks = {disk.id: disk for disk in view.disks}
        return view_to_json(self.view, view)

    def disk(self, args: Json) -> DiskView:
        """Raises ViewBroken."""
        found = self.disks.get(args["disk"]) if args["view"] == self.view else None
        if found is None:
            raise ViewBroken(f"{args['disk']}: the view that is to be read is gone", disk=args["disk"])
        return found

    def close(self) -> None:
        self.view, self.disks = None, {}
        try:
            self.source.close()
        except HomeportError as error:
            log.warning("a source was not closed", reason=error.cause)


class Sender:
    """``machine_of``: the machine of a name, without the disks named. Any thread may call any method."""

    def __init__(
        self,
        machine_of: Callable[[str, Collection[str]], Machine],
        *,
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine_of = machine_of
        self._lease = lease
        self._clock = clock
        self._lock = threading.Lock()
        self._named: Named = {}
        self._sessions: dict[str, _Session] = {}
        self._turns: dict[str, threading.RLock] = {}
        self._seen: set[str] = set()
        """Machines that were named since this process began."""

    # ── who may ask ─────────────────────────────────────────────────────────────────────────────────────────────

    def name(self, named: Named) -> None:
        """Which process server has which machine, as the configuration server says now. What it said before about a
        machine is never believed again. Views of others than those named go."""
        with self._lock:
            for vm, one in named.items():
                known = self._named.get(vm)
                if known is not None and known.fence > one.fence:
                    log.warning("an older word on who has a machine", vm=vm, known=known.fence, told=one.fence)
                    continue
                self._named[vm] = one
            for vm in set(self._named) - set(named):
                del self._named[vm]
            new = [vm for vm in self._named if vm not in self._sessions and vm not in self._seen]
            self._seen.update(new)
            lost = [
                vm
                for vm, session in self._sessions.items()
                if vm not in self._named or self._named[vm].process_server != session.caller
            ]
        for vm in lost:
            self._end(vm, "another process server has it")
        for vm in new:
            self._tidy(vm)

    def _tidy(self, vm: str) -> None:
        """An earlier process of this service may have died with a view open."""
        with self._turn(vm):
            with self._lock:
                if vm in self._sessions:
                    return
            try:
                self._machine_of(vm, ()).source().drop_views()
            except (HomeportError, OSError) as error:
                log.info("nothing to tidy", vm=vm, reason=str(error))

    @property
    def named(self) -> Named:
        with self._lock:
            return dict(self._named)

    def _check(self, caller: str, call: Call) -> None:
        """Raises CallStale."""
        with self._lock:
            one = self._named.get(call.vm)
        if one is None or (one.process_server, one.fence) != (caller, call.fence):
            whose = f"{one.process_server}'s by number {one.fence}" if one else "nobody's"
            raise CallStale(f"{caller} asks for {call.vm} by number {call.fence}, and it is {whose}")

    # ── leases ──────────────────────────────────────────────────────────────────────────────────────────────────

    def renew(self, caller: str, open_sources: Collection[str]) -> None:
        """``caller`` is there, and these sessions of it go on; it has given up what else it had."""
        with self._lock:
            mine = [(vm, session) for vm, session in self._sessions.items() if session.caller == caller]
            for _, session in mine:
                if session.id in open_sources:
                    session.heard = self._clock()
        for vm, session in mine:
            if session.id not in open_sources and self._clock() - session.heard > min(5.0, self._lease):
                self._end(vm, "its process server has ended that session", session)

    def tend(self) -> None:
        """Drop what nobody has asked for in a lease."""
        with self._lock:
            late = [
                (vm, session) for vm, session in self._sessions.items() if self._clock() - session.heard > self._lease
            ]
        for vm, session in late:
            self._end(vm, f"its process server was not heard of for {self._lease:.0f} s", session)

    def close(self) -> None:
        with self._lock:
            machines = list(self._sessions)
        for vm in machines:
            self._end(vm, "the mobility service ends")

    def _end(self, vm: str, why: str, only: _Session | None = None) -> None:
        with self._turn(vm):
            with self._lock:
                session = self._sessions.get(vm)
                if session is None or (only is not None and session is not only):
                    return
                del self._sessions[vm]
            log.info("a source is closed", vm=vm, process_server=session.caller, why=why)
            session.close()

    def _turn(self, vm: str) -> threading.RLock:
        with self._lock:
            return self._turns.setdefault(vm, threading.RLock())

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────

    def carry_out(self, caller: str, call: Call, post: Post, cut: NewCut, wanted: Callable[[], None]) -> Any:
        """The answer to ``call`` of the process server ``caller``. ``post``: for what it reads; ``cut``: where the
        instant of its view is shared; ``wanted``: raises ViewBroken where it may have been given up, and is asked when
        its turn has come. Raises CallStale, and what the source or the machine raises."""
        if call.name == "read":
            with self._turn(call.vm):
                self._check(caller, call)
                wanted()
                session = self._session(caller, call)
                disk = session.disk(call.args)
            self._read(call, session, disk, post)
            return None
        with self._turn(call.vm):
            self._check(caller, call)
            wanted()
            if call.name == "close" and not self._has(call):
                return None
            if call.source:
                return self._ask_source(self._session(caller, call), call, cut)
            return self._ask_machine(call)

    def _has(self, call: Call) -> bool:
        with self._lock:
            session = self._sessions.get(call.vm)
        return session is not None and session.id == call.source

    def _session(self, caller: str, call: Call) -> _Session:
        """That of the call; one that there was before is over."""
        with self._lock:
            session = self._sessions.get(call.vm)
        if session is not None and (session.id, session.caller) != (call.source, caller):
            self._end(call.vm, "another session of replication begins", session)
            session = None
        if session is None:
            source = self._machine_of(call.vm, call.args.get("exclude", ())).source()
            session = _Session(call.source, caller, source, self._clock())
            with self._lock:
                self._sessions[call.vm] = session
        session.heard = self._clock()
        return session

    def _ask_source(self, session: _Session, call: Call, cut: NewCut) -> Any:
        source, args = session.source, call.args
        match call.name:
            case "track":
                source.track(PointId.parse(args["base"]))
            case "tracked":
                return [[str(point), incarnation] for point, incarnation in source.tracked().items()]
            case "live":
                return session.show(source.live())
            case "begin":
                return session.show(
                    source.begin_point(
                        PointId.parse(args["point"]),
                        PointId.parse(args["base"]),
                        Consistency(args["consistency"]),
                        incarnation=args["incarnation"],
                        cut=cut() if args["cut"] else None,
                    )
                )
            case "allocated":
                return extents_to_text(session.disk(args).allocated())
            case "handed" | "commit" | "abort":
                getattr(source, call.name)(PointId.parse(args["point"]))
            case "recover":
                source.recover([PointId.parse(point) for point in args["handed"]])
            case "close":
                self._end(call.vm, "its session of replication is over", session)
            case _:
                raise SourceError(f"this mobility service knows no call {call.name!r}", remedy="Upgrade it.")
        return None

    def _ask_machine(self, call: Call) -> Any:
        machine = self._machine_of(call.vm, call.args.get("exclude", ()))
        match call.name:
            case "describe":
                return machine.describe()
            case "quiesce":
                return machine.quiesce(float(call.args["timeout"]))
            case "power-off":
                machine.power_off()
            case "is-off":
                return machine.is_off()
            case "stay-off":
                machine.stay_off(call.args["reason"])
            case "forget-tracking":
                machine.forget_tracking()
            case _:
                raise SourceError(f"this mobility service knows no call {call.name!r}", remedy="Upgrade it.")
        return None

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, call: Call, session: _Session, disk: DiskView, post: Post) -> None:
        """Read and send all that is asked for; the first error ends it and is raised."""
        piece = int(call.args["piece"])
        if not 0 < piece <= PIECE_MOST:
            raise SourceError(f"pieces of {piece} bytes can't be sent")
        wanted = extents_of_text(call.args["extents"]).clip(0, disk.size)
        batches = _batches(wanted, piece)
        lock, stop, errors = threading.Lock(), threading.Event(), list[BaseException]()

        def work() -> None:
            memory = new_buffer(piece)
            try:
                while not stop.is_set():
                    with lock:
                        batch = next(batches, None)
                    if batch is None:
                        return
                    body: list[bytes] = []
                    for number, offset, length in batch:
                        if stop.is_set():
                            return
                        content = memory[:length]
                        disk.read_into(offset, content)
                        body.append(pack(int(call.args["number"]), number, offset, content))
                    session.heard = self._clock()
                    post(body)
            except BaseException as error:  # to be told to who asked
                errors.append(error)
                stop.set()

        more = THREADS - 1 if wanted.total > BODY_FIRST else 0
        threads = [threading.Thread(target=work, name=f"read-{call.vm}", daemon=True) for _ in range(more)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _batches(extents: Extents, piece: int) -> Iterator[list[tuple[int, int, int]]]:
    """(number, offset, length) of all pieces in order, as many as go into one body."""
    batch: list[tuple[int, int, int]] = []
    size, most = 0, BODY_FIRST
    for number, (offset, length) in enumerate(extents.pieces(piece)):
        batch.append((number, offset, length))
        size += length
        if size >= most:
            yield batch
            batch, size, most = [], 0, min(2 * most, BODY_MOST)
    if batch:
        yield batch
