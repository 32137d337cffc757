"""`homeport vault …`: the recovery passphrase, and backups of the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli import vault_keys, vault_restore
from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.passphrases import PassphraseFileOption, read_passphrase
from homeport.cli.session import Session, command, group
from homeport.cli.status import REMINDER
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

PASSPHRASE = lesson(
    "Confirm that you kept the recovery passphrase.",
    """The first `homeport up` showed it once. It opens the recovery points when this vault is lost. --confirm asks for
    it and checks it; without --confirm this says whether that was done.""",
    "homeport vault passphrase --confirm",
    then="homeport site add NAME --provider qemu --path DIR",
)

BACKUP = lesson(
    "Back the vault up now, to the recovery stores of its sites.",
    """That happens each day by itself. A backup is encrypted with the vault's key: the store and the recovery
    passphrase are enough to have the vault again. Each store keeps the newest 7, or as many as --keep says from now
    on.""",
    "homeport vault backup",
    "homeport vault backup --site bergen --keep 14",
    then="homeport vault backups",
)

BACKUPS = lesson(
    "List the vault's backups, and when the next is due.",
    "The sites are asked; one that does not answer is named.",
    "homeport vault backups",
    then="homeport vault restore --store URL --state DIR, if the vault is lost",
)


def register(app: typer.Typer) -> None:
    vault = group("The vault: its recovery passphrase, its backups, and a vault that was lost.")
    app.add_typer(vault, name="vault", rich_help_panel=SET_UP)

    @command(vault, "passphrase", PASSPHRASE)
    def passphrase(
        session: Session,
        confirm: Annotated[bool, typer.Option("--confirm", help="Check the passphrase that you kept.")] = False,
        passphrase_file: PassphraseFileOption = None,
    ) -> None:
        if confirm:
            session.vault.confirm_passphrase(read_passphrase(passphrase_file))
            session.answer(
                {"passphrase_confirmed": True}, lambda console: console.print("The passphrase is right: confirmed.")
            )
            return
        confirmed = bool(session.vault.vault().get("passphrase_confirmed"))
        words = "The recovery passphrase is confirmed." if confirmed else REMINDER
        session.answer({"passphrase_confirmed": confirmed}, lambda console: console.print(words, markup=False))

    @command(vault, "backup", BACKUP)
    def backup(
        session: Session,
        site: Annotated[
            list[str] | None, typer.Option("--site", metavar="SITE", help="To this site's store only; repeatable.")
        ] = None,
        keep: Annotated[
            int | None, typer.Option("--keep", min=1, max=1000, help="How many each store keeps from now on.")
        ] = None,
    ) -> None:
        answer = session.vault.back_up(site or None, keep)
        session.answer(answer, lambda console: show_backup(console, answer["backup"]))

    @command(vault, "backups", BACKUPS)
    def backups(session: Session) -> None:
        answer = session.vault.backups()
        session.answer(answer, lambda console: show_backups(console, answer))

    vault_keys.add(vault)
    vault_restore.add(vault)


def show_backup(console: Console, made: dict[str, Any]) -> None:
    if not made["sites"]:
        console.print("There is no site to back the vault up to: add one first.")
        return
    for site, outcome in made["sites"].items():
        error = outcome["error"]
        text = f"{error['cause']} ({error['code']})" if error else f"{made['id']}, {show_size(made['size'])}"
        console.print(f"{site}: {text}", markup=False, style="yellow" if error else None)


def show_backups(console: Console, answer: dict[str, Any]) -> None:
    if answer["backups"]:
        rows = table("Backup", "Made", "Size", "In the stores of")
        for backup in answer["backups"]:
            rows.add_row(
                backup["id"], show_instant(backup["created"]), show_size(backup["size"]), ", ".join(backup["sites"])
            )
        console.print(rows)
    else:
        console.print("There is no backup of the vault yet.")
    for site, facts in answer["sites"].items():
        if facts["error"]:
            console.print(f"{site}: {facts['error']['cause']}", markup=False, style="yellow")
        elif facts["due"]:
            console.print(f"{site}: the next is due {show_instant(facts['due'])}", markup=False)
