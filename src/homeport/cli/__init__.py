"""The command line: ``homeport …``. It speaks to the vault's REST API; ``homeport store`` alone opens a bucket itself.

Modules here import what is slow to load (HTTP client, tables, progress bars, the store) only inside the functions that
need it, so that ``homeport --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong use."""
    from homeport.cli.app import run

    return run(argv)
