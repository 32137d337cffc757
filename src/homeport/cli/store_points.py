"""`homeport store points`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import EachMachineOption, KeyFileOption, PassphraseFileOption, StoreOption, open_bucket

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.bucket.opening import StoredMachine

POINTS = lesson(
    "List the machines, timelines and recovery points of a store.",
    "--hidden shows the points that are no longer offered, too: after a commit, for example.",
    "homeport store points --store file:///srv/away/store --passphrase-file secret",
    then="homeport store restore …, or homeport store serve …",
)


def add(group: typer.Typer) -> None:
    @command(group, "points", POINTS, with_vault=False)
    def points(
        session: Session,
        store: StoreOption,
        machine: EachMachineOption = None,
        hidden: Annotated[bool, typer.Option("--hidden", help="Also points that are no longer offered.")] = False,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        chosen = bucket.machines() if machine is None else [bucket.machine(machine)]
        data = [_machine_json(one, hidden) for one in chosen]
        session.answer({"machines": data}, lambda console: show_store(console, data))


def _machine_json(machine: StoredMachine, hidden: bool) -> dict[str, Any]:
    return {
        "uuid": machine.uuid,
        "name": machine.name,
        "timelines": [
            {
                "id": timeline.id,
                "parent": str(timeline.parent) if timeline.parent else None,
                "origin": str(timeline.origin) if timeline.origin else None,
                "created": timeline.created.isoformat() if timeline.created else None,
                "ended": timeline.ended,
                "points": [point.to_json() for point in machine.store.points(timeline.id, hidden=hidden)],
            }
            for timeline in machine.store.timelines()
        ],
    }


def show_store(console: Console, machines: list[dict[str, Any]]) -> None:
    from homeport.cli.points import show_points

    if not machines:
        console.print("This store holds no machine.")
    for machine in machines:
        console.print(f"{machine['name']} ({machine['uuid']})", markup=False, style="bold")
        for timeline in machine["timelines"]:
            facts = [f"timeline {timeline['id']}"]
            if timeline["parent"]:
                facts.append(f"from {timeline['parent']}")
            if timeline["ended"]:
                facts.append("ended")
            console.print("  " + ", ".join(facts), markup=False)
            show_points(console, timeline["points"])
