"""The messages of one language, read from its gettext file; nothing has to be compiled before."""

from __future__ import annotations

import functools
from collections import defaultdict
from pathlib import Path

from homeport.language.po import read
from homeport.language.template import Template

DOMAIN = "homeport"
LOCALE = Path(__file__).parent.parent / "locale"


class Catalogue:
    """``texts``: whole messages; ``templates``: those with holes, the heaviest first; ``words``: by context (such as
    ``state``), what single words are called."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.templates: list[tuple[Template, Template]] = []
        self.words: dict[str, dict[str, str]] = defaultdict(dict)

    def add(self, message: str, translation: str, context: str | None = None) -> None:
        if context is not None:
            self.words[context][message] = translation
            return
        template = Template(message)
        if template.holes:
            self.templates.append((template, Template(translation)))
        else:
            self.texts[template.fill({})] = Template(translation).fill({})

    def sort(self) -> None:
        self.templates.sort(key=lambda pair: (-pair[0].weight, len(pair[0].holes), pair[0].message))


@functools.cache
def catalogue(language: str) -> Catalogue:
    """Empty for English, and for a language that isn't spoken."""
    found = Catalogue()
    place = LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.po"
    if not place.is_file():
        return found
    for message, translation, context in read(place.read_text(encoding="utf-8")):
        if message and translation:
            found.add(message, translation, context)
    found.sort()
    return found
