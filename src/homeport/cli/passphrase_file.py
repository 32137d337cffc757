"""A recovery passphrase in a file."""

from __future__ import annotations

from pathlib import Path

from homeport.cli.errors import WrongUse

VARIABLE = "HOMEPORT_PASSPHRASE_FILE"
"""Names the file where no option does."""


def read_passphrase_file(path: Path) -> str:
    """Raises WrongUse where it is empty or unreadable."""
    try:
        passphrase = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise WrongUse(f"the passphrase file {path} can't be read: {reason}") from error
    if not passphrase:
        raise WrongUse(f"the passphrase file {path} is empty")
    return passphrase
