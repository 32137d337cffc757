"""The command line: ``homeport …``. It speaks to the vault's REST API; ``homeport store`` alone opens a bucket itself.

Modules here import what is slow to load (HTTP client, tables, progress bars, the store) only inside the functions that
need it, so that ``homeport --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong use."""
    import os

    from homeport.cli import speech, store_headstart
    from homeport.cli.errors import WrongUse, exit_status, report

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = speech.begin(arguments, os.environ)
    except WrongUse as error:
        report(error, json_wanted="--json" in arguments)
        return exit_status(error)
    store_headstart.begin(arguments)
    from homeport.cli import lean

    if argv is None:
        lean.make_haste()
    status = lean.run(arguments)
    if status is not None:
        if argv is None:
            lean.leave(status)
        return status
    from homeport.cli.app import run

    return run(arguments)
