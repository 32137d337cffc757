"""`homeport store info`: what a bucket is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import KeyFileOption, PassphraseFileOption, StoreOption, read_secret
from homeport.cli.tables import details, table

if TYPE_CHECKING:
    from rich.console import Console

INFO = lesson(
    "Say what a bucket is: its vault, what unlocks it, how much it holds.",
    """Needs no passphrase: what it shows is public to who can read the bucket. With --passphrase-file or --key-file it
    also checks that they unlock the store.""",
    "homeport store info --store file:///srv/away/store",
    "homeport store info --store file:///srv/away/store --key-file safe.key",
    then="homeport store machines --store URL",
)


def add(group: typer.Typer) -> None:
    @command(group, "info", INFO, with_vault=False)
    def info(
        session: Session,
        store: StoreOption,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        secret = read_secret(passphrase_file, key_file) if passphrase_file or key_file else None
        from homeport.bucket.describing import describe
        from homeport.bucket.opening import as_url
        from homeport.store.backends import open_objects
        from homeport.store.keys import open_vault

        url = as_url(store)
        objects = open_objects(url)
        if secret is not None:
            open_vault(objects, secret)
        facts = {**describe(url, objects), "unlocked": True if secret is not None else None}
        session.answer({"store": facts}, lambda console: show_info(console, facts))


def show_info(console: Console, facts: dict[str, Any]) -> None:
    rows = details()
    rows.add_row("Store", facts["url"])
    rows.add_row("Format", str(facts["format"]))
    rows.add_row("Vault", facts["vault"])
    rows.add_row("Machines", str(facts["machines"]))
    rows.add_row("Holds", f"{show_size(facts['bytes'])} in {facts['objects']} objects")
    kept = {True: "yes", False: "no", None: "unknown"}[facts["backend"]["versioned"]]
    rows.add_row("Storage", f"{facts['backend']['scheme']}, keeps what is deleted: {kept}")
    if facts["unlocked"]:
        rows.add_row("Unlocked", "yes")
    console.print(rows)
    show_ways(console, facts["unlock"])
    kinds = table("Kind", "Objects", "Size")
    for kind, amount in facts["kinds"].items():
        kinds.add_row(kind, str(amount["objects"]), show_size(amount["bytes"]))
    console.print(kinds)
    for warning in facts["warnings"]:
        console.print(f"! {warning}", markup=False, style="yellow")


def show_ways(console: Console, ways: list[dict[str, Any]]) -> None:
    rows = table("Unlocked by", "Kind", "Label", "Since")
    for way in ways:
        label = str(way["label"] or "").replace("[", "\\[")
        rows.add_row(str(way["id"]), str(way["kind"]), label, show_instant(way["created"]))
    console.print(rows)
