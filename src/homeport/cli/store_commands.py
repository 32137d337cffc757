"""`homeport store …`: a bucket and its passphrase (or key file) are enough; no vault, no database, no server.

Each command is a module of its own, ``store_<command>.py``, with ``add(group)``.
"""

from __future__ import annotations

import typer

from homeport.cli import (
    store_compact,
    store_copy,
    store_export,
    store_import,
    store_info,
    store_key,
    store_machines,
    store_points,
    store_purge,
    store_rebuild,
    store_restore,
    store_serve,
    store_stats,
    store_verify,
)
from homeport.cli.consoles import log_to_standard_error
from homeport.cli.lessons import STORE
from homeport.cli.session import group

COMMANDS = (
    store_info,
    store_machines,
    store_points,
    store_stats,
    store_verify,
    store_import,
    store_restore,
    store_export,
    store_serve,
    store_compact,
    store_copy,
    store_rebuild,
    store_key,
    store_purge,
)
"""In the order in which `homeport store --help` shows them."""


def register(app: typer.Typer) -> None:
    store = group("A recovery store alone: with the passphrase, without a vault.")
    app.add_typer(store, name="store", rich_help_panel=STORE)

    @store.callback()
    def store_commands() -> None:
        """What the store logs is for standard error: standard output is the answer's."""
        log_to_standard_error()

    for command in COMMANDS:
        command.add(store)
