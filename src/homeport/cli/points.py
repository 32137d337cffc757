"""`homeport points` and `homeport point`: the instants to which a machine can be returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from homeport.cli.api import Point
from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import LOOK, PROTECT, lesson
from homeport.cli.operations import ItemArgument, operate
from homeport.cli.session import NoWaitOption, Session, command
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

POINTS = lesson(
    "List the recovery points of a machine, the newest first.",
    """Shows each point's id, time and age, consistency, size of its changes, tags, and which of the names latest,
    latest-processed and latest-app-consistent mean it now. A tag keeps a point past its retention: --tagged lists such
    points, also after a commit has taken them out of the list; homeport item untag lets one go.""",
    "homeport points web1",
    "homeport points web1 --tagged",
    then="homeport test-failover web1 --point ID, or homeport failover web1 --point ID",
)
POINT = lesson(
    "Take a recovery point now.",
    """Crash-consistent, or with --app-consistent through the guest agent, which freezes the file systems for a moment.
    The tag is shown in the list of points.""",
    'homeport point web1 --app-consistent --tag "before upgrade"',
    then="homeport points web1",
)


def register(app: typer.Typer) -> None:
    @command(app, "point", POINT, panel=PROTECT)
    def point(
        session: Session,
        item: ItemArgument,
        app_consistent: Annotated[
            bool, typer.Option("--app-consistent", help="Freeze the guest's file systems for it.")
        ] = False,
        tag: Annotated[str | None, typer.Option(metavar="TEXT", help="A word to find it again by.")] = None,
        no_wait: NoWaitOption = False,
    ) -> None:
        inputs = {"app_consistent": app_consistent, "tag": tag}
        operate(session, item, "point", inputs, no_wait=no_wait, done=f"A recovery point of {item} is taken")

    @command(app, "points", POINTS, panel=LOOK)
    def points(
        session: Session,
        item: ItemArgument,
        tagged: Annotated[
            bool, typer.Option("--tagged", help="Those with a tag, also those that only the tag keeps in the store.")
        ] = False,
    ) -> None:
        found = session.vault.points(item, tagged=tagged)
        session.answer({"points": found}, lambda console: show_points(console, found))


def show_points(console: Console, points: list[Point]) -> None:
    """Oldest first in, newest first out."""
    if not points:
        console.print("No recovery points are offered.")
        return
    hidden = any(point.get("hidden") for point in points)
    rows = table("Point", "Time", "Consistency", "Changed", "Stored", "Tags", "Offered as", *(["Hidden"] * hidden))
    for point in sorted(points, key=lambda one: one.get("time", ""), reverse=True):
        rows.add_row(
            point.get("id", "?"),
            show_instant(point.get("time")),
            point.get("consistency", "?"),
            show_size(point.get("logical_bytes")),
            show_size(point.get("stored_bytes")),
            ", ".join(point.get("tags") or []).replace("[", "\\["),
            ", ".join(point.get("offered_as") or []),
            *(["yes" if point.get("hidden") else ""] * hidden),
        )
    console.print(rows)
