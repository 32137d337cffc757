"""A TCP relay on loopback between two servers: what crosses is counted, and it can be cut, silenced and slowed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from tests.ports import free_port

Mode = Literal["open", "cut", "silent"]
Answer = TypeVar("Answer")
_AT_ONCE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Relay:
    """From ``port`` to the first of ``targets`` (ports of 127.0.0.1) that takes a connection; a thread carries it all.

    ``sent``: bytes that came from those who connect, carried on or not; ``received``: those that they got.
    """

    def __init__(self, *targets: int) -> None:
        self.targets = targets
        self.port = free_port()
        self.sent = 0
        self.received = 0
        self._mode: Mode = "open"
        self._rate: float | None = None
        self._free_at = 0.0
        self._ways: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._dead: set[asyncio.Task[None]] = set()
        """Connections of which something was swallowed: they can't be carried on."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"relay-{self.port}", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    # ── from the test's thread ──────────────────────────────────────────────────────────────────────────────────

    def cut(self) -> None:
        """All connections are reset, and each new one is."""
        self._do(self._become("cut"))

    def silence(self) -> None:
        """Connections are taken, what comes is swallowed, and nobody is told; ends are swallowed as well."""
        self._do(self._become("silent"))

    def slow(self, rate: float | None) -> None:
        """Bytes a second from those who connect, over all connections; None: as fast as it goes."""
        self._rate = rate

    def mend(self) -> None:
        """Connections of which something was swallowed are reset, as by a router that has forgotten them."""
        self._rate = None
        self._do(self._become("open"))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # ── in its own ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> asyncio.Server:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # small, so that what a sender is rid of has nearly crossed
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _AT_ONCE)
        listener.bind(("127.0.0.1", self.port))
        return await asyncio.start_server(self._carry, sock=listener, limit=_AT_ONCE)

    async def _become(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode == "silent":
            self._dead |= set(self._ways)
        mended = before == "silent" and mode == "open"
        ended = set(self._ways) if mode == "cut" else set(self._dead) if mended else set()
        for task in list(ended):
            self._reset(task)
        self._dead -= ended

    def _reset(self, task: asyncio.Task[None]) -> None:
        for end in self._ways.pop(task, []):
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()
        if task is not asyncio.current_task():
            task.cancel()

    async def _end(self) -> None:
        self._server.close()
        tasks = list(self._ways)
        for task in tasks:
            self._reset(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ways[task] = [writer]
        try:
            if self._mode == "cut":
                self._reset(task)
                return
            if self._mode == "silent":
                self._dead.add(task)
                await self._pass(reader, None, task, count_sent=True)
                return
            far = await self._reach()
            if far is None:
                self._reset(task)
                return
            self._ways[task].append(far[1])
            await asyncio.gather(
                self._pass(reader, far[1], task, count_sent=True), self._pass(far[0], writer, task, count_sent=False)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._dead.discard(task)
            for end in self._ways.pop(task, []):
                end.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for target in self.targets:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", target, limit=_AT_ONCE)
        return None

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter | None,
        task: asyncio.Task[None],
        *,
        count_sent: bool,
    ) -> None:
        while data := await reader.read(_AT_ONCE):
            if count_sent:
                self.sent += len(data)
                await self._pace(len(data))
            if task in self._dead or writer is None:
                continue
            if not count_sent:
                self.received += len(data)
            writer.write(data)
            await writer.drain()
        if task in self._dead:
            await asyncio.Event().wait()  # nobody is told; mending resets it
        for end in self._ways.get(task, []):
            end.close()

    async def _pace(self, count: int) -> None:
        if self._rate is None:
            return
        self._free_at = max(self._loop.time(), self._free_at) + count / self._rate
        await asyncio.sleep(self._free_at - self._loop.time())
