"""Brings the catalogues up to date with the source: ``scripts/update-messages``.

Messages that are new get an entry without a translation, those that are gone lose theirs; a translation stays where
only a hole's name changed. Tells what has to be translated.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from homeport.language.template import Template
from tests.language.extraction import FOREIGN, HOUSE, VOCABULARIES, Key, messages

LOCALE = HOUSE / "locale"
WIDTH = 110


def place(language: str) -> Path:
    return LOCALE / language / "LC_MESSAGES" / "homeport.po"


def languages() -> list[str]:
    return sorted(path.name for path in LOCALE.iterdir() if path.is_dir())


def wanted() -> dict[Key, list[str]]:
    """Every message that a catalogue must have, with the files where it stands."""
    found: dict[Key, list[str]] = {
        (str(word), context): [] for context, words in VOCABULARIES.items() for word in words
    }
    found |= {(message, None): [] for message in FOREIGN}
    places = messages().places
    for key in sorted(places, key=lambda key: places[key][0]):
        found[key] = sorted({*found.get(key, []), *(file for file, _ in places[key])})
    return found


def translations(language: str) -> dict[Key, str]:
    """Those of the catalogue as it is."""
    return _translations(place(language), language)


def _translations(path: Path, language: str) -> dict[Key, str]:
    with path.open("rb") as file:
        catalog = read_po(file, locale=language)
    return {(_text(message.id), message.context): _text(message.string) for message in catalog if message.id}


def updated(known: dict[Key, str], asked: dict[Key, list[str]]) -> dict[Key, str]:
    """The translations by the messages of now: "" where there is none yet."""
    shapes = {
        _shape(message): (message, text) for (message, context), text in known.items() if context is None and text
    }
    found: dict[Key, str] = {}
    for message, context in asked:
        text = known.get((message, context), "")
        if not text and context is None and (before := shapes.get(_shape(message))):
            text = _renamed(before[1], Template(before[0]).holes, Template(message).holes)
        found[message, context] = text
    return found


def faults(translated: dict[Key, str], asked: dict[Key, list[str]]) -> list[str]:
    """What is wrong with a catalogue, in words; empty where all is well."""
    wrong = []
    for (message, context), files in asked.items():
        text = translated.get((message, context), "")
        if not text:
            wrong.append(f"not translated: {message!r} ({', '.join(files) or f'as a {context}'})")
        elif set(Template(message).holes) != set(Template(text).holes):
            wrong.append(f"other holes than the message has: {message!r}: {text!r}")
    return wrong + [f"no longer in the source: {message!r}" for message, _ in translated.keys() - asked.keys()]


def write(language: str, translated: dict[Key, str], asked: dict[Key, list[str]]) -> None:
    path = place(language)
    head = path.read_text(encoding="utf-8").split("\n\n", 1)[0] + "\n\n"
    catalog = Catalog(locale=language)
    for (message, context), text in translated.items():
        flags = ["python-brace-format"] if Template(message).holes else []
        files = [(f"homeport/{file}", 1) for file in asked[message, context]]
        catalog.add(message, text, files, flags, context=context)
    buffer = io.BytesIO()
    write_po(buffer, catalog, width=WIDTH, omit_header=True, include_lineno=False)
    path.write_text(head + buffer.getvalue().decode().lstrip("\n"), encoding="utf-8")


def _text(value: str | list[str] | tuple[str, ...] | None) -> str:
    return value if isinstance(value, str) else ""


def _shape(message: str) -> tuple[object, ...]:
    template = Template(message)
    return (*template.literals, *(template.holes.index(hole) for hole in template.holes))


def _renamed(text: str, before: tuple[str, ...], after: tuple[str, ...]) -> str:
    names = dict(zip(before, after, strict=True))
    template = Template(text)
    if not set(template.holes) <= names.keys():
        return text
    pieces = [part.replace("{", "{{").replace("}", "}}") for part in template.literals]
    holes = [f"{{{names[hole]}}}" for hole in template.holes]
    return pieces[0] + "".join(hole + piece for hole, piece in zip(holes, pieces[1:], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/update-messages", description=__doc__)
    parser.add_argument("--from", dest="more", type=Path, help="another catalogue to take what is missing from")
    parser.add_argument("language", nargs="*", default=languages(), help="only these")
    arguments = parser.parse_args()
    asked = wanted()
    status = 0
    for language in arguments.language:
        before = translations(language)
        now = updated(before, asked)
        if arguments.more is not None:
            now |= updated(_translations(arguments.more, language), {key: [] for key, text in now.items() if not text})
        write(language, now, asked)
        dropped = len(before.keys() - now.keys())
        missing = faults(now, asked)
        sys.stdout.write(f"{place(language)}: {len(now)} messages, {dropped} dropped, {len(missing)} to do\n")
        sys.stdout.writelines(f"  {fault}\n" for fault in missing)
        status |= bool(missing)
    return status


if __name__ == "__main__":
    sys.exit(main())
