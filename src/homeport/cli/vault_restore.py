"""`homeport vault restore` and `homeport vault rebuild`: a lost vault, out of its recovery stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.consoles import log_to_standard_error
from homeport.cli.errors import WrongUse
from homeport.cli.formats import show_instant
from homeport.cli.lessons import lesson
from homeport.cli.passphrases import PassphraseFileOption
from homeport.cli.session import Session, command
from homeport.cli.store_options import KeyFileOption, read_secret
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console


RESTORE = lesson(
    "Make a lost vault again from a backup in a recovery store.",
    """Needs a store and the recovery passphrase. What happened after the backup is taken from the stores that you
    name: name all that you have. Jobs that were running are shown as failed, and can be restarted or cancelled. The old
    vault must not run any more; should it, sites that the new one works with refuse it. The API gets a new token.""",
    "homeport vault restore --store file:///srv/bergen/.homeport/store --passphrase-file secret --state /srv/homeport",
    then="homeport up --state DIR, then homeport status; look at all that is to be checked",
)

REBUILD = lesson(
    "Make a lost vault again without any backup, from what lies in its recovery stores.",
    """Items, points, policies and sites come back from what is described beside the points; states follow from what
    the stores hold. What can't be known is listed as to be checked. Sites and policies that no machine used, and the
    history of jobs, are gone: prefer `homeport vault restore` where there is a backup.""",
    "homeport vault rebuild --store file:///srv/bergen/.homeport/store --store file:///srv/oslo/.homeport/store "
    "--passphrase-file secret --state /srv/homeport",
    then="homeport up --state DIR, then homeport status; look at all that is to be checked",
)

StoresOption = Annotated[
    list[str],
    typer.Option("--store", metavar="URL", help="A store of the vault: a path, file:///…, s3://…; repeatable."),
]
NewStateOption = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="The new state folder: empty, or not there yet.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="A new database of PostgreSQL, instead of one in the state folder."),
]


def add(vault: typer.Typer) -> None:
    @command(vault, "restore", RESTORE, with_vault=False)
    def restore(
        session: Session,
        store: StoresOption,
        state: NewStateOption,
        backup: Annotated[
            str | None, typer.Option("--backup", metavar="ID", help="This one. Default: the newest.")
        ] = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
        database: DatabaseOption = None,
    ) -> None:
        secret = read_secret(passphrase_file, key_file)
        log_to_standard_error()
        from homeport.servers.vault_restore import restore as make

        data = make(store, secret, state.absolute(), backup=backup, database=database)
        session.answer({"restored": data}, lambda console: show_restored(console, data))

    @command(vault, "rebuild", REBUILD, with_vault=False)
    def rebuild(
        session: Session,
        store: StoresOption,
        state: NewStateOption,
        site: Annotated[
            list[str] | None,
            typer.Option("--site", metavar="SITE=DIR", help="Where the folder of a site is, if it moved; repeatable."),
        ] = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
        database: DatabaseOption = None,
    ) -> None:
        folders = dict(map(_site_folder, site or []))
        secret = read_secret(passphrase_file, key_file)
        log_to_standard_error()
        from homeport.servers.vault_restore import rebuild as make

        data = make(store, secret, state.absolute(), folders=folders, database=database)
        session.answer({"rebuilt": data}, lambda console: show_made(console, data))


def _site_folder(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise WrongUse(f"--site {text!r} is not of the form SITE=DIR")
    return name, str(Path(folder).absolute())


def show_restored(console: Console, data: dict[str, Any]) -> None:
    console.print(f"Restored from the backup {data['backup']}, made {show_instant(data['created'])}.", markup=False)
    for name in data["cut_off"]:
        console.print(f"! {name}: its job was cut off; restart or cancel it", markup=False, style="yellow")
    show_made(console, data)


def show_made(console: Console, data: dict[str, Any]) -> None:
    rows = table("Item", "State", "Points")
    for item in data["items"]:
        rows.add_row(str(item["name"]).replace("[", "\\["), item["state"], str(item["points"]))
    console.print(rows)
    console.print(f"Sites: {', '.join(data['sites']) or 'none'}", markup=False)
    if data["checks"]:
        console.print("To be checked:", style="bold")
    for check in data["checks"]:
        console.print(f"! {check}", markup=False, style="yellow")
    console.print(f"Start it with: homeport up --state {data['state']}", markup=False)
