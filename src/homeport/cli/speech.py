"""The language in which this run of the command line speaks; English unless :func:`begin` found another wanted.

English costs nothing: no catalogue is loaded for it, and every text passes as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from homeport.cli.errors import WrongUse
from homeport.language.languages import ENGLISH, LANGUAGES, known, of_environment

if TYPE_CHECKING:
    from homeport.language.translator import Translator

OPTION = "--lang"

_translator: Translator | None = None


def begin(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Choose the language: as --lang says anywhere on the command line, else as the environment does. Returns the
    arguments without it. Raises WrongUse for a language that isn't spoken; English is spoken then."""
    speak(ENGLISH)
    left, wanted = _taken(arguments)
    if wanted is None:
        speak(of_environment(environment))
        return left
    found = known(wanted)
    if found is None:
        raise WrongUse(
            f"{wanted!r} is no language of Homeport", remedy=f"{OPTION} takes one of {', '.join(LANGUAGES)}."
        )
    speak(found)
    return left


def _taken(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    left: list[str] = []
    wanted: str | None = None
    rest = list(arguments)[::-1]
    while rest:
        text = rest.pop()
        if text == "--":
            return [*left, text, *rest[::-1]], wanted
        if text == OPTION and rest:
            wanted = rest.pop()
        elif text.startswith(f"{OPTION}="):
            wanted = text.partition("=")[2]
        else:
            left.append(text)
    return left, wanted


def speak(language: str) -> None:
    global _translator
    if language == ENGLISH:
        _translator = None
        return
    from homeport.language.translator import translator

    _translator = translator(language)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without these letters


def language() -> str:
    return ENGLISH if _translator is None else _translator.language


def told(text: str) -> str:
    """A message, an error's cause, what the vault said: in the reader's language as far as it is known. A single word
    stays: it may be a name."""
    return text if _translator is None or " " not in text.strip() else _translator.text(text)


def label(text: str) -> str:
    """The name of a column, a row or a panel."""
    return text if _translator is None else _translator.text(text)


def word(word: str, *contexts: str) -> str:
    """A word of a vocabulary, such as ``state``: what the item is, in the reader's words."""
    return word if _translator is None else _translator.word(word, *contexts)


def fill(message: str, **values: str) -> str:
    """A message of few words, never looked for in a text: "{done} of {total}"."""
    return message.format(**values) if _translator is None else _translator.fill(message, **values)


def json_text(answer: Any, *, indent: int | None = 2) -> str:
    """The answer for a script: texts for people in the reader's language, everything else as it is."""
    if _translator is None:
        return json.dumps(answer, indent=indent, default=str)
    return json.dumps(_translator.json(answer), indent=indent, default=str, ensure_ascii=False)
