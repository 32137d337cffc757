"""`homeport store restore`: a recovery point's disks as images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    KeyFileOption,
    MachineOption,
    PassphraseFileOption,
    PointOption,
    StoreOption,
    read_secret,
)

RESTORE = lesson(
    "Write the disks of a recovery point to images or block devices.",
    """Sparse: zeroes take no space. Every frame is verified as it is read. A file grows as PATH.partial and gets its
    name when it is whole and durable; an interrupted restore goes on where it was. Nothing that exists is overwritten,
    unless you say --overwrite, or --differences: then only what differs is written, in place.""",
    "homeport store restore --store file:///srv/away/store --machine web1 --point latest --disk disk0 --to web1.raw",
    "homeport store restore --store file:///srv/away/store --machine web1 --all --to /srv/restored/",
    "homeport store restore --store file:///srv/away/store --machine web1 --disk disk0 --to /dev/vdb --differences",
    then="start the machine from the images with any hypervisor.",
)

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="raw, qcow2, vhd, vmdk or vmdk-stream. Default: what PATH ends in, else raw.",
    ),
]


def add(group: typer.Typer) -> None:
    @command(group, "restore", RESTORE, with_vault=False)
    def restore(
        session: Session,
        store: StoreOption,
        to: Annotated[
            Path, typer.Option("--to", metavar="PATH", help="A new file, or a block device; with --all a folder.")
        ],
        machine: MachineOption = None,
        point: PointOption = "latest",
        disk: Annotated[
            str | None, typer.Option(metavar="ID", help="The disk, such as disk0. Default: the only one.")
        ] = None,
        every: Annotated[bool, typer.Option("--all", help="All disks, as PATH/disk0.raw, …")] = False,
        format: FormatOption = None,
        differences: Annotated[
            bool, typer.Option("--differences", help="Change what PATH holds, in place, where it differs.")
        ] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace PATH, or write over the block device, as a whole.")
        ] = False,
        check: Annotated[bool, typer.Option("--check", help="Read back what was written and compare.")] = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        from homeport.cli.store_restore_work import restore_disks

        restore_disks(
            session,
            store=store,
            to=to,
            machine=machine,
            point=point,
            disk=disk,
            all=every,
            format=format,
            differences=differences,
            overwrite=overwrite,
            check=check,
            secret=read_secret(passphrase_file, key_file),
        )
