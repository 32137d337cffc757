"""Where a recovery passphrase comes from: a file, or the operator's keyboard; never the command line itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from homeport.cli.errors import WrongUse

VARIABLE = "HOMEPORT_PASSPHRASE_FILE"

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
        try:
            passphrase = named.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise WrongUse(f"the passphrase file {named} can't be read: {reason}") from error
        if not passphrase:
            raise WrongUse(f"the passphrase file {named} is empty")
        return passphrase
    if not sys.stdin.isatty():
        raise WrongUse(
            "the recovery passphrase is needed, and there is no terminal to ask at",
            remedy=f"Give --passphrase-file FILE, or set {VARIABLE}.",
        )
    from getpass import getpass

    return getpass("Recovery passphrase: ", stream=sys.stderr).strip()
