"""A recovery passphrase in a file. Loads next to nothing: a key's derivation waits for it."""

from __future__ import annotations

import os

VARIABLE = "HOMEPORT_PASSPHRASE_FILE"
"""Names the file where no option does."""


def read_passphrase_file(path: str | os.PathLike[str]) -> str:
    """Raises WrongUse where it is empty or unreadable."""
    reason = "it is empty"
    try:
        with open(path) as file:
            if passphrase := file.read().strip():
                return passphrase
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "it is no text"
    from homeport.cli.errors import WrongUse

    raise WrongUse(f"the passphrase file {os.fspath(path)} can't be used: {reason}")
