"""A machine that runs elsewhere at the site, as its process server sees it: its mobility service is asked for all.

What must be known at once (a view, a read) fails while the mobility service is away, as it does where a machine's
process is gone. What only lets go (handed, commit, abort, recover) is done there when it is back: points that are
handed are shipped meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import structlog

from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.mobility.frames import PIECE_MOST
from homeport.mobility.wire import Json, RemoteDisk, ServiceAway, extents_of_text, extents_to_text, view_of_json
from homeport.servers.durable import write_durably
from homeport.servers.frame_stream import FrameStream
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.errors import SourceError, SourceGone, ViewBroken
from homeport.sources.interface import Cut, PointView

log = structlog.get_logger(__name__)

OWED = "owed-commit"
"""File: the newest point that is in the store and whose source was not told."""


class RemoteMachine:
    """``work``: a folder of the item's own here; ``exclude``: ids of disks that are not replicated."""

    def __init__(self, exchange: SourceExchange, vm: str, work: Path, *, exclude: Collection[str] = ()) -> None:
        self._exchange = exchange
        self._vm = vm
        self._work = work
        self._args: Json = {"exclude": sorted(exclude)}

    def _ask(self, name: str, **args: Any) -> Any:
        return self._exchange.ask(self._vm, name, {**self._args, **args})

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = self._ask("describe")
        return described

    def source(self) -> RemoteSource:
        return RemoteSource(self._exchange, self._vm, self._args, self._work / OWED)

    def quiesce(self, timeout: float) -> bool:
        return bool(self._ask("quiesce", timeout=timeout))

    def power_off(self) -> None:
        self._ask("power-off")

    def is_off(self) -> bool:
        return bool(self._ask("is-off"))

    def stay_off(self, reason: str) -> None:
        self._ask("stay-off", reason=reason)

    def forget_tracking(self) -> None:
        """Where nobody is there it stays tracked, for nothing, until it is protected anew or started again."""
        try:
            self._ask("forget-tracking")
        except ServiceAway as error:
            log.warning("the machine goes on tracking its changes", vm=self._vm, reason=error.cause)


class RemoteMachines:
    """Those whose mobility services talk to ``exchange``."""

    def __init__(self, exchange: SourceExchange) -> None:
        self.exchange = exchange

    def machine(self, vm: str, work: Path, exclude: Collection[str] = ()) -> RemoteMachine:
        return RemoteMachine(self.exchange, vm, work, exclude=exclude)


