"""Reads gettext's text format, as far as our own catalogues use it. Babel writes them; loading it to read one takes a
tenth of a second, which a command hasn't.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUOTED = re.compile(r'(?:(msgctxt|msgid|msgstr)\s+)?"(.*)"')
_ESCAPE = re.compile(r"\\(.)")
_MEANT = {"n": "\n", "t": "\t", "r": "\r"}


def read(text: str) -> Iterator[tuple[str, str, str | None]]:
    """(message, translation, context) of each entry that is in use, the header's too (its message is empty)."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        found = _QUOTED.fullmatch(line.strip())
        if found is None or (found[1] in ("msgctxt", "msgid") and "msgstr" in fields):
            yield from _entry(fields)
            fields = {}
        if found is not None:
            name = found[1] or name
            fields[name] = fields.get(name, "") + _ESCAPE.sub(lambda one: _MEANT.get(one[1], one[1]), found[2])
    yield from _entry(fields)


def _entry(fields: dict[str, str]) -> Iterator[tuple[str, str, str | None]]:
    if "msgid" in fields:
        yield fields["msgid"], fields.get("msgstr", ""), fields.get("msgctxt")
