"""`homeport vault …`: the recovery passphrase."""

from __future__ import annotations

from typing import Annotated

import typer

from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.passphrases import PassphraseFileOption, read_passphrase
from homeport.cli.session import Session, command, group
from homeport.cli.status import REMINDER

PASSPHRASE = lesson(
    "Confirm that you kept the recovery passphrase.",
    """The first `homeport up` showed it once. It opens the recovery points when this vault is lost. --confirm asks for
    it and checks it; without --confirm this says whether that was done.""",
    "homeport vault passphrase --confirm",
    then="homeport site add NAME --provider qemu --path DIR",
)


def register(app: typer.Typer) -> None:
    vault = group("The vault: its recovery passphrase.")
    app.add_typer(vault, name="vault", rich_help_panel=SET_UP)

    @vault.callback()
    def vault_commands() -> None:
        """Keeps `passphrase` a word of its own: a group of one command would swallow it."""

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
