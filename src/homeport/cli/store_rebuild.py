"""`homeport store rebuild`: make again what can be from what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    EachMachineOption,
    KeyFileOption,
    PassphraseFileOption,
    StoreOption,
    open_bucket,
)
from homeport.domain.errors import HomeportError

if TYPE_CHECKING:
    from rich.console import Console

REBUILD = lesson(
    "Make again what a store lacks, from what is there: lost or damaged records, indexes, digest maps.",
    """A point's record is made again from its segments only where that is provably the point that was there; everything
    else is reported, and nothing is guessed. Who writes to a timeline of which a record is made again must begin anew.
    A newest point that nothing names may be one that was never committed: it is made with --newest alone. --dry-run
    only says what would be done. Exit 1 if something can't be rebuilt.""",
    "homeport store rebuild --store file:///srv/away/store --dry-run",
    "homeport store rebuild --store file:///srv/away/store --machine web1",
    then="homeport store verify --store URL --deep",
)


class RebuildIncomplete(HomeportError):
    """Something can't be made again. ``details``: ``problems`` in words, ``machines`` as answered."""

    code = "store.rebuild-incomplete"
    remedy = "What could be made again, was. Restore another point, or bring the objects named back from a copy."


def add(group: typer.Typer) -> None:
    @command(group, "rebuild", REBUILD, with_vault=False)
    def rebuild(
        session: Session,
        store: StoreOption,
        machine: EachMachineOption = None,
        newest: Annotated[
            bool, typer.Option("--newest", help="Also a newest point of which nothing proves that it was committed.")
        ] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        from homeport.bucket.rebuilding import rebuild as make_again
        from homeport.cli.transfers import counting

        data: list[dict[str, Any]] = []
        for found in bucket.chosen(machine):
            with counting(session, f"Reading {found.name}", "segments") as progress:
                done = make_again(found.store, newest=newest, dry_run=dry_run, progress=progress)
            data.append({"uuid": found.uuid, "name": found.name, "dry_run": dry_run, **done.to_json()})
        problems = [f"{one['name']}: {problem}" for one in data for problem in one["problems"]]
        if problems:
            raise RebuildIncomplete(f"{len(problems)} thing(s) can't be rebuilt", problems=problems, machines=data)
        session.answer({"rebuilt": data}, lambda console: show_rebuilt(console, data))


def show_rebuilt(console: Console, machines: list[dict[str, Any]]) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for one in machines:
        verb = "would be" if one["dry_run"] else "were"
        console.print(
            f"{one['name']}: {len(one['points'])} records {verb} made again, {one['layers']} layers, "
            f"{len(one['maps'])} digest maps",
            markup=False,
        )
        for point in one["points"]:
            console.print(f"  {point}", markup=False)
        for point in one["unproven"]:
            console.print(
                f"  {point} left all its data, but may never have been committed: --newest makes it", markup=False
            )
