"""`homeport store import`: a new recovery point from disk images."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from homeport.cli.formats import instant
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import KeyFileOption, PassphraseFileOption, StoreOption, read_secret

IMPORT = lesson(
    "Add a recovery point from disk images or block devices.",
    """The first is a full copy; an interrupted one goes on where it was. Later ones store what differs from the newest
    point: --changed names the bytes that may differ ({"disk0": [[offset, length], …]}, or for one disk the list
    alone), and some of the others are compared all the same; without it the whole disk is compared by digests. Nothing
    may write to the images meanwhile. A machine of that name is made where there is none, and with --create a store,
    which the given passphrase unlocks from then on.""",
    "homeport store import --store file:///srv/away/store --machine web1 web1.raw --passphrase-file secret --create",
    "homeport store import --store file:///srv/away/store --machine web1 root=root.qcow2 data=/dev/vdb --tag weekly",
    "homeport store import --store file:///srv/away/store --machine web1 web1.raw --changed extents.json",
    then="homeport store points --store URL --machine NAME",
)


def _instant(text: str) -> datetime:
    try:
        return instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def add(group: typer.Typer) -> None:
    @command(group, "import", IMPORT, with_vault=False)
    def import_(
        session: Session,
        disks: Annotated[list[str], typer.Argument(metavar="DISK…", help="Images or block devices: PATH, or ID=PATH.")],
        store: StoreOption,
        machine: Annotated[str, typer.Option("--machine", metavar="NAME", help="Its name or UUID.")],
        changed: Annotated[
            Path | None, typer.Option("--changed", metavar="FILE", help="JSON: what changed since the newest point.")
        ] = None,
        format: Annotated[
            str | None,
            typer.Option("--format", metavar="FORMAT", help="raw or qcow2. Default: what the name ends in, else raw."),
        ] = None,
        create: Annotated[bool, typer.Option("--create", help="Make the store if there is none.")] = False,
        tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Of the point.")] = None,
        at: Annotated[
            datetime | None,
            typer.Option("--at", metavar="TIME", parser=_instant, help="When the disks were so (UTC). Default: now."),
        ] = None,
        note: Annotated[list[str] | None, typer.Option("--note", metavar="TEXT", help="Kept with the point.")] = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.cli.store_import_work import import_disks

        import_disks(
            session,
            disks=disks,
            store=store,
            machine=machine,
            changed=changed,
            format=format,
            create=create,
            tag=tag,
            at=at,
            note=note,
            secret=read_secret(passphrase_file, key_file),
        )
