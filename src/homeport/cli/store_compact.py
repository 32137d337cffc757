"""`homeport store compact`: give back the space of what no recovery point can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import parse_size, show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import EachMachineOption, KeyFileOption, PassphraseFileOption, StoreOption, open_bucket

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.bucket.opening import StoredMachine

COMPACT = lesson(
    "Give back the space of what no recovery point can see.",
    """Dropping points leaves segments of which little is still needed. What is, is copied together; the old segments go
    with the next run, so that readers hardly notice. Safe beside replication, and can be interrupted and repeated.
    --budget bounds what is copied in this run; --dry-run only says what would be done.""",
    "homeport store compact --store file:///srv/away/store --machine web1 --dry-run",
    then="homeport store compact … once more gives the space back; homeport store stats shows it.",
)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise typer.BadParameter(f"{text!r} is not a share between 0 and 1")
    return share


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def add(group: typer.Typer) -> None:
    @command(group, "compact", COMPACT, with_vault=False)
    def compact(
        session: Session,
        store: StoreOption,
        machine: EachMachineOption = None,
        threshold: Annotated[
            float,
            typer.Option("--threshold", metavar="SHARE", parser=_share, help="Clean segments of which less is needed."),
        ] = 0.4,
        budget: Annotated[
            int | None,
            typer.Option("--budget", metavar="SIZE", parser=_size, help="Copy about so much per timeline: 512M, 10G."),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        data = [_compact(session, one, threshold, budget, dry_run) for one in bucket.chosen(machine)]
        session.answer({"machines": data, "dry_run": dry_run}, lambda console: show_compacted(console, data, dry_run))


def _compact(
    session: Session, machine: StoredMachine, threshold: float, budget: int | None, dry_run: bool
) -> dict[str, Any]:
    from homeport.cli.transfers import counting

    timelines = []
    for timeline in machine.store.timeline_ids():
        with counting(session, f"{machine.name}: copying", "bytes") as progress:
            found = machine.store.compact(
                timeline, threshold=threshold, budget=budget, dry_run=dry_run, progress=progress
            )
        timelines.append({"id": timeline, **found.to_json()})
    return {"uuid": machine.uuid, "name": machine.name, "timelines": timelines}


def show_compacted(console: Console, machines: list[dict[str, Any]], dry_run: bool) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for machine in machines:
        console.print(machine["name"], markup=False, style="bold")
        for found in machine["timelines"]:
            console.print(f"  timeline {found['id']}: {_told(found, dry_run)}", markup=False)
            if found["deleted"]:
                deleted = f"{found['deleted']} objects ({show_size(found['deleted_bytes'])})"
                console.print(f"    deleted {deleted} that nothing needed any more", markup=False)
            if found["locked"]:
                console.print(f"    {found['locked']} objects are locked by the storage: a later run", markup=False)
            for key, why in found["left"].items():
                console.print(f"    left {key}: {why}", markup=False)


def _told(found: dict[str, Any], dry_run: bool) -> str:
    if not found["chosen"]:
        return "nothing worth copying"
    tense = "would copy" if dry_run else "copied"
    return (
        f"{tense} {show_size(found['copied_bytes'])} out of {found['chosen']} segments; "
        f"{show_size(found['freed_bytes'])} go with the next run"
    )
