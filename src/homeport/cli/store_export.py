"""`homeport store export`: a recovery point as a folder that stands for itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    KeyFileOption,
    MachineOption,
    PassphraseFileOption,
    PointOption,
    StoreOption,
    open_bucket,
)

if TYPE_CHECKING:
    from rich.console import Console

EXPORT = lesson(
    "Write a recovery point to a folder that stands for itself.",
    """All disks as images, point.json with everything that is known of the machine at that instant, and machine.toml,
    with which a QEMU site runs it: put the folder into the site's folder under the machine's name. The folder is new;
    an interrupted export goes on when it is repeated.""",
    "homeport store export --store file:///srv/away/store --machine web1 --to /srv/exported/web1",
    "homeport store export --store file:///srv/away/store --machine web1 --format qcow2 --to /mnt/usb/web1",
    then="start the machine from the images with any hypervisor.",
)


def add(group: typer.Typer) -> None:
    @command(group, "export", EXPORT, with_vault=False)
    def export(
        session: Session,
        store: StoreOption,
        to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
        machine: MachineOption = None,
        point: PointOption = "latest",
        format: Annotated[str, typer.Option(metavar="FORMAT", help="raw, qcow2, vhd, vmdk or vmdk-stream.")] = "raw",
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        found = open_bucket(store, passphrase_file, key_file).machine(machine)
        from homeport.bucket.exporting import export as write
        from homeport.cli.transfers import transfer

        chosen = found.choose(point)
        done = write(
            found,
            chosen,
            to,
            format=format,
            progress=lambda stage, total: transfer(session, f"{found.name}: {stage}", total),
        )
        data = {
            "machine": found.uuid,
            "name": found.name,
            "point": str(chosen),
            "folder": str(to.absolute()),
            "files": [one.to_json() for one in done],
        }
        session.answer({"exported": data}, lambda console: show_exported(console, data))


def show_exported(console: Console, data: dict[str, Any]) -> None:
    console.print(f"{data['name']} as of {data['point']} is in {data['folder']}:", markup=False)
    for file in data["files"]:
        console.print(f"  {file['path']} ({show_size(file['size'])})", markup=False)
