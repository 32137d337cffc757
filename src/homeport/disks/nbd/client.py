"""A blocking NBD client: fixed newstyle, structured replies, metadata contexts, several requests in flight.

The protocol leaves the server free to answer reads in pieces, with holes, in any order; to answer a block status for
less than was asked, or beyond it. All of that is evened out here: a read fills its buffer, a status covers its range.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.disks import unixpath
from homeport.disks.errors import check_range
from homeport.disks.nbd import wire
from homeport.disks.nbd.channel import Channel
from homeport.disks.nbd.errors import NbdClosed, NbdError, NbdRefused
from homeport.disks.zero import fill_zero
from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.units import GiB, MiB

Address = str | Path | tuple[str, int]
"""The path of a unix socket, or (host, port)."""
Status = NDArray[np.int64]
"""Shape (n, 2): length in bytes and status flags of consecutive ranges."""

DEPTH = 8
"""Requests in flight; their replies without data always fit into a socket's buffer, so that sending can't deadlock."""
TRANSFER = 1 * MiB
"""Bytes of one read or write."""
ZERO_STEP = 128 * MiB
"""Bytes of one zero or trim: a server may have to write the zeroes, within the time-out."""
STATUS_STEP = 1 * GiB
"""Bytes of one block status request."""
MAX_CHUNK = 64 * MiB
"""No server has a reason to send a larger piece; more means that the stream is out of step."""


@dataclass(slots=True)
class _Request:
    command: int
    offset: int
    length: int
    flags: int = 0
    payload: memoryview | None = None
    into: memoryview | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)
    statuses: dict[int, Status] = field(default_factory=dict)
    error: NbdError | None = None

    @property
    def answered(self) -> bool:
        """Whether the pieces of a read that came fill its buffer, each byte once."""
        position = 0
        for start, length in sorted(self.pieces):
            if start != position:
                return False
            position += length
        return position == (0 if self.into is None else len(self.into))


class NbdClient:
    """One connection to one export. Calls from several threads are served one after the other (see NbdPool).

    ``address``: path of a unix socket (of any length), ``(host, port)``, or a socket that is connected already.
    ``meta_contexts``: names of the contexts that :meth:`block_status` will be asked for; all must be offered.
    ``timeout``: seconds without any sign of the server after which a call raises :class:`NbdClosed`.

    Raises :class:`NbdClosed` where nobody answers, :class:`NbdRefused` where the server hasn't what is asked for.
    """

    size: int
    """Bytes of the export."""
    flags: int
    """Transmission flags (wire.FLAG_…)."""
    minimum_block: int
    """Offsets and lengths must be multiples of this many bytes; reads and block status are widened to it."""
    maximum_block: int
    """Largest read or write in bytes."""

    def __init__(
        self,
        address: Address | socket.socket,
        export: str,
        *,
        meta_contexts: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> None:
        self.export = export
        self._lock = threading.Lock()
        self._cookie = 0
        self._contexts: dict[str, int] = {}
        self._channel = _open(address, timeout)
        self._closed = False
        self.minimum_block, self.maximum_block = 1, wire.MAX_PAYLOAD
        try:
            self._negotiate(meta_contexts)
        except (EOFError, OSError) as error:
            self._drop()
            raise NbdClosed(f"the NBD server went away during the handshake: {error}") from error
        except BaseException:
            self._drop()
            raise

    # Negotiation

    def _negotiate(self, contexts: Sequence[str]) -> None:
        magic, option_magic, handshake = wire.GREETING.unpack(self._channel.receive(wire.GREETING.size))
        if magic != wire.GREETING_MAGIC or option_magic != wire.OPTION_MAGIC:
            raise NbdClosed("the peer is no NBD server of the newstyle kind")
        if not handshake & wire.HANDSHAKE_FIXED_NEWSTYLE:
            raise NbdRefused("the NBD server does not speak the fixed newstyle protocol")
        answer = handshake & (wire.HANDSHAKE_FIXED_NEWSTYLE | wire.HANDSHAKE_NO_ZEROES)
        self._channel.send(wire.CLIENT_FLAGS.pack(answer))
        structured = self._structured_replies()
        if contexts:
            if not structured:
                raise NbdRefused("the NBD server offers no structured replies, so no block status either")
            self._set_contexts(contexts)
        self._go()

    def _option(self, option: int, data: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """The replies up to and without the acknowledgement. Raises NbdRefused."""
        self._channel.send(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)), data)
        while True:
            header = self._channel.receive(wire.OPTION_REPLY.size)
            magic, echoed, kind, length = wire.OPTION_REPLY.unpack(header)
            if magic != wire.OPTION_REPLY_MAGIC or echoed != option or length > MAX_CHUNK:
                raise NbdClosed("the NBD server broke the protocol during the handshake")
            payload = bytes(self._channel.receive(length)) if length else b""
            if kind == wire.REP_ACK:
                return
            if kind & wire.REP_IS_ERROR:
                reason = wire.OPTION_ERRORS.get(kind, f"error {kind:#x}")
                text = payload.decode("utf-8", "replace")
                raise NbdRefused(
                    f"the NBD server refused export {self.export!r}: {reason}" + (f" ({text})" if text else ""),
                    option=option,
                    reply=kind,
                )
            yield kind, payload

    def _structured_replies(self) -> bool:
        try:
            deque(self._option(wire.OPT_STRUCTURED_REPLY), 0)
        except NbdRefused:
            return False
        return True

    def _set_contexts(self, contexts: Sequence[str]) -> None:
        queries = b"".join(_string(name) for name in contexts)
        data = _string(self.export) + wire.U32.pack(len(contexts)) + queries
        for kind, payload in self._option(wire.OPT_SET_META_CONTEXT, data):
            if kind == wire.REP_META_CONTEXT and len(payload) >= 4:
                self._contexts[payload[4:].decode("utf-8", "replace")] = wire.U32.unpack_from(payload)[0]
        missing = sorted(set(contexts) - set(self._contexts))
        if missing:
            raise NbdRefused(f"export {self.export!r} has no {', '.join(missing)}", missing=missing)

    def _go(self) -> None:
        found = False
        data = _string(self.export) + wire.U16.pack(1) + wire.U16.pack(wire.INFO_BLOCK_SIZE)
        for kind, payload in self._option(wire.OPT_GO, data):
            if kind != wire.REP_INFO or len(payload) < 2:
                continue
            (info,) = wire.U16.unpack_from(payload)
            if info == wire.INFO_EXPORT and len(payload) == wire.INFO_EXPORT_DATA.size:
                _, self.size, self.flags = wire.INFO_EXPORT_DATA.unpack(payload)
                found = True
            elif info == wire.INFO_BLOCK_SIZE and len(payload) == wire.INFO_BLOCK_SIZE_DATA.size:
                _, minimum, _, maximum = wire.INFO_BLOCK_SIZE_DATA.unpack(payload)
                self.minimum_block = max(minimum, 1)
                self.maximum_block = max(maximum, self.minimum_block)
        if not found:
            raise NbdClosed("the NBD server broke the protocol: it did not tell the export's size")

    # What a disk can do

    @property
    def read_only(self) -> bool:
        return bool(self.flags & wire.FLAG_READ_ONLY)

    @property
    def closed(self) -> bool:
        """Whether this connection is of no use any more."""
        return self._closed

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from byte ``offset``. Raises NbdError, NbdClosed, DiskOutOfRange."""
        view = buffer.cast("B")
        self._check(offset, len(view))
        block = self.minimum_block
        if offset % block or len(view) % block:
            first, last = offset // block * block, -(-(offset + len(view)) // block) * block
            wide = new_buffer(min(last, self.size) - first)
            self.read_into(first, wide)
            view[:] = wide[offset - first : offset - first + len(view)]
            return
        self._run(
            _Request(wire.CMD_READ, offset + start, len(piece), into=piece) for start, piece in self._pieces(view)
        )

    def read_ranges(self, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its byte offset: several requests are in flight. As :meth:`read_into`."""
        requests = []
        for offset, buffer in ranges:
            view = buffer.cast("B")
            if offset % self.minimum_block or len(view) % self.minimum_block:
                self.read_into(offset, view)
                continue
            self._check(offset, len(view))
            requests += [
                _Request(wire.CMD_READ, offset + start, len(piece), into=piece) for start, piece in self._pieces(view)
            ]
        self._run(requests)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from byte ``offset``."""
        self._check(offset, length)
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview, fua: bool = False) -> None:
        """Write ``data`` at byte ``offset``; with ``fua`` it is on stable storage when this returns."""
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        flags, flush = self._durably(fua)
        self._run(
            _Request(wire.CMD_WRITE, offset + start, len(piece), flags, payload=piece)
            for start, piece in self._pieces(view)
        )
        if flush:
            self.flush()

    def zero(self, offset: int, length: int, *, fua: bool = False, keep_allocated: bool = False) -> None:
        """Make a range read as zeroes; the server may give its space back unless ``keep_allocated``."""
        self._check(offset, length)
        if not self.flags & wire.FLAG_SEND_WRITE_ZEROES:
            zeroes = memoryview(bytes(min(length, TRANSFER)))
            for start in range(0, length, TRANSFER):
                self.write(offset + start, zeroes[: length - start], fua)
            return
        flags, flush = self._durably(fua)
        self._ranges(wire.CMD_WRITE_ZEROES, offset, length, flags | (wire.CMD_FLAG_NO_HOLE if keep_allocated else 0))
        if flush:
            self.flush()

    def trim(self, offset: int, length: int) -> None:
        """Say that a range isn't needed any more. A hint: what it reads as afterwards is the server's choice."""
        self._check(offset, length)
        if self.flags & wire.FLAG_SEND_TRIM:
            self._ranges(wire.CMD_TRIM, offset, length, 0)

    def flush(self) -> None:
        """Everything written before, on any connection that shares the disk's cache, is on stable storage."""
        if not self.flags & wire.FLAG_SEND_FLUSH:
            if self.read_only:
                return
            raise NbdRefused(f"the NBD server can't flush export {self.export!r}: writes would not be durable")
        self._run([_Request(wire.CMD_FLUSH, 0, 0)])

    def block_status(self, context: str, offset: int, length: int) -> Status:
        """The status of exactly ``[offset, offset + length)`` in ``context`` (one of ``meta_contexts``).

        Neighbours of equal flags may be apart. Raises NbdError, NbdClosed, DiskOutOfRange.
        """
        if context not in self._contexts:
            raise NbdRefused(f"context {context!r} was not asked for when export {self.export!r} was opened")
        self._check(offset, length)
        identifier, block, end = self._contexts[context], self.minimum_block, offset + length
        # A server may stop short; what is left of each step is asked for again, until all is covered.
        starts = list(range(offset, end, STATUS_STEP))
        answers: list[list[Status]] = [[] for _ in starts]
        open_steps = [(step, start, min(start + STATUS_STEP, end)) for step, start in enumerate(starts)]
        while open_steps:
            requests = [
                _Request(wire.CMD_BLOCK_STATUS, low, min(-(-stop // block) * block, self.size) - low)
                for low, stop in ((start // block * block, stop) for _, start, stop in open_steps)
            ]
            self._run(requests)
            again = []
            for (step, start, stop), request in zip(open_steps, requests, strict=True):
                part = request.statuses.get(identifier)
                if part is None:
                    self._drop()
                    raise NbdClosed(f"the NBD server broke the protocol: no status for context {context!r}")
                clipped = _clip(part, request.offset, start, stop)
                covered = int(clipped[:, 0].sum())
                if not covered:
                    self._drop()
                    raise NbdClosed("the NBD server broke the protocol: a status that covers nothing")
                answers[step].append(clipped)
                if start + covered < stop:
                    again.append((step, start + covered, stop))
            open_steps = again
        parts = [part for step in answers for part in step]
        return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)

    def close(self) -> None:
        """Say goodbye and let go of the connection. Twice does no harm."""
        with self._lock:
            if self._closed:
                return
            try:
                self._channel.send(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))
            except OSError:
                pass  # the server is gone, which is what we want
            self._drop()

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Requests and replies

    def _check(self, offset: int, length: int) -> None:
        check_range(f"NBD export {self.export!r}", self.size, offset, length)

    def _durably(self, fua: bool) -> tuple[int, bool]:
        """Command flags, and whether a flush must follow."""
        if fua and self.flags & wire.FLAG_SEND_FUA:
            return wire.CMD_FLAG_FUA, False
        return 0, fua

    def _pieces(self, view: memoryview) -> Iterator[tuple[int, memoryview]]:
        step = max(min(self.maximum_block, TRANSFER) // self.minimum_block, 1) * self.minimum_block
        for start in range(0, len(view), step):
            yield start, view[start : start + step]

    def _ranges(self, command: int, offset: int, length: int, flags: int) -> None:
        self._run(
            _Request(command, offset + start, min(ZERO_STEP, length - start), flags)
            for start in range(0, length, ZERO_STEP)
        )

    def _run(self, requests: Iterable[_Request]) -> None:
        """Send all and take all replies in. Raises the first error after the last reply."""
        with self._lock:
            if self._closed:
                raise NbdClosed(f"the connection to NBD export {self.export!r} is closed")
            try:
                failure = self._pump(iter(requests))
            except (EOFError, OSError) as error:
                self._drop()
                raise NbdClosed(f"the connection to NBD export {self.export!r} broke: {error}") from error
            except BaseException:
                self._drop()  # in the middle of a reply: nothing that follows could be understood
                raise
        if failure is not None:
            raise failure

    def _pump(self, queue: Iterator[_Request]) -> NbdError | None:
        flying: dict[int, _Request] = {}
        failure: NbdError | None = None
        while True:
            for request in islice(queue, DEPTH - len(flying) if failure is None else 0):
                self._cookie += 1
                flying[self._cookie] = request
                header = wire.REQUEST.pack(
                    wire.REQUEST_MAGIC, request.flags, request.command, self._cookie, request.offset, request.length
                )
                self._channel.send(*((header,) if request.payload is None else (header, request.payload)))
            if not flying:
                return failure
            cookie = self._reply(flying)
            if cookie is not None:
                request = flying.pop(cookie)
                if request.error is None and not request.answered:
                    raise NbdClosed("the NBD server broke the protocol: a read was answered in part")
                failure = failure or request.error

    def _reply(self, flying: dict[int, _Request]) -> int | None:
        """Take one reply or chunk in; the cookie if that was the request's last."""
        (magic,) = wire.U32.unpack(self._channel.receive(4))
        if magic == wire.SIMPLE_REPLY_MAGIC:
            _, error, cookie = wire.SIMPLE_REPLY.unpack(magic.to_bytes(4) + bytes(self._channel.receive(12)))
            request = self._find(flying, cookie)
            if error:
                request.error = self._refusal(request, error, "")
            elif request.into is not None:
                self._channel.receive_into(request.into)
                request.pieces.append((0, len(request.into)))
            return int(cookie)
        if magic != wire.STRUCTURED_REPLY_MAGIC:
            raise NbdClosed(f"the NBD server broke the protocol: a reply begins with {magic:#x}")
        _, flags, kind, cookie, length = wire.CHUNK.unpack(magic.to_bytes(4) + bytes(self._channel.receive(16)))
        request = self._find(flying, cookie)
        self._chunk(request, kind, length)
        return int(cookie) if flags & wire.CHUNK_FLAG_DONE else None

    @staticmethod
    def _find(flying: dict[int, _Request], cookie: int) -> _Request:
        request = flying.get(cookie)
        if request is None:
            raise NbdClosed("the NBD server broke the protocol: a reply to nothing that was asked")
        return request

    def _chunk(self, request: _Request, kind: int, length: int) -> None:
        if length > MAX_CHUNK:
            raise NbdClosed(f"the NBD server broke the protocol: a piece of {length} bytes")
        if kind == wire.CHUNK_OFFSET_DATA and request.into is not None and length > 8:
            (offset,) = wire.CHUNK_OFFSET.unpack(self._channel.receive(8))
            target = self._target(request, offset, length - 8)
            self._channel.receive_into(target)
            return
        payload = bytes(self._channel.receive(length)) if length else b""
        if kind == wire.CHUNK_NONE and not length:
            return
        if kind == wire.CHUNK_OFFSET_HOLE and request.into is not None and length == wire.CHUNK_HOLE.size:
            target = self._target(request, *wire.CHUNK_HOLE.unpack(payload))
            fill_zero(target)
        elif kind == wire.CHUNK_BLOCK_STATUS and length >= 12 and length % 8 == 4:
            pairs = np.frombuffer(payload, ">u4", offset=4).astype(np.int64).reshape(-1, 2)
            request.statuses[wire.U32.unpack_from(payload)[0]] = pairs
        elif kind & wire.CHUNK_IS_ERROR and length >= wire.CHUNK_ERROR.size:
            error, size = wire.CHUNK_ERROR.unpack_from(payload)
            text = payload[wire.CHUNK_ERROR.size :][:size].decode("utf-8", "replace")
            request.error = self._refusal(request, error, text)
        else:
            raise NbdClosed(f"the NBD server broke the protocol: a piece of unknown kind {kind:#x}")

    @staticmethod
    def _target(request: _Request, offset: int, length: int) -> memoryview:
        start = offset - request.offset
        if request.into is None or start < 0 or start + length > len(request.into):
            raise NbdClosed("the NBD server broke the protocol: data that nobody asked for")
        request.pieces.append((start, length))
        return request.into[start : start + length]

    def _refusal(self, request: _Request, error: int, text: str) -> NbdError:
        number = wire.ERRORS.get(error, error)
        failed = NbdError("", errno=number)
        what = wire.COMMANDS.get(request.command, str(request.command))
        cause = f"{what} of {request.length} bytes at {request.offset} of NBD export {self.export!r}: {failed.name}"
        details: dict[str, Any] = {"offset": request.offset, "length": request.length}
        return NbdError(cause + (f" ({text})" if text else ""), errno=number, **details)

    def _drop(self) -> None:
        self._closed = True
        self._channel.close()


def _open(address: Address | socket.socket, timeout: float) -> Channel:
    if isinstance(address, socket.socket):
        return Channel(address, timeout=timeout)
    try:
        if isinstance(address, tuple):
            return Channel(socket.create_connection(address, timeout), timeout=timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            unixpath.connect(sock, address)
            return Channel(sock, timeout=timeout)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        where = address if not isinstance(address, tuple) else "{}:{}".format(*address)
        raise NbdClosed(f"no NBD server answers at {where}: {error.strerror or error}") from error


def _string(text: str) -> bytes:
    data = text.encode()
    return wire.U32.pack(len(data)) + data


def _clip(status: Status, origin: int, start: int, stop: int) -> Status:
    """What of ``status``, which begins at byte ``origin``, lies within ``[start, stop)``."""
    ends = origin + np.cumsum(status[:, 0])
    begins = np.maximum(ends - status[:, 0], start)
    ends = np.minimum(ends, stop)
    keep = ends > begins
    return np.stack((ends[keep] - begins[keep], status[keep, 1]), axis=1)
