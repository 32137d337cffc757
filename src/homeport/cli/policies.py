"""`homeport policy …`: how often, how long, how consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from homeport.cli.api import Policy
from homeport.cli.formats import parse_duration, show_duration
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.session import Session, command, group
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

CREATE = lesson(
    "Create a replication policy.",
    """It says how old the newest recovery point may get before an alert (RPO threshold), how long points are kept, how
    often an app-consistent one is taken (off: never), and how often a crash-consistent one. Durations: 15s, 15m, 24h,
    7d, 1h30m, off.""",
    "homeport policy create gold --rpo-threshold 15m --retention 24h --app-consistent 1h --interval 15s",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)
LIST = lesson(
    "List the replication policies.",
    "Shows RPO threshold, retention, app-consistent frequency and interval of each.",
    "homeport policy list",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)


def duration(text: str) -> int:
    """A duration option: seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def register(app: typer.Typer) -> None:
    policy = group("Replication policies: how often, how long, how consistent.")
    app.add_typer(policy, name="policy", rich_help_panel=SET_UP)

    @command(policy, "create", CREATE)
    def create(
        session: Session,
        name: Annotated[str, typer.Argument(help="The policy's name.")],
        rpo_threshold: Annotated[
            int, typer.Option(parser=duration, metavar="DURATION", help="Warn when the newest point is older.")
        ],
        retention: Annotated[int, typer.Option(parser=duration, metavar="DURATION", help="Keep points this long.")],
        app_consistent: Annotated[
            int, typer.Option(parser=duration, metavar="DURATION", help="App-consistent points this often, or off.")
        ],
        interval: Annotated[
            int | None,
            typer.Option(parser=duration, metavar="DURATION", help="Points this often. Default: the vault's."),
        ] = None,
    ) -> None:
        wanted: Policy = {
            "name": name,
            "rpo_threshold": rpo_threshold,
            "retention": retention,
            "app_consistent": app_consistent,
        }
        if interval is not None:
            if interval == 0:
                raise typer.BadParameter("an interval can't be off", param_hint="--interval")
            wanted["interval"] = interval
        created = session.vault.create_policy(wanted)
        session.answer({"policy": created}, lambda console: show_policies(console, [created]))

    @command(policy, "list", LIST)
    def list_policies(session: Session) -> None:
        policies = session.vault.policies()
        session.answer({"policies": policies}, lambda console: show_policies(console, policies))


def show_policies(console: Console, policies: list[Policy]) -> None:
    if not policies:
        console.print("No policies yet. Make one: homeport policy create NAME --rpo-threshold 15m --retention 24h …")
        return
    rows = table("Name", "RPO threshold", "Retention", "App-consistent every", "Interval")
    for policy in policies:
        rows.add_row(
            policy.get("name", "?"),
            show_duration(policy.get("rpo_threshold")),
            show_duration(policy.get("retention")),
            show_duration(policy.get("app_consistent")),
            show_duration(policy.get("interval")),
        )
    console.print(rows)
