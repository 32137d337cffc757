"""`homeport store key …`: what unlocks a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.lessons import lesson
from homeport.cli.passphrases import read_new_passphrase
from homeport.cli.session import Session, YesOption, command
from homeport.cli.session import group as new_group
from homeport.cli.store_info import show_ways
from homeport.cli.store_options import KeyFileOption, PassphraseFileOption, StoreOption, read_key_file, read_secret

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.store.objects import Objects

LIST = lesson(
    "List what unlocks a store: the passphrase, and key files by their ids.",
    "Needs no passphrase. A key file's id stands in its first line.",
    "homeport store key list --store file:///srv/away/store",
    then="homeport store key add-file FILE --store URL",
)
ADD_FILE = lesson(
    "Make a key file that unlocks a store as its passphrase does.",
    """32 random bytes in a new text file, readable by you alone. Keep it apart from the store and the passphrase:
    in a safe, with a notary. An existing key file is used as it is with --existing, so that one file can unlock
    several stores.""",
    "homeport store key add-file safe.key --store file:///srv/away/store --passphrase-file secret",
    then="homeport store info --store URL --key-file safe.key",
)
REMOVE = lesson(
    "End a way to unlock a store.",
    """ID is a key file's id, or the word passphrase. The way that unlocks the store for this command stays. Who had
    that key, and kept a copy of the bucket's vault file, can still read: `homeport store key rotate` is for that.""",
    "homeport store key remove 3f9a0c1d2b4e5f60 --store file:///srv/away/store --passphrase-file secret",
    then="homeport store key rotate --store URL",
)
CHANGE = lesson(
    "Change the recovery passphrase of a store.",
    """The new one is read from --new-passphrase-file, or asked for twice. Other stores of the same vault keep theirs.
    The data isn't rewritten, and the vault's key stays: after a leak, rotate instead.""",
    "homeport store key change-passphrase --store file:///srv/away/store --new-passphrase-file new",
    then="homeport store info --store URL --passphrase-file new",
)
ROTATE = lesson(
    "Replace the vault's key in a store, without rewriting data.",
    """For when a passphrase or key file has leaked: all machines' keys are wrapped anew, and what the old key wrapped
    is deleted. The passphrase (or key file) given, a new passphrase, and the files of --keep unlock it afterwards;
    others end, if you say --drop-others. An interrupted rotation leaves everything readable: run it again. Machines'
    own keys stay. A vault that writes to this store holds the old key and can't begin or continue machines here
    afterwards: rotate stores that no vault writes to any more.""",
    "homeport store key rotate --store file:///srv/away/store --passphrase-file old --new-passphrase-file new",
    "homeport store key rotate --store file:///srv/away/store --key-file safe.key --drop-others --yes",
    then="homeport store verify --store URL",
)

NewPassphraseOption = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", metavar="FILE", help="File that holds the new passphrase."),
]


def add(group: typer.Typer) -> None:
    keys = new_group("What unlocks a store: passphrase, key files, and their replacement.")
    group.add_typer(keys, name="key")

    @command(keys, "list", LIST, with_vault=False)
    def list_(session: Session, store: StoreOption) -> None:
        _answer(session, _objects(store))

    @command(keys, "add-file", ADD_FILE, with_vault=False)
    def add_file(
        session: Session,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The key file to make.")],
        store: StoreOption,
        label: Annotated[str, typer.Option(metavar="TEXT", help="A remark, readable by who can read the bucket.")] = "",
        existing: Annotated[bool, typer.Option("--existing", help="FILE is a key file already: use it.")] = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.store import rotation
        from homeport.store.unlock import KeyFile

        if not existing and file.exists():
            raise WrongUse(f"{file} exists already", remedy="Choose another name, or say --existing to use it.")
        opener = read_secret(passphrase_file, key_file)
        objects = _objects(store)
        fresh = read_key_file(file) if existing else KeyFile.create()
        if not existing:
            fresh.write(file)  # first: a way whose file was lost would be worse than a file that unlocks nothing
        try:
            rotation.add_way(objects, opener, fresh, label)
        except Exception:
            if not existing:
                file.unlink()
            raise
        _answer(session, objects, added=fresh.id, file=str(file.absolute()))

    @command(keys, "remove", REMOVE, with_vault=False)
    def remove(
        session: Session,
        way: Annotated[str, typer.Argument(metavar="ID", help="As `store key list` shows it.")],
        store: StoreOption,
        yes: YesOption = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.store import rotation

        session.needs_consent(yes, "the end of a way to unlock the store")
        opener = read_secret(passphrase_file, key_file)
        if not yes:
            session.ask([f"{way} will no longer unlock {store}."])
        objects = _objects(store)
        rotation.remove_way(objects, opener, way)
        _answer(session, objects, removed=way)

    @command(keys, "change-passphrase", CHANGE, with_vault=False)
    def change_passphrase(
        session: Session,
        store: StoreOption,
        new_passphrase_file: NewPassphraseOption = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.store import rotation

        opener = read_secret(passphrase_file, key_file)
        fresh = read_new_passphrase(new_passphrase_file)
        objects = _objects(store)
        rotation.change_passphrase(objects, opener, fresh)
        _answer(session, objects, changed="passphrase")

    @command(keys, "rotate", ROTATE, with_vault=False)
    def rotate(
        session: Session,
        store: StoreOption,
        new_passphrase_file: NewPassphraseOption = None,
        keep: Annotated[
            list[Path] | None,
            typer.Option("--keep", metavar="FILE", help="A key file that unlocks it afterwards, too."),
        ] = None,
        drop_others: Annotated[bool, typer.Option("--drop-others", help="End the ways that aren't named.")] = False,
        yes: YesOption = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.cli.transfers import counting
        from homeport.store import rotation

        session.needs_consent(yes, "the replacement of the vault's key")
        opener = read_secret(passphrase_file, key_file)
        kept = [read_key_file(path) for path in keep or []]
        fresh = read_new_passphrase(new_passphrase_file) if new_passphrase_file else None
        objects = _objects(store)
        if not yes:
            session.ask(
                [
                    f"The vault's key in {store} will be replaced.",
                    "A vault that writes to this store can't do so afterwards.",
                ]
            )
        with counting(session, "Machines' keys", "machines") as progress:
            done = rotation.rotate(
                objects, opener, kept, new_passphrase=fresh, drop_others=drop_others, progress=progress
            )
        facts = {
            "generation": done.generation,
            "machines": done.machines,
            "resumed": done.resumed,
            "dropped": done.dropped,
        }
        _answer(session, objects, rotated=facts)


def _objects(store: str) -> Objects:
    from homeport.bucket.opening import as_url
    from homeport.store.backends import open_objects

    return open_objects(as_url(store))


def _answer(session: Session, objects: Objects, **more: Any) -> None:
    """What unlocks the store now, and what was done."""
    from homeport.bucket.describing import ways
    from homeport.store import vaultfile

    found = vaultfile.load(objects)
    data = {"vault": found.vault, "generation": found.generation, "unlock": ways(found), **more}
    session.answer({"keys": data}, lambda console: _show(console, data))


def _show(console: Console, data: dict[str, Any]) -> None:
    if "file" in data:
        console.print(f"The key file {data['added']} is in {data['file']}: keep it apart from the store.", markup=False)
    if "rotated" in data:
        done = data["rotated"]
        what = "The interrupted rotation is completed" if done["resumed"] else "The vault's key is replaced"
        console.print(f"{what}: generation {done['generation']}, {len(done['machines'])} machines.", markup=False)
    show_ways(console, data["unlock"])
