"""Where Rich may break a line of Japanese: between any two letters, which no spaces part, but not before a closing mark
or a small kana, not after an opening mark, and not within a katakana word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

_KATAKANA = "\u30a1-\u30ff"
_JAPANESE = f"\u3005-\u3007\u3041-\u30a0{_KATAKANA}\u3400-\u9fff\uff10-\uffef"
_OPENING = "「『【〈(\\[{"
_CLOSING = "、。」』】〉・…ぁぃぅぇぉっゃゅょ々:;,.!?)\\]}"
_UNIT = re.compile(
    rf"\s*(?:[{_OPENING}]*(?:[{_KATAKANA}]+|[{_JAPANESE}])[{_CLOSING}]*|[^\s、。{_JAPANESE}]+?"
    rf"(?=[{_OPENING}]*[{_JAPANESE}]|[\s、。]|$)[{_CLOSING}]*|\S)\s*"
)


def units(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, piece): pieces between which a line may end, with the spaces around them."""
    at = 0
    while found := _UNIT.match(text, at):
        at = found.end()
        yield found.start(), at, found[0]


def allow() -> None:
    """From now on Rich breaks lines so, in this process; lines of other letters it breaks as before."""
    from rich import _wrap

    words: Any = _wrap.words
    if getattr(words, "japanese", False):
        return

    def either(text: str) -> Iterable[tuple[int, int, str]]:
        found: Iterable[tuple[int, int, str]] = words(text) if text.isascii() else units(text)
        return found

    either.japanese = True  # type: ignore[attr-defined]
    _wrap.words = either
