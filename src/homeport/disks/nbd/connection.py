"""One client of our NBD server: handshake, then requests, until it says goodbye or goes away."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping
from struct import error as StructError
from typing import cast

from homeport.disks.nbd import wire
from homeport.disks.nbd.channel import Channel
from homeport.disks.nbd.export import Export, PieceExport, Pieces, WritableExport
from homeport.disks.nbd.replies import HOLE_FROM, Replies
from homeport.disks.zero import is_zero
from homeport.domain.buffers import buffer as new_buffer
from homeport.domain.errors import HomeportError
from homeport.domain.logs import get_logger
from homeport.domain.units import BLOCK, KiB

log = get_logger(__name__)

READ_AHEAD = 64 * KiB
MAX_OPTION = 64 * KiB
"""Bytes of one option's data; more than any client has a use for."""
MAX_DESCRIPTORS = 64 * KiB
"""Ranges in one answer to a block status."""
_EPERM, _EIO, _EINVAL = 1, 5, 22
_KNOWN_FLAGS = wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE | wire.CMD_FLAG_DF | wire.CMD_FLAG_REQ_ONE
_CONTEXT = 1
"""The number under which a connection knows base:allocation."""


class _Goodbye(Exception):
    """The client ended the session, as the protocol has it."""


class _Garbage(Exception):
    """The client doesn't speak the protocol: nothing that follows can be understood."""