class RemoteSource:
    """The source of one machine. ``owed``: the file of a commit that its mobility service was not told yet.

    One thread drives it; the views it hands out are read by any number of threads. Raises ServiceAway.
    """

    def __init__(self, exchange: SourceExchange, vm: str, args: Json, owed: Path) -> None:
        self._exchange = exchange
        self._vm = vm
        self._args = args
        self._owed = owed
        self._session: str | None = None
        self._recover: list[PointId] | None = None

    def _ask(self, name: str, *, meeting: Cut | None = None, patience: float | None = None, **args: Any) -> Any:
        if name not in ("recover", "commit"):
            self._catch_up()
        return self._exchange.ask(
            self._vm, name, {**self._args, **args}, source=self._id, cut=meeting, patience=patience
        )

    @property
    def _id(self) -> str:
        """Of this session, from its first word on until :meth:`close`."""
        if self._session is None:
            self._session = self._exchange.open_source()
        return self._session

    def _catch_up(self) -> None:
        """What was to be done while nobody was there. The commit first: what recovers must know what is no base."""
        if self._owed.exists():
            self._ask("commit", point=self._owed.read_text())
            self._owed.unlink()
        if self._recover is not None:
            handed, self._recover = self._recover, None
            try:
                self._ask("recover", handed=[str(point) for point in handed])
            except BaseException:
                self._recover = handed
                raise

    def track(self, base: PointId) -> None:
        self._ask("track", base=str(base))

    def tracked(self) -> dict[PointId, str]:
        return {PointId.parse(point): incarnation for point, incarnation in self._ask("tracked")}

    def live(self) -> PointView:
        return self._view(self._ask("live"))

    def begin_point(
        self,
        point: PointId,
        base: PointId,
        consistency: Consistency = Consistency.CRASH,
        *,
        incarnation: str | None = None,
        cut: Cut | None = None,
    ) -> PointView:
        told = self._ask(
            "begin",
            meeting=cut,
            point=str(point),
            base=str(base),
            consistency=str(consistency),
            incarnation=incarnation,
            cut=cut is not None,
        )
        return self._view(told)

    def _view(self, told: Json) -> PointView:
        found = view_of_json(told)
        disks = tuple(
            RemoteView(self._exchange, self._vm, self._id, found.view, number, disk, self._args)
            for number, disk in enumerate(found.disks)
        )
        return PointView(
            found.point, found.base, found.consistency, found.instant, found.incarnation, disks, found.notes
        )

    def handed(self, point: PointId) -> None:
        """Where nobody is there the view goes with its lease, or when the next one is begun."""
        with self._unless_gone("handed", point):
            self._ask("handed", point=str(point))

    def commit(self, point: PointId) -> None:
        with self._unless_gone("commit", point):
            self._ask("commit", point=str(point), patience=0.0)
            self._owed.unlink(missing_ok=True)
            return
        write_durably(self._owed, str(point).encode())

    def abort(self, point: PointId) -> None:
        """Where nobody is there its changes are put back when the next point is begun."""
        with self._unless_gone("abort", point):
            self._ask("abort", point=str(point))

    def recover(self, handed: list[PointId]) -> None:
        self._recover = handed
        try:
            with self._unless_gone("recover", None):
                self._catch_up()
        except BaseException:
            self.close()  # nobody goes on with it
            raise

    def close(self) -> None:
        id, self._session = self._session, None
        if id is None:
            return
        self._exchange.close_source(id)
        try:
            self._exchange.ask(self._vm, "close", self._args, source=id, patience=0.0)
        except SourceError as error:  # its lease ends it
            log.info("a source was not closed", vm=self._vm, reason=error.cause)

    @contextlib.contextmanager
    def _unless_gone(self, what: str, point: PointId | None) -> Iterator[None]:
        try:
            yield
        except (ServiceAway, SourceGone) as error:
            log.info("the machine can't be reached", during=what, vm=self._vm, point=str(point), reason=error.cause)


class RemoteView:
    """One disk as of an instant, read over the wire. Thread-safe. ``number``: of the disk in its view."""

    def __init__(
        self, exchange: SourceExchange, vm: str, source: str, view: str, number: int, disk: RemoteDisk, args: Json
    ) -> None:
        self.id, self.size, self.changed = disk.id, disk.size, disk.changed
        self._exchange = exchange
        self._vm = vm
        self._source = source
        self._args = {**args, "view": view, "disk": disk.id, "number": number}
        self._number = number
        self._stream: FrameStream | None = None

    def allocated(self) -> Extents:
        told: str = self._exchange.ask(self._vm, "allocated", self._args, source=self._source)
        return extents_of_text(told)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        content = buffer.cast("B")
        stream = self._stream
        if stream is not None and stream.take_into(offset, content):
            return
        if not len(content):
            return
        piece = min(len(content), PIECE_MOST)
        if offset + len(content) > self.size:
            raise ViewBroken(f"{self.id} ends at {self.size}, before {offset + len(content)}", disk=self.id)
        wanted = Extents.of([(offset, len(content))])
        with self._reading(wanted, piece) as stream:
            for at, length in wanted.pieces(piece):
                part = content[at - offset : at - offset + length]
                if not stream.take_into(at, part):
                    raise ViewBroken(f"{self.id}: bytes from {at} on did not come", disk=self.id)

    @contextlib.contextmanager
    def expecting(self, extents: Extents, piece: int) -> Iterator[None]:
        wanted = extents.clip(0, self.size)
        if not wanted or self._stream is not None:
            yield
            return
        with self._reading(wanted, piece) as stream:
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None

    def _reading(self, extents: Extents, piece: int) -> contextlib.AbstractContextManager[FrameStream]:
        args = {**self._args, "extents": extents_to_text(extents), "piece": piece}
        return self._exchange.reading(
            self._vm,
            self._source,
            args,
            lambda alive: FrameStream(self.id, self._number, extents, piece, alive),
        )
