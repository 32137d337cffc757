"""Is it all zeroes? At the speed of memcmp."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = 1 << 20
# bytearray == buffer is memcmp; memoryview == anything unpacks item by item, a hundred times slower. Comparing needs
# equal lengths, so there is one zero buffer for each power of two: any length is a sum of these.
_ZEROES = {1 << bit: bytearray(1 << bit) for bit in range(_LARGEST.bit_length())}


def is_zero(buffer: memoryview) -> bool:
    """Whether every byte of ``buffer`` (contiguous, any length) is zero; an empty one is."""
    view = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
    position, left = 0, len(view)
    while left:
        size = _LARGEST if left >= _LARGEST else 1 << (left.bit_length() - 1)
        if _ZEROES[size] != view[position : position + size]:
            return False
        position += size
        left -= size
    return True


def nonzero_blocks(buffer: memoryview, block: int) -> NDArray[np.bool_]:
    """For each ``block`` bytes of ``buffer`` (the last may be short): whether any byte is not zero."""
    data = np.frombuffer(buffer, np.uint8)
    count = -(-len(data) // block)
    if is_zero(buffer):
        return np.zeros(count, np.bool_)
    whole = len(data) // block
    body = data[: whole * block]
    words = body.view(np.uint64) if block % 8 == 0 else body
    result = np.empty(count, np.bool_)
    if whole:
        result[:whole] = words.reshape(whole, -1).any(axis=1)
    if count > whole:
        result[whole] = bool(data[whole * block :].any())
    return result


def fill_zero(buffer: memoryview) -> None:
    """Overwrite ``buffer`` with zeroes."""
    np.frombuffer(buffer, np.uint8).fill(0)
