"""Rich's console and tables, speaking the reader's language: what is given to them is English."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from homeport.cli import japanese_lines
from homeport.cli.speech import label, language, told, word
from homeport.language.languages import ENGLISH


class SpokenConsole(Console):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if language() != ENGLISH:
            japanese_lines.allow()

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(told(each) if isinstance(each, str) else each for each in objects), **options)


class SpokenTable(Table):
    vocabularies: list[tuple[str, ...]]
    """By column."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(
            *(_cell(cell, *words) for cell, words in zip(cells, self._words(cells), strict=True)), **options
        )

    def _words(self, cells: tuple[Any, ...]) -> list[tuple[str, ...]]:
        return self.vocabularies[: len(cells)]


class SpokenDetails(SpokenTable):
    """The first cell of a row is its name."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        from homeport.cli.tables import VOCABULARIES

        name, *facts = cells
        words = VOCABULARIES.get(str(name), ()) if name else ()
        Table.add_row(self, label(str(name)), *(_cell(fact, *words) for fact in facts), **options)


def _cell(cell: Any, *vocabularies: str) -> Any:
    if isinstance(cell, str):
        return _said(cell, vocabularies)
    if isinstance(cell, Text) and not cell.spans:
        return Text(_said(cell.plain, vocabularies), style=cell.style)
    return cell


def _said(text: str, vocabularies: tuple[str, ...]) -> str:
    return told(word(text, *vocabularies))
