"""Turns English texts into another language: by whole texts, by the templates that made them, or piece by piece."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from homeport.language.catalogue import Catalogue, catalogue
from homeport.language.template import Template

DEEPEST = 3
"""How far a text in a hole of a text is looked into."""

_AFTERTHOUGHT = re.compile(r" (?=\([^()]*\)$)")
_GOES_ON = " ..."
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[\"'(]?[A-Z])")
OWN = "own"
"""The context of messages that :meth:`Translator.fill` takes."""

_CONTEXTS = {
    "state": ("state", "job", "server"),
    "begun": ("state",),
    "before": ("state",),
    "status": ("job",),
    "kind": ("kind", "operation"),
    "wanted": ("kind",),
    "operation": ("operation",),
    "grade": ("health",),
    "power": ("power",),
    "phase": ("phase",),
    "role": ("role",),
    "duty": ("role",),
    "consistency": ("consistency",),
}
"""By a hole's name, whose words may stand in it."""

_WRITTEN = frozenset({"name", "item_name", "comment", "notes", "notes_of_test", "label", "path", "id"})
_WRITTEN_LISTS = frozenset({"tags"})
"""Keys whose values people wrote, or that name something. Notes that are a list are the sites'."""


class Translator:
    """Of one language; made by :func:`translator`. Reading is all it does: threads may share one."""

    def __init__(self, language: str, messages: Catalogue) -> None:
        self.language = language
        self._messages = messages
        self.text = functools.lru_cache(maxsize=4096)(self._text)

    def word(self, word: str, *contexts: str) -> str:
        """What a word is called, in the first of these vocabularies (such as ``state``) that has it."""
        for context in contexts:
            if (found := self._messages.words.get(context, {}).get(word)) is not None:
                return found
        return word

    def fill(self, message: str, **values: str) -> str:
        """A message that is asked for by itself, and never looked for in a text: ``{done} of {total}`` fits a lot."""
        return Template(self.word(message, OWN)).fill(values)

    def json(self, value: Any) -> Any:
        """An answer's data: every text in it that a message made; what people wrote, and what programs read, stays."""
        if isinstance(value, dict):
            return {key: each if _written(key, each) else self.json(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.json(each) for each in value]
        return self.text(value) if isinstance(value, str) and " " in value else value

    # -- one text --------------------------------------------------------------------------------------------------

    def _text(self, text: str) -> str:
        """The text in this language, as far as it is known: lines, sentences and what follows a colon are looked up on
        their own where the whole is no message."""
        return self._pieces(text, DEEPEST)

    def _pieces(self, text: str, depth: int) -> str:
        core = text.strip()
        if not any(map(str.isalpha, core)):
            return text
        told = self._whole(core, depth)
        if told is None:
            told = self._apart(core, depth)
        return text if told is None else text.replace(core, told, 1)

    def _whole(self, text: str, depth: int) -> str | None:
        """A text of one message; of two that fit, one in whose holes no sentence ends."""
        if (found := self._messages.texts.get(text)) is not None:
            return found
        loose: str | None = None
        for template, translation in self._messages.templates:
            values = template.match(text)
            if values is None:
                continue
            if not any(map(_SENTENCE.search, values.values())):
                return self._filled(translation, values, depth)
            if loose is None:
                loose = self._apart(text, depth, _TEXTS) or self._filled(translation, values, depth)
        return loose

    def _apart(self, text: str, depth: int, ways: Sequence[_Way] | None = None) -> str | None:
        """A text of several messages; None where no piece of it is known."""
        if text.endswith(_GOES_ON):
            return self._pieces(text.removesuffix(_GOES_ON), depth) + _GOES_ON
        for split, join in _WAYS if ways is None else ways:
            parts = split(text)
            if len(parts) > 1:
                told = [self._pieces(part, depth) if " " in part else part for part in parts]  # a word may be a name
                if told != parts:
                    return join(told)
        return None

    def _filled(self, translation: Template, values: dict[str, str], depth: int) -> str:
        return translation.fill({hole: self._value(hole, value, depth - 1) for hole, value in values.items()})

    def _value(self, hole: str, value: str, depth: int) -> str:
        """What stands in a hole: a word of the vocabulary that the hole is named after, or a text of its own."""
        contexts = _CONTEXTS.get(hole.rstrip("0123456789"))
        if contexts is not None and (word := self.word(value.strip("'"), *contexts)) != value.strip("'"):
            return word
        return self._pieces(value, depth) if depth > 0 and " " in value else value


def _written(key: str, value: Any) -> bool:
    return key in _WRITTEN_LISTS or (key in _WRITTEN and isinstance(value, str))


def _sentences(told: list[str]) -> str:
    joined = ""
    for sentence in told:
        joined += f" {sentence}" if joined and joined[-1].isascii() else sentence
    return joined


_Way = tuple[Callable[[str], list[str]], Callable[[list[str]], str]]
_TEXTS: tuple[_Way, ...] = (
    (lambda text: text.split("\n"), "\n".join),
    (_SENTENCE.split, _sentences),
)
_WAYS: tuple[_Way, ...] = (
    *_TEXTS,
    (lambda text: text.split("; "), "; ".join),
    (lambda text: text.split(": ", 1), ": ".join),
    (_AFTERTHOUGHT.split, " ".join),
)
"""How a text that several messages made is taken apart, and put together again."""


@functools.cache
def translator(language: str) -> Translator:
    return Translator(language, catalogue(language))
