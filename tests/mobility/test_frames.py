"""Frames: what is packed is what is unpacked, and nothing else is taken for one."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.extents import Extents
from homeport.domain.units import BLOCK, MiB
from homeport.mobility.frames import HEAD_BYTES, FrameWrong, Kind, pack, unpack
from homeport.mobility.wire import extents_of_text, extents_to_text


def taken(body: bytes) -> list[bytes]:
    contents = []
    for frame in unpack(io.BytesIO(body), len(body)):
        buffer = bytearray(b"?" * frame.length)
        frame.unpack_into(memoryview(buffer))
        contents.append(bytes(buffer))
    return contents


@pytest.mark.parametrize(
    ("content", "kind", "most"),
    [
        (bytes(MiB), Kind.ZERO, HEAD_BYTES),
        (b"ab" * (MiB // 2), Kind.ZSTD, MiB // 100),
        (os.urandom(MiB), Kind.RAW, MiB + HEAD_BYTES),
        (b"x", Kind.RAW, HEAD_BYTES + 1),
    ],
)
def test_zeroes_cost_nothing_and_what_does_not_shrink_goes_as_it_is(content: bytes, kind: Kind, most: int) -> None:
    body = pack(3, 7, 11 * BLOCK, memoryview(content))
    assert len(body) <= most
    frame = next(unpack(io.BytesIO(body), len(body)))
    assert (frame.kind, frame.disk, frame.number, frame.offset, frame.length) == (
        kind, 3, 7, 11 * BLOCK, len(content),
    )  # fmt: skip
    assert taken(body) == [content]


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=5))
def test_a_body_is_its_frames(contents: list[bytes]) -> None:
    body = b"".join(pack(0, number, number * BLOCK, memoryview(each)) for number, each in enumerate(contents))
    assert taken(body) == contents


@given(st.data())
def test_a_body_that_was_changed_or_cut_is_refused(data: st.DataObject) -> None:
    contents = [b"a" * 700, os.urandom(300), bytes(500)]
    body = b"".join(pack(0, number, number * BLOCK, memoryview(each)) for number, each in enumerate(contents))
    place = data.draw(st.integers(0, len(body) - 1))
    flipped = body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :]
    with pytest.raises((FrameWrong, EOFError)):
        taken(flipped)
    with pytest.raises((FrameWrong, EOFError)):
        list(unpack(io.BytesIO(body[:place]), len(body)))


def test_extents_cross_whole() -> None:
    for extents in (Extents(), Extents.whole(1 << 46), Extents.of([(16384 * n, 4096) for n in range(0, 9000, 3)])):
        assert extents_of_text(extents_to_text(extents)) == extents
