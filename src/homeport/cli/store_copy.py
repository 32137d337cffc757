"""`homeport store copy`: a store brought to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    EachMachineOption,
    KeyFileOption,
    PassphraseFileOption,
    StoreOption,
    open_bucket,
    read_key_file,
    read_secret,
)
from homeport.domain.errors import HomeportError

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.store.keys import Opener


COPY = lesson(
    "Copy a store, or one machine of it, to another place.",
    """To keep a second copy, or to carry a large first copy to the other site on a disk. Only what the target lacks is
    sent, so run it again to go on after an interruption or to bring the target up to date. The target can be read at
    any moment, and every segment is checked on its way. Points taken or dropped at the source meanwhile do no harm. The
    same passphrase and key files unlock a new target; each store's can be changed on its own later.""",
    "homeport store copy --store file:///srv/away/store --to file:///mnt/usb/store --passphrase-file secret",
    "homeport store copy --store file:///srv/away/store --to s3://bucket/homeport --machine web1",
    then="homeport store verify --store URL --deep",
)


class CopyIncomplete(HomeportError):
    """Something at the source is damaged or missing. ``details``: ``problems`` in words, ``machines`` as answered."""

    code = "store.copy-incomplete"
    remedy = "The other points are at the target. `homeport store verify --deep` tells what is damaged at the source."


def add(group: typer.Typer) -> None:
    @command(group, "copy", COPY, with_vault=False)
    def copy(
        session: Session,
        store: StoreOption,
        to: Annotated[str, typer.Option("--to", metavar="URL", help="The target: a new store, or one of this vault.")],
        machine: EachMachineOption = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
        to_passphrase_file: Annotated[
            Path | None, typer.Option(metavar="FILE", help="The target's passphrase, where it differs.")
        ] = None,
        to_key_file: Annotated[
            Path | None, typer.Option(metavar="FILE", help="The target's key file, where it differs.")
        ] = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        from homeport.bucket.copying import copy_machine, prepare, to_copy
        from homeport.bucket.opening import as_url
        from homeport.cli.transfers import transfer
        from homeport.store.backends import open_objects

        def targets_secret() -> Opener:
            if to_key_file is not None:
                return read_key_file(to_key_file)
            if to_passphrase_file is not None:
                return read_secret(to_passphrase_file, None)
            return read_secret(passphrase_file, key_file)

        chosen = bucket.chosen(machine)
        target = open_objects(as_url(to), create=True)
        vault = prepare(bucket.objects, bucket.vault, target, targets_secret)
        data: list[dict[str, Any]] = []
        for found in chosen:
            with transfer(session, f"Copying {found.name}", to_copy(found.store, target)) as advance:
                done = copy_machine(found.store, target, vault, advance=advance)
            data.append({"uuid": found.uuid, "name": found.name, **done.to_json()})
        problems = [f"{one['name']}: {problem}" for one in data for problem in one["problems"]]
        if problems:
            raise CopyIncomplete(f"{len(problems)} problem(s) at the source", problems=problems, machines=data)
        session.answer({"copied": data}, lambda console: show_copied(console, data, to))


def show_copied(console: Console, machines: list[dict[str, Any]], to: str) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for one in machines:
        console.print(
            f"{one['name']}: {len(one['points'])} points copied to {to} ({show_size(one['bytes'])} in {one['objects']} "
            f"objects), {one['present']} were there, {len(one['skipped'])} dropped",
            markup=False,
        )
