"""`homeport up`: every role in one process."""

from __future__ import annotations

from typing import Annotated

import typer

from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.session import Session, StateOption, command
from homeport.cli.speech import told

UP = lesson(
    "Start Homeport on this machine: every role in one process.",
    """Vault (REST API), configuration servers, process servers and master targets run here, with an embedded database
    and local recovery stores in the state folder. The first start makes the recovery passphrase and shows it once:
    write it down, it alone opens the recovery points if this machine is lost. Ctrl-C stops Homeport; failed-over
    machines go on running and are adopted again.""",
    "homeport up",
    "homeport up --state /srv/homeport --port 8443",
    "HOMEPORT_DATABASE=postgresql://homeport:SECRET@db.example/homeport homeport up",
    then="homeport vault passphrase --confirm, then homeport site add",
)


def register(app: typer.Typer) -> None:
    @command(app, "up", UP, panel=SET_UP, with_vault=False)
    def up(
        session: Session,
        state: StateOption = None,
        port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the REST API on 127.0.0.1.")] = None,
        database: Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                envvar="HOMEPORT_DATABASE",
                help="PostgreSQL database of the vault: postgresql://USER:PASSWORD@HOST/NAME. Several instances of "
                "the vault may share one. Default: SQLite in the state folder.",
            ),
        ] = None,
    ) -> None:
        from homeport.cli.client import find_state
        from homeport.servers.up import run

        run(find_state(state), port, database, told=told)