class Connection:
    def __init__(self, sock: socket.socket, exports: Mapping[str, Export], handshake_timeout: float) -> None:
        self._channel = Channel(sock, timeout=handshake_timeout, read_ahead=READ_AHEAD)
        self._exports = exports
        self._structured = False
        self._context_of: str | None = None
        self._allocation = False
        self._export: Export
        self._replies: Replies

    def serve(self) -> None:
        """Returns when the client is gone."""
        try:
            self._handshake()
            self._channel.set_timeout(None)
            self._transmit()
        except (_Goodbye, EOFError):
            pass
        except (_Garbage, StructError, UnicodeDecodeError) as error:
            log.warning("an NBD client broke the protocol and was dropped", reason=str(error))
        except OSError as error:
            log.info("an NBD client went away", reason=str(error))

    def abort(self) -> None:
        """Make :meth:`serve` return, from another thread."""
        self._channel.shut_down()

    def close(self) -> None:
        """For the thread that served, or before any did."""
        self._channel.close()

    # Handshake

    def _handshake(self) -> None:
        flags = wire.HANDSHAKE_FIXED_NEWSTYLE | wire.HANDSHAKE_NO_ZEROES
        self._channel.send(wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, flags))
        (client,) = wire.CLIENT_FLAGS.unpack(self._channel.receive(wire.CLIENT_FLAGS.size))
        if client & ~flags:
            raise _Garbage(f"client flags {client:#x}")
        padding = 0 if client & wire.HANDSHAKE_NO_ZEROES else wire.EXPORT_NAME_PADDING
        while True:
            magic, option, length = wire.OPTION.unpack(self._channel.receive(wire.OPTION.size))
            if magic != wire.OPTION_MAGIC or length > MAX_OPTION:
                raise _Garbage(f"option {option} of {length} bytes with magic {magic:#x}")
            if self._option(option, bytes(self._channel.receive(length)) if length else b"", padding):
                return

    def _option(self, option: int, data: bytes, padding: int) -> bool:
        """True when transmission begins."""
        match option:
            case wire.OPT_EXPORT_NAME:
                if (export := self._exports.get(data.decode())) is None:
                    raise _Goodbye  # the protocol has no other way to say no here
                self._choose(data.decode(), export)
                reply = wire.EXPORT_NAME_REPLY.pack(export.size, _transmission_flags(export))
                self._channel.send(reply + bytes(padding))
                return True
            case wire.OPT_ABORT:
                self._answer(option, wire.REP_ACK)
                raise _Goodbye
            case wire.OPT_LIST if not data:
                for name in list(self._exports):
                    self._answer(option, wire.REP_SERVER, wire.U32.pack(len(name.encode())) + name.encode())
                self._answer(option, wire.REP_ACK)
            case wire.OPT_INFO | wire.OPT_GO:
                return self._info(option, data)
            case wire.OPT_STRUCTURED_REPLY if not data:
                self._structured = True
                self._answer(option, wire.REP_ACK)
            case wire.OPT_LIST_META_CONTEXT | wire.OPT_SET_META_CONTEXT:
                self._meta_context(option, data)
            case wire.OPT_LIST | wire.OPT_STRUCTURED_REPLY:
                self._answer(option, wire.REP_ERR_INVALID)
            case _:
                self._answer(option, wire.REP_ERR_UNSUP)
        return False

    def _answer(self, option: int, kind: int, data: bytes = b"") -> None:
        self._channel.send(wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _info(self, option: int, data: bytes) -> bool:
        name, rest = _take_string(data)
        if len(rest) < 2 or len(rest) != 2 + 2 * wire.U16.unpack_from(rest)[0]:
            self._answer(option, wire.REP_ERR_INVALID)
            return False
        export = self._exports.get(name)
        if export is None:
            self._answer(option, wire.REP_ERR_UNKNOWN, f"no export is named {name!r}".encode())
            return False
        flags = _transmission_flags(export)
        self._answer(option, wire.REP_INFO, wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, export.size, flags))
        sizes = wire.INFO_BLOCK_SIZE_DATA.pack(wire.INFO_BLOCK_SIZE, 1, BLOCK, wire.MAX_PAYLOAD)
        self._answer(option, wire.REP_INFO, sizes)
        self._answer(option, wire.REP_ACK)
        if option == wire.OPT_INFO:
            return False
        self._choose(name, export)
        return True

    def _choose(self, name: str, export: Export) -> None:
        self._export = export
        self._allocation = self._structured and self._context_of == name

    def _meta_context(self, option: int, data: bytes) -> None:
        name, rest = _take_string(data)
        (count,) = wire.U32.unpack_from(rest)
        rest = rest[4:]
        queries = []
        for _ in range(count):
            query, rest = _take_string(rest)
            queries.append(query)
        if rest or not self._structured:
            self._answer(option, wire.REP_ERR_INVALID)
            return
        if name not in self._exports:
            self._answer(option, wire.REP_ERR_UNKNOWN)
            return
        if option == wire.OPT_LIST_META_CONTEXT:
            offered = not queries or "base:" in queries or wire.BASE_ALLOCATION in queries
        else:
            offered = wire.BASE_ALLOCATION in queries
            self._context_of = name if offered else None
        if offered:
            number = _CONTEXT if option == wire.OPT_SET_META_CONTEXT else 0
            self._answer(option, wire.REP_META_CONTEXT, wire.U32.pack(number) + wire.BASE_ALLOCATION.encode())
        self._answer(option, wire.REP_ACK)

    # Transmission

    def _transmit(self) -> None:
        # Touched pages cost memory, reserved ones don't. Freed with its last view, which an error may still hold.
        buffer = new_buffer(wire.MAX_PAYLOAD)
        channel, size, unpack = self._channel, wire.REQUEST.size, wire.REQUEST.unpack
        replies = self._replies = Replies(channel, self._structured)
        keeper = self._export if isinstance(self._export, PieceExport) else None
        while True:
            if channel.buffered < size:
                replies.flush()
            magic, flags, command, cookie, offset, length = unpack(channel.receive(size))
            if magic != wire.REQUEST_MAGIC:
                replies.flush()
                raise _Garbage(f"a request begins with {magic:#x}")
            if command == wire.CMD_READ and keeper is not None and self._fits(flags, offset, length):
                pieces = keeper.at_hand(offset, length)
                if pieces is not None:
                    replies.data(cookie, offset, pieces, whole=bool(flags & wire.CMD_FLAG_DF))
                    continue
            replies.flush()  # what follows takes time, and needs the buffer that was sent from
            if command == wire.CMD_DISC:
                raise _Goodbye
            self._request(buffer, flags, command, cookie, offset, length)

    def _fits(self, flags: int, offset: int, length: int) -> bool:
        return 0 < length <= wire.MAX_PAYLOAD and offset + length <= self._export.size and not flags & ~_KNOWN_FLAGS

    def _request(self, buffer: memoryview, flags: int, command: int, cookie: int, offset: int, length: int) -> None:
        """One that takes time: all before it is answered."""
        if command == wire.CMD_WRITE:
            self._take_payload(buffer, length)
        refusal = self._refusal(command, flags, offset, length)
        if refusal is not None:
            self._replies.fail(cookie, *refusal)
            return
        pieces: Pieces = []
        status: list[tuple[int, int]] = []
        try:
            match command:
                case wire.CMD_READ:
                    pieces = self._read(offset, buffer[:length])
                case wire.CMD_BLOCK_STATUS:
                    status = self._status(offset, length, 1 if flags & wire.CMD_FLAG_REQ_ONE else MAX_DESCRIPTORS)
                case _:
                    self._change(command, flags, offset, buffer, length)
        except Exception as error:
            self._replies.fail(cookie, _error_number(error), self._describe(command, offset, length, error))
            return
        match command:
            case wire.CMD_READ:
                self._replies.data(cookie, offset, pieces, whole=bool(flags & wire.CMD_FLAG_DF))
            case wire.CMD_BLOCK_STATUS:
                descriptors = b"".join(wire.DESCRIPTOR.pack(*pair) for pair in status)
                self._replies.chunk(cookie, wire.CHUNK_BLOCK_STATUS, wire.U32.pack(_CONTEXT) + descriptors)
            case _:
                self._replies.done(cookie)

    def _read(self, offset: int, buffer: memoryview) -> Pieces:
        export = self._export
        if isinstance(export, PieceExport):
            export.prepare(self._reads_ahead())
            return export.pieces(offset, len(buffer))
        export.read_into(offset, buffer)
        return [len(buffer) if len(buffer) >= HOLE_FROM and is_zero(buffer) else buffer]

    def _reads_ahead(self) -> list[tuple[int, int]]:
        """The reads that the client has asked for already, behind the one that is being answered."""
        ahead = self._channel.ahead
        result = []
        for magic, flags, command, _, offset, length in wire.REQUEST.iter_unpack(
            ahead[: len(ahead) // wire.REQUEST.size * wire.REQUEST.size]
        ):
            if magic != wire.REQUEST_MAGIC or command != wire.CMD_READ:
                break  # what follows a write is its payload
            if self._fits(flags, offset, length):
                result.append((offset, length))
        return result

    def _take_payload(self, buffer: memoryview, length: int) -> None:
        """A write's data; what is too long to be accepted is taken in too, to find the next request behind it."""
        while length:
            part = min(length, len(buffer))
            self._channel.receive_into(buffer[:part])
            length -= part

    def _refusal(self, command: int, flags: int, offset: int, length: int) -> tuple[int, str] | None:
        """Why a request isn't even tried."""
        changes = (wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES)
        if command not in wire.COMMANDS:
            return _EINVAL, f"command {command} is unknown"
        if command in changes and self._export.read_only:
            return _EPERM, "the export is read-only"
        if command == wire.CMD_BLOCK_STATUS and not self._allocation:
            return _EINVAL, "no metadata context was negotiated"
        if command == wire.CMD_FLUSH:
            return None
        if offset + length > self._export.size:
            return _EINVAL, f"the export ends at {self._export.size}"
        if command in (wire.CMD_READ, wire.CMD_WRITE) and length > wire.MAX_PAYLOAD:
            return _EINVAL, f"at most {wire.MAX_PAYLOAD} bytes at once"
        if not length and command in (wire.CMD_READ, wire.CMD_BLOCK_STATUS):
            return _EINVAL, "a request of no bytes"
        if flags & ~_KNOWN_FLAGS:
            return _EINVAL, f"command flags {flags:#x} are unknown"
        return None

    def _status(self, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
        """At most ``limit`` ranges, none beyond the end of what was asked for."""
        result: list[tuple[int, int]] = []
        for size, state in self._export.status(offset, length):
            if not length or len(result) == limit:
                break
            if size > 0:
                result.append((min(size, length), state))
                length -= min(size, length)
        if not result:
            raise HomeportError("the export told the status of nothing")
        return result

    def _change(self, command: int, flags: int, offset: int, buffer: memoryview, length: int) -> None:
        if self._export.read_only:
            return  # a flush, of nothing
        export = cast(WritableExport, self._export)
        match command:
            case wire.CMD_WRITE:
                export.write(offset, buffer[:length])
            case wire.CMD_WRITE_ZEROES:
                export.zero(offset, length)
            case wire.CMD_TRIM:
                export.trim(offset, length)
        if command == wire.CMD_FLUSH or flags & wire.CMD_FLAG_FUA:
            export.flush()

    @staticmethod
    def _describe(command: int, offset: int, length: int, error: Exception) -> str:
        """Tell the log; an error of the disk in a line, one of the program with its trace."""
        facts = {"command": wire.COMMANDS[command], "offset": offset, "length": length}
        if isinstance(error, (HomeportError, OSError)):
            log.warning("an NBD request failed", reason=str(error), **facts)
            return str(error)
        # As text: a renderer that shows local variables would put the disk's content into the log.
        trace = "".join(traceback.format_exception(error))
        log.error("an NBD request failed unexpectedly", trace=trace, **facts)
        return f"{type(error).__name__}: {error}"


def _transmission_flags(export: Export) -> int:
    flags = wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_DF
    if export.read_only:
        return flags | wire.FLAG_READ_ONLY | wire.FLAG_CAN_MULTI_CONN
    return flags | wire.FLAG_SEND_FUA | wire.FLAG_SEND_TRIM | wire.FLAG_SEND_WRITE_ZEROES


def _take_string(data: bytes) -> tuple[str, bytes]:
    (length,) = wire.U32.unpack_from(data)
    if 4 + length > len(data) or length > wire.MAX_STRING:
        raise _Garbage("a string longer than the option that carries it")
    return data[4 : 4 + length].decode(), data[4 + length :]


def _error_number(error: Exception) -> int:
    if isinstance(error, OSError):
        return wire.ERROR_NUMBERS.get(error.errno or 0, _EIO)
    return _EIO
