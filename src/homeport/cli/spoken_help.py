"""`--help`, and what Typer says of a command that was typed wrongly, in the reader's language."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer import rich_utils
from typer.core import TyperGroup

from homeport.cli import japanese_lines
from homeport.cli.lessons import NEXT
from homeport.cli.speech import label, language, told
from homeport.language.languages import ENGLISH

FIXED = (
    "DEFAULT_STRING",
    "ENVVAR_STRING",
    "REQUIRED_LONG_STRING",
    "ARGUMENTS_PANEL_TITLE",
    "OPTIONS_PANEL_TITLE",
    "COMMANDS_PANEL_TITLE",
    "ERRORS_PANEL_TITLE",
    "ABORTED_TEXT",
    "RICH_HELP",
)
"""Typer's own words, as it keeps them."""
USAGE = "Usage:"


@contextmanager
def spoken(command: Any) -> Iterator[Any]:
    """``command``, Typer's of the whole program, with every text of its help translated; Typer's own words too, until
    the end of the block."""
    if language() == ENGLISH:
        yield command
        return
    japanese_lines.allow()
    before = {name: getattr(rich_utils, name) for name in FIXED}
    for name, text in before.items():
        setattr(rich_utils, name, label(text))
    _translate(command)
    try:
        yield command
    finally:
        for name, text in before.items():
            setattr(rich_utils, name, text)


def in_our_words(error: typer.TyperException) -> str:
    """What Typer found wrong."""
    return told(error.format_message())


def _translate(command: Any) -> None:
    if command.help:
        command.help = "\n\n".join(map(_paragraph, command.help.split("\n\n")))
    if command.short_help:
        command.short_help = told(command.short_help)
    _panel(command)
    for parameter in command.params:
        if parameter.help:
            parameter.help = label(parameter.help)
        _panel(parameter)
    context = command.context_class(command)
    asked = command.get_help_option(context)
    if asked is not None:
        asked.help = label(asked.help)
    usage = command.get_usage
    command.get_usage = lambda context: usage(context).replace(USAGE, label(USAGE), 1)
    if isinstance(command, TyperGroup):
        for part in command.commands.values():
            _translate(part)


def _panel(of: Any) -> None:
    panel = getattr(of, "rich_help_panel", None)
    if isinstance(panel, str):
        of.rich_help_panel = label(panel)


def _paragraph(text: str) -> str:
    """Of a lesson: examples stay; their title is translated, and so is what comes next."""
    bold, closed, rest = text.partition("[/bold]")
    if not closed:
        return label(text)
    title = bold.removeprefix("[bold]")
    more = f" {label(rest.strip())}" if title == NEXT else rest
    return f"[bold]{label(title)}[/bold]{more}"
