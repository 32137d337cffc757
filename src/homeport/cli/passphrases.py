"""Where a recovery passphrase comes from: a file, or the operator's keyboard; never the command line itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.passphrase_file import VARIABLE, read_passphrase_file

SHORTEST = 12
"""Characters of a new passphrase at least."""

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help=f"File that holds the recovery passphrase. Default: {VARIABLE}, else it is asked for.",
    ),
]


def read_passphrase(file: Path | None) -> str:
    """Raises WrongUse where there is neither a file nor a terminal, and where the file is empty or unreadable."""
    named = file or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        return read_passphrase_file(named)
    if not sys.stdin.isatty():
        raise WrongUse(
            "the recovery passphrase is needed, and there is no terminal to ask at",
            remedy=f"Give --passphrase-file FILE, or set {VARIABLE}.",
        )
    from getpass import getpass

    return getpass("Recovery passphrase: ", stream=sys.stderr).strip()


def read_new_passphrase(file: Path | None) -> str:
    """A passphrase to be set: from the file, or asked for twice. Raises WrongUse as ``read_passphrase``, and where it
    is too short to withstand guessing."""
    if file is not None:
        passphrase = read_passphrase(file)
    else:
        if not sys.stdin.isatty():
            raise WrongUse(
                "a new passphrase is needed, and there is no terminal to ask at",
                remedy="Give --new-passphrase-file FILE.",
            )
        from getpass import getpass

        passphrase = getpass("New passphrase: ", stream=sys.stderr).strip()
        if getpass("Again: ", stream=sys.stderr).strip() != passphrase:
            raise WrongUse("the two differ; nothing was changed")
    if len(passphrase) < SHORTEST:
        raise WrongUse(f"the new passphrase is too short: {SHORTEST} characters are the least")
    return passphrase
