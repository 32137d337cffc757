"""Where the command line writes: results on standard output; questions, progress and errors on standard error.

Rich leaves colours out where the output is no terminal or NO_COLOR is set.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 200
"""Columns where there is no terminal: tables in files and pipes aren't squeezed into eighty."""


def results() -> Console:
    """Standard output."""
    from homeport.cli.spoken_console import SpokenConsole

    return SpokenConsole(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def complaints() -> Console:
    """Standard error. Lines aren't wrapped where it is no terminal."""
    from homeport.cli.spoken_console import SpokenConsole

    terminal = sys.stderr.isatty()
    return SpokenConsole(stderr=True, highlight=False, soft_wrap=not terminal)


def write_line(text: str) -> None:
    """One line of machine-readable output, untouched by Rich."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_to_standard_error() -> None:
    """What a command's own work logs: standard output is the answer's. Warnings and errors only."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
