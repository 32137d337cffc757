"""A message with holes, such as ``There is no job {job}.``: recognises its own formatted text, and fills in values.

Braces that belong to the text are doubled, as in ``str.format``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

_PIECE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Template:
    """``literals``: the texts around the holes, one more than there are ``holes``."""

    def __init__(self, message: str) -> None:
        self.message = message
        literals, holes, at, piece = [], [], 0, ""
        for found in _PIECE.finditer(message):
            piece += message[at : found.start()]
            at = found.end()
            if found[1] is None:
                piece += found[0][0]
            else:
                literals.append(piece)
                holes.append(found[1])
                piece = ""
        literals.append(piece + message[at:])
        self.literals = tuple(literals)
        self.holes = tuple(holes)
        self.weight = sum(map(len, literals))
        """Characters that are not in holes: of two templates that fit a text, the heavier one says more of it."""
        self._longest = max(literals, key=len)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("(.*?)".join(map(re.escape, self.literals)), re.DOTALL)

    def match(self, text: str) -> dict[str, str] | None:
        """The values by hole where ``text`` was made from this; each is as short as it can be, from the left.

        A hole that stands in the text twice is taken to hold the same twice.
        """
        if not text.startswith(self.literals[0]) or not text.endswith(self.literals[-1]) or self._longest not in text:
            return None
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        values: dict[str, str] = {}
        for hole, value in zip(self.holes, found.groups(), strict=True):
            if values.setdefault(hole, value) != value:
                return None
        return values

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with ``values`` in its holes. Raises KeyError where one is missing."""
        parts = [self.literals[0]]
        for hole, literal in zip(self.holes, self.literals[1:], strict=True):
            parts += [values[hole], literal]
        return "".join(parts)


def escaped(text: str) -> str:
    """Text in which no brace opens a hole."""
    return text.replace("{", "{{").replace("}", "}}")
