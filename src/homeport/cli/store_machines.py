"""`homeport store machines`: whose points a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import KeyFileOption, PassphraseFileOption, StoreOption, open_bucket
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.bucket.opening import StoredMachine

MACHINES = lesson(
    "List the machines of a store.",
    "With each: how many points are offered, from when to when, its disks as of the newest, and what it takes.",
    "homeport store machines --store file:///srv/away/store --passphrase-file secret",
    then="homeport store points --store URL --machine NAME",
)


def add(group: typer.Typer) -> None:
    @command(group, "machines", MACHINES, with_vault=False)
    def machines(
        session: Session,
        store: StoreOption,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        data = [_machine_json(machine) for machine in bucket.machines()]
        session.answer({"machines": data}, lambda console: show_machines(console, data))


def _machine_json(machine: StoredMachine) -> dict[str, Any]:
    from homeport.bucket import inventory
    from homeport.store import names

    points = sorted(machine.points(), key=lambda point: point.time)
    held = inventory.take(machine.store.objects, names.machine(machine.uuid)).all.total
    return {
        "uuid": machine.uuid,
        "name": machine.name,
        "timelines": len(machine.store.timeline_ids()),
        "points": len(points),
        "oldest": points[0].to_json() if points else None,
        "newest": points[-1].to_json() if points else None,
        **held.to_json(),
    }


def show_machines(console: Console, machines: list[dict[str, Any]]) -> None:
    if not machines:
        console.print("This store holds no machine.")
        return
    rows = table("Machine", "UUID", "Points", "Oldest", "Newest", "Disks", "Stored")
    for machine in machines:
        newest, oldest = machine["newest"] or {}, machine["oldest"] or {}
        disks = newest.get("disks", {})
        rows.add_row(
            str(machine["name"]).replace("[", "\\["),
            machine["uuid"],
            str(machine["points"]),
            show_instant(oldest.get("time")),
            show_instant(newest.get("time")),
            ", ".join(f"{disk} {show_size(size)}" for disk, size in disks.items()),
            show_size(machine["bytes"]),
        )
    console.print(rows)
