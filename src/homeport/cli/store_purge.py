"""`homeport store purge`: delete a machine from a store for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, YesOption, command
from homeport.cli.store_options import KeyFileOption, PassphraseFileOption, StoreOption, open_bucket

if TYPE_CHECKING:
    from rich.console import Console

PURGE = lesson(
    "Delete all recovery points of a machine from a store, for good.",
    """Refused while somebody reads or may still write them; --end ends timelines that nothing writes any more. With
    --shred the machine's wrapped keys go first: whatever is left of its data, here or in a copy without the keys, is
    noise from then on. That is refused where the storage keeps what is deleted, as it would protect nothing.""",
    "homeport store purge --store file:///srv/away/store --machine web1 --end",
    "homeport store purge --store file:///srv/away/store --machine web1 --shred --yes",
    then="homeport store info --store URL",
)


def add(group: typer.Typer) -> None:
    @command(group, "purge", PURGE, with_vault=False)
    def purge(
        session: Session,
        store: StoreOption,
        machine: Annotated[str, typer.Option("--machine", metavar="NAME", help="Its name or UUID.")],
        shred: Annotated[bool, typer.Option("--shred", help="Delete its keys first: crypto-shredding.")] = False,
        end: Annotated[bool, typer.Option("--end", help="End its timelines: nothing writes to them.")] = False,
        even_if_unknown: Annotated[
            bool, typer.Option("--even-if-unknown", help="Shred where the storage doesn't say what it keeps.")
        ] = False,
        yes: YesOption = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        session.needs_consent(yes, "the deletion of recovery points")
        bucket = open_bucket(store, passphrase_file, key_file)
        from homeport.bucket import purging
        from homeport.cli.transfers import counting

        if shred:
            purging.check_shredding(bucket.objects, even_if_unknown=even_if_unknown)
        found = None if purging.keyless(bucket.objects, machine) else bucket.machine(machine)
        uuid, name = (found.uuid, found.name) if found else (machine, machine)
        if not yes:
            session.ask(_consequences(name, store, shred))
        if found is not None:  # else it was shredded already, but not deleted wholly
            purging.check_unused(found.store, end=end)
        with counting(session, f"Deleting {name}", "objects") as progress:
            done = purging.purge(bucket.objects, uuid, shred=shred, progress=progress)
        data = {"machine": uuid, "name": name, **done.to_json()}
        session.answer({"purged": data}, lambda console: show_purged(console, data))


def _consequences(name: str, store: str, shred: bool) -> list[str]:
    lines = [f"All recovery points of {name} in {store} will be deleted. Nothing brings them back."]
    if shred:
        from homeport.bucket.purging import REMAINS

        lines += ["Its keys go first. That doesn't reach:", *(f"  - {what}" for what in REMAINS)]
    return lines


def show_purged(console: Console, data: dict[str, Any]) -> None:
    how = "shredded and deleted" if data["shredded"] else "deleted"
    console.print(f"{data['name']} is {how}: {data['objects']} objects, {show_size(data['bytes'])}.", markup=False)
    if data["remains"]:
        console.print("What may remain elsewhere:")
        for what in data["remains"]:
            console.print(f"  - {what}", markup=False)
