"""What a process server wants of machines that run elsewhere at its site, and what their mobility services bring.

    RemoteSource ──call──▶ waits ◀──poll──  mobility service
                 ◀─result──        ◀─answer─
                 ◀─frames (frame_stream.py)─

A mobility service is there while it polls. Each of its processes is a session; what an earlier one had in hand is lost.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from homeport.mobility.frames import FrameWrong, Reader, unpack
from homeport.mobility.wire import Call, Json, ServiceAway, error_of_json
from homeport.servers.frame_stream import FrameStream, StreamClosed
from homeport.servers.remote_meeting import Meeting
from homeport.sources.errors import SourceError, ViewBroken
from homeport.sources.interface import Cut

log = structlog.get_logger(__name__)

PATIENCE = 10.0
"""Seconds that a call waits for the mobility service of its machine to be there."""
GONE_AFTER = 5.0
"""Seconds without a poll after which it is away: one that is there asks again at once."""
LOOK_EVERY = 0.25
POLL_MOST = 30.0


@dataclass
class _Service:
    """One process of a mobility service. ``machines``: which it has, under which number each was named."""

    name: str
    session: str
    machines: dict[str, int]
    polls: int = 0
    heard: float = 0.0

    @property
    def there(self) -> bool:
        return self.polls > 0 or time.monotonic() - self.heard < GONE_AFTER


@dataclass
class _Asked:
    """``taken``: by a poll that is answered; ``told``: by a later poll that it has it in hand."""

    call: Call
    service: _Service
    answer: Future[Any] = field(default_factory=Future)
    taken: bool = False
    cut: Cut | None = None
    meeting: Meeting | None = None


class SourceExchange:
    """Any thread may call any method."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._changed = threading.Condition()
        self._services: dict[str, _Service] = {}
        self._asked: dict[str, _Asked] = {}
        self._streams: dict[str, FrameStream] = {}
        self._open: set[str] = set()
        self._closed = False

    # ── for those who want something of a machine ───────────────────────────────────────────────────────────────

    def open_source(self) -> str:
        """The id of a new session of replication; its views elsewhere live while it is open here."""
        with self._changed:
            id = secrets.token_hex(8)
            self._open.add(id)
            return id

    def close_source(self, id: str) -> None:
        with self._changed:
            self._open.discard(id)

    def ask(
        self, vm: str, name: str, args: Json, *, source: str = "", cut: Cut | None = None, patience: float | None = None
    ) -> Any:
        """The answer of the machine's mobility service. Raises ServiceAway, and what it raised."""
        asked = self._begin(vm, name, args, source, cut, self._patience if patience is None else patience)
        try:
            while True:
                try:
                    return asked.answer.result(LOOK_EVERY)
                except TimeoutError:
                    if asked.answer.done():
                        raise
                    self._must_be_there(asked)
        finally:
            with self._changed:
                self._asked.pop(asked.call.id, None)

    @contextlib.contextmanager
    def reading(
        self, vm: str, source: str, args: Json, make: Callable[[Callable[[], None]], FrameStream]
    ) -> Iterator[FrameStream]:
        """A stream, made by ``make`` (given what tells whether anything can come), whose frames are on their way while
        the context lasts; what comes later is refused."""
        with self._changed:
            id = secrets.token_hex(8)
        asked: list[_Asked] = []
        stream = make(lambda: self._must_be_there(asked[0]))

        def ended(answer: Future[Any]) -> None:
            error = answer.exception()
            if error is None:
                stream.finish()
            else:
                stream.fail(error if isinstance(error, SourceError) else ViewBroken(str(error)))

        with self._changed:
            self._streams[id] = stream
        try:
            asked.append(self._begin(vm, "read", {**args, "stream": id}, source, None, self._patience))
            asked[0].answer.add_done_callback(ended)
            yield stream
        finally:
            stream.close()
            with self._changed:
                self._streams.pop(id, None)
                if asked:
                    self._asked.pop(asked[0].call.id, None)

    def _begin(self, vm: str, name: str, args: Json, source: str, cut: Cut | None, patience: float) -> _Asked:
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                service = self._service_of(vm)
                if service is not None:
                    break
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    raise ServiceAway(f"no mobility service that has the machine {vm} is connected", vm=vm)
                self._changed.wait(min(left, LOOK_EVERY))
            id = secrets.token_hex(8)
            asked = _Asked(Call(id, vm, service.machines[vm], name, args, source), service, cut=cut)
            self._asked[id] = asked
            self._changed.notify_all()
            return asked

    def _service_of(self, vm: str) -> _Service | None:
        able = [each for each in self._services.values() if vm in each.machines and each.there]
        return max(able, key=lambda each: each.machines[vm], default=None)

    def _must_be_there(self, asked: _Asked) -> None:
        """Raises ServiceAway, also to who waits for the answer."""
        with self._changed:
            if asked.answer.done() or (asked.service.there and not self._closed):
                return
            self._lose(asked)
        asked.answer.result(0)

    @staticmethod
    def _lose(asked: _Asked) -> None:
        if not asked.answer.done():
            asked.answer.set_exception(
                ServiceAway(f"the mobility service {asked.service.name} went away", vm=asked.call.vm)
            )

    def services(self) -> list[Json]:
        """{"name", "there", "machines"} of each that was heard of."""
        with self._changed:
            return [
                {"name": each.name, "there": each.there, "machines": sorted(each.machines)}
                for _, each in sorted(self._services.items())
            ]

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nothing is asked any more; who polls is sent away."""
        with self._changed:
            self._closed = True
            for asked in self._asked.values():
                self._lose(asked)
            self._changed.notify_all()

    # ── for mobility services ───────────────────────────────────────────────────────────────────────────────────

    def poll(self, name: str, body: Json, gone: Callable[[], bool]) -> Json:
        """What the mobility service ``name`` is to do; waits for that, a while. ``gone``: whether it is."""
        deadline = time.monotonic() + min(float(body.get("wait", 0)), POLL_MOST)
        have = set(body["have"])
        with self._changed:
            service = self._services.get(name)
            if service is None or service.session != body["session"]:
                if service is not None:
                    for asked in list(self._asked.values()):
                        if asked.service is service:
                            self._lose(asked)
                service = self._services[name] = _Service(name, body["session"], {})
                log.info("mobility service", name=name, machines=sorted(body["machines"]))
            service.machines = {str(vm): int(fence) for vm, fence in body["machines"].items()}
            self._changed.notify_all()
            if not body.get("wait"):  # it only tells; what it has in hand, its other poll says
                return {"calls": [], "open": sorted(self._open)}
            for asked in list(self._asked.values()):
                if asked.service is service and asked.taken and asked.call.id not in have:
                    self._lose(asked)  # it has been taken, and its answer did not get here
            service.polls, service.heard = service.polls + 1, time.monotonic()
            try:
                while True:
                    found = [each for each in self._asked.values() if each.service is service and not each.taken]
                    left = deadline - time.monotonic()
                    if found or left <= 0 or self._closed or self._services.get(name) is not service:
                        break
                    self._changed.wait(min(left, LOOK_EVERY))
                    if gone():
                        service.heard = -GONE_AFTER
                        raise ConnectionError(f"{name} closed its connection")
                if self._closed:
                    raise ConnectionError("this process server ends")
                for each in found:
                    each.taken = True
                service.heard = time.monotonic()
            finally:
                service.polls -= 1
            wanted = [id for id in have if id in self._asked and self._is_wanted(self._asked[id], service)]
            calls = [each.call.to_json() for each in found]
            return {"calls": calls, "open": sorted(self._open), "wanted": sorted(wanted)}

    @staticmethod
    def _is_wanted(asked: _Asked, service: _Service) -> bool:
        return asked.service is service and not asked.answer.done()

    def answer(self, name: str, body: Json) -> None:
        """Nobody may wait for it any more."""
        with self._changed:
            asked = self._asked.get(body["id"])
            if asked is None or asked.service.name != name or asked.answer.done():
                return
            if "error" in body:
                asked.answer.set_exception(error_of_json(body["error"]))
            else:
                asked.answer.set_result(body.get("result"))

    def take_frames(self, stream_id: str, body: Reader, length: int) -> None:
        """Raises StreamClosed, FrameWrong; what ends too early breaks the view, and raises EOFError."""
        with self._changed:
            stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamClosed("nobody reads these frames any more")
        try:
            for frame in unpack(body, length):
                stream.put(frame)
        except FrameWrong as error:
            stream.fail(error)
            raise
        except (EOFError, OSError) as error:
            stream.fail(ViewBroken(f"frames broke off on their way: {error}"))
            raise

    def cut(self, name: str, id: str, body: Json) -> Json:
        """A step of an instant that machines share. Raises StreamClosed where nobody waits for it."""
        with self._changed:
            asked = self._asked.get(id)
            if asked is None or asked.cut is None or asked.service.name != name:
                raise SourceError("nobody takes a point with others by this call")
            if asked.meeting is None:
                asked.meeting = Meeting(asked.cut)
            meeting = asked.meeting
        return meeting.step(body)
