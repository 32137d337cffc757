"""What a server answers, gathered: the replies to requests that came together leave together.

Views of content are sent from where they lie. Runs of zeroes cost no data where the client takes structured replies.
"""

from __future__ import annotations

from homeport.disks.nbd import wire
from homeport.disks.nbd.channel import Channel
from homeport.disks.nbd.export import Pieces
from homeport.domain.units import KiB, MiB

SEND_FROM = 512 * KiB
"""Bytes that are sent at once rather than gathered further."""
HOLE_FROM = 4 * KiB
"""Zeroes from this many bytes on are told as a hole."""

_ZEROES = memoryview(bytes(MiB))
_CHUNK_OF_DATA = wire.CHUNK_OF_DATA.pack
_SIMPLE = wire.SIMPLE_REPLY.pack


class Replies:
    """To one client, in the order of the calls. Whoever is about to wait calls :meth:`flush` first."""

    def __init__(self, channel: Channel, structured: bool) -> None:
        self._channel = channel
        self._structured = structured
        self._out: list[bytes | memoryview] = []
        self._size = 0

    def flush(self) -> None:
        if self._out:
            out, self._out, self._size = self._out, [], 0
            self._channel.send_bytes(out)

    def _gather(self, size: int) -> None:
        self._size += size
        if self._size >= SEND_FROM:
            self.flush()

    def data(self, cookie: int, offset: int, pieces: Pieces, *, whole: bool = False) -> None:
        """A read's content. ``whole``: the client wants it in one chunk."""
        first = pieces[0]
        if len(pieces) == 1 and not isinstance(first, int):
            self._content(cookie, offset, len(first), True)
            self._out.append(first)
            self._gather(len(first))
        elif not self._structured or whole:
            length = sum(piece if isinstance(piece, int) else len(piece) for piece in pieces)
            self._content(cookie, offset, length, True)
            for piece in pieces:
                self._add(piece)
            self._gather(length)
        else:
            self._chunks(cookie, offset, pieces)

    def _content(self, cookie: int, offset: int, length: int, last: bool) -> None:
        if self._structured:
            flags = wire.CHUNK_FLAG_DONE if last else 0
            kind = wire.CHUNK_OFFSET_DATA
            self._out.append(_CHUNK_OF_DATA(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, 8 + length, offset))
        else:
            self._out.append(_SIMPLE(wire.SIMPLE_REPLY_MAGIC, 0, cookie))

    def _add(self, piece: memoryview | int) -> None:
        if not isinstance(piece, int):
            self._out.append(piece)
            return
        while piece:
            part = _ZEROES[:piece]
            self._out.append(part)
            piece -= len(part)

    def _chunks(self, cookie: int, offset: int, pieces: Pieces) -> None:
        """Runs of content, and holes between them."""
        run: Pieces = []
        length = 0
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            hole = isinstance(piece, int) and piece >= HOLE_FROM
            if not hole:
                run.append(piece)
                length += piece if isinstance(piece, int) else len(piece)
            if run and (hole or last):
                self._content(cookie, offset, length, last and not hole)
                for part in run:
                    self._add(part)
                self._gather(length)
                offset += length
                run, length = [], 0
            if hole and isinstance(piece, int):
                self.chunk(cookie, wire.CHUNK_OFFSET_HOLE, wire.CHUNK_HOLE.pack(offset, piece), last)
                offset += piece

    def chunk(self, cookie: int, kind: int, payload: bytes, last: bool = True) -> None:
        flags = wire.CHUNK_FLAG_DONE if last else 0
        self._out.append(wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(payload)) + payload)
        self._gather(len(payload))

    def done(self, cookie: int) -> None:
        self._out.append(_SIMPLE(wire.SIMPLE_REPLY_MAGIC, 0, cookie))
        self._gather(0)

    def fail(self, cookie: int, error: int, text: str) -> None:
        """``error``: the protocol's number."""
        if self._structured:
            message = text.encode()[: wire.MAX_STRING]
            self.chunk(cookie, wire.CHUNK_ERROR_PLAIN, wire.CHUNK_ERROR.pack(error, len(message)) + message)
        else:
            self._out.append(_SIMPLE(wire.SIMPLE_REPLY_MAGIC, error, cookie))
