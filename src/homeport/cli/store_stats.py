"""`homeport store stats`: where the bytes are, and what retention costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
)
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

STATS = lesson(
    "Say where the bytes of a store are, and what keeping points costs.",
    """By machine, timeline and kind of object; how much of the segments is live (a retained point needs it) and dead
    (until it is compacted); what the points of each age brought; what dropping the oldest 1, 2, 4, … would free.""",
    "homeport store stats --store file:///srv/away/store --machine web1",
    then="homeport policy create NAME --retention 7d …, or homeport store purge …",
)


def add(group: typer.Typer) -> None:
    @command(group, "stats", STATS, with_vault=False)
    def stats(
        session: Session,
        store: StoreOption,
        machine: EachMachineOption = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        from homeport.bucket.accounting import account
        from homeport.cli.transfers import counting

        chosen = bucket.chosen(machine)
        data = []
        with counting(session, "Reading records", "machines") as progress:
            for number, one in enumerate(chosen, 1):
                data.append({"uuid": one.uuid, "name": one.name, **account(one.store)})
                progress(number, len(chosen))
        session.answer({"machines": data}, lambda console: show_stats(console, data))


def show_stats(console: Console, machines: list[dict[str, Any]]) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for one in machines:
        console.print(
            f"{one['name']} ({one['uuid']}): {show_size(one['bytes'])} in {one['objects']} objects",
            markup=False,
            style="bold",
        )
        kinds = table("Kind", "Objects", "Size")
        for kind, amount in one["kinds"].items():
            kinds.add_row(kind, str(amount["objects"]), show_size(amount["bytes"]))
        console.print(kinds)
        ages = table("Points of the last", "Points", "Brought")
        for age in one["ages"]:
            ages.add_row(age["age"], str(age["points"]), show_size(age["bytes"]))
        console.print(ages)
        for timeline in one["timelines"]:
            _show_timeline(console, timeline)


def _show_timeline(console: Console, timeline: dict[str, Any]) -> None:
    found = timeline["segments"]
    console.print(
        f"  timeline {timeline['id']}: {timeline['points']} points, segments {show_size(found['bytes'])}: "
        f"{show_size(found['live_bytes'])} live, {show_size(found['dead_bytes'])} dead, "
        f"{show_size(found['unnamed']['bytes'])} not named by any point",
        markup=False,
    )
    for drop in timeline["dropping"]:
        console.print(
            f"    dropping the oldest {drop['points']} (up to {drop['upto']}) frees {show_size(drop['frees_bytes'])}",
            markup=False,
        )
