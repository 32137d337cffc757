"""`homeport policy …`: how often, how long, how consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

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
    """It says how old the newest recovery point may get before there is a warning (RPO threshold) and before the health
    is critical (twice that unless --rpo-critical says otherwise), how long points are kept, how often an app-consistent
    one is taken (off: never), and how often a crash-consistent one. Durations: 15s, 15m, 24h, 7d, 1h30m, off.""",
    "homeport policy create gold --rpo-threshold 15m --retention 24h --app-consistent 1h --interval 15s",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)
LIST = lesson(
    "List the replication policies.",
    "Shows both RPO thresholds, retention, app-consistent frequency and interval of each.",
    "homeport policy list",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)
SHOW = lesson(
    "Show one replication policy.",
    "NAME-failback is the policy of the way home, made from NAME.",
    "homeport policy show gold",
    then="homeport policy set NAME …",
)
SET = lesson(
    "Change a replication policy.",
    """What isn't given stays as it is. It counts at once, for the items that have the policy, too: a shorter retention
    drops older points within 15 minutes. --rpo-critical off makes it twice the RPO threshold again.""",
    "homeport policy set gold --retention 7d",
    then="homeport policy show NAME",
)
REMOVE = lesson(
    "Delete a replication policy.",
    "Refused while items refer to it. The failback policy that was made from it goes with it.",
    "homeport policy remove gold",
    then="homeport policy list",
)
PROFILE = lesson(
    "Show or choose whose limits policies are held to.",
    """default: Homeport's own, as wide as they can be. strict: those of the original system (15 days, app-consistent
    points every 1 to 12 hours). Refused while a policy is outside of the limits.""",
    "homeport policy profile strict",
    then="homeport policy list",
)


def duration(text: str) -> int:
    """A duration option: seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _option(help_text: str) -> Any:
    return typer.Option(parser=duration, metavar="DURATION", help=help_text)


NameArgument = Annotated[str, typer.Argument(help="The policy's name.")]
THRESHOLD, CRITICAL = "Warn when the newest point is older.", "Critical when it is older. Default: twice the threshold."
RETENTION, APP = "Keep points this long.", "App-consistent points this often, or off."


def _change(**given: int | None) -> Policy:
    """What was given, as the vault takes it."""
    if given.get("interval") == 0:
        raise typer.BadParameter("an interval can't be off", param_hint="--interval")
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if wanted.get("rpo_critical") == 0:
        wanted["rpo_critical"] = None
    return cast("Policy", wanted)


def register(app: typer.Typer) -> None:
    policy = group("Replication policies: how often, how long, how consistent.")
    app.add_typer(policy, name="policy", rich_help_panel=SET_UP)

    @command(policy, "create", CREATE)
    def create(
        session: Session,
        name: NameArgument,
        rpo_threshold: Annotated[int, _option(THRESHOLD)],
        retention: Annotated[int, _option(RETENTION)],
        app_consistent: Annotated[int, _option(APP)],
        interval: Annotated[int | None, _option("Points this often. Default: the vault's.")] = None,
        rpo_critical: Annotated[int | None, _option(CRITICAL)] = None,
    ) -> None:
        wanted = _change(
            rpo_threshold=rpo_threshold,
            retention=retention,
            app_consistent=app_consistent,
            interval=interval,
            rpo_critical=rpo_critical,
        )
        created = session.vault.create_policy({"name": name, **wanted})
        session.answer({"policy": created}, lambda console: show_policies(console, [created]))

    @command(policy, "list", LIST)
    def list_policies(session: Session) -> None:
        policies = session.vault.policies()
        session.answer({"policies": policies}, lambda console: show_policies(console, policies))

    @command(policy, "show", SHOW)
    def show(session: Session, name: NameArgument) -> None:
        found = session.vault.policy(name)
        session.answer({"policy": found}, lambda console: show_policies(console, [found]))

    @command(policy, "set", SET)
    def change(
        session: Session,
        name: NameArgument,
        rpo_threshold: Annotated[int | None, _option(THRESHOLD)] = None,
        rpo_critical: Annotated[int | None, _option(CRITICAL)] = None,
        retention: Annotated[int | None, _option(RETENTION)] = None,
        app_consistent: Annotated[int | None, _option(APP)] = None,
        interval: Annotated[int | None, _option("Points this often.")] = None,
    ) -> None:
        wanted = _change(
            rpo_threshold=rpo_threshold,
            rpo_critical=rpo_critical,
            retention=retention,
            app_consistent=app_consistent,
            interval=interval,
        )
        if not wanted:
            raise typer.BadParameter("nothing to change was given", param_hint="--retention …")
        changed = session.vault.change_policy(name, wanted)
        session.answer({"policy": changed}, lambda console: show_policies(console, [changed]))

    @command(policy, "remove", REMOVE)
    def remove(session: Session, name: NameArgument) -> None:
        removed = session.vault.remove_policy(name)
        session.answer({"policy": removed}, lambda console: console.print(f"Policy {name} removed.", markup=False))

    @command(policy, "profile", PROFILE)
    def profile(
        session: Session,
        wanted: Annotated[str | None, typer.Argument(metavar="default|strict", help="The profile to choose.")] = None,
    ) -> None:
        if wanted not in (None, "default", "strict"):
            raise typer.BadParameter("expected default or strict", param_hint="PROFILE")
        found = session.vault.profile() if wanted is None else session.vault.set_profile(wanted)
        session.answer({"profile": found}, lambda console: console.print(f"The profile is {found}.", markup=False))


def show_policies(console: Console, policies: list[Policy]) -> None:
    if not policies:
        console.print("No policies yet. Make one: homeport policy create NAME --rpo-threshold 15m --retention 24h …")
        return
    rows = table("Name", "RPO threshold", "Critical", "Retention", "App-consistent every", "Interval")
    for policy in policies:
        rows.add_row(
            policy.get("name", "?"),
            show_duration(policy.get("rpo_threshold")),
            show_duration(policy.get("rpo_critical")),
            show_duration(policy.get("retention")),
            show_duration(policy.get("app_consistent")),
            show_duration(policy.get("interval")),
        )
    console.print(rows)
