"""`homeport group …`: machines whose recovery points are of one instant; and what is done to a whole group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import Group, Job
from homeport.cli.errors import FAILED, WrongUse
from homeport.cli.formats import show_instant, show_span
from homeport.cli.lessons import PROTECT, lesson
from homeport.cli.session import Session, command, group
from homeport.cli.tables import coloured, details, table
from homeport.cli.waiting import failure, follow

if TYPE_CHECKING:
    from rich.console import Console

MULTI_VM = "latest-multi-vm"
KINDS = (MULTI_VM, "latest-multi-vm-app-consistent")
SHOWN = 12

LIST = lesson(
    "List the replication groups: machines whose recovery points are of one instant.",
    """A group begins with its first member, homeport protect MACHINE --group NAME, and ends with its last.""",
    "homeport group list",
    then="homeport group show shop",
)
SHOW = lesson(
    "Show a group's members and the points that all of them have.",
    """Each such point is of one instant: whoever fails the group over to it finds its machines as they were together.
    Its first column names it for homeport failover --group NAME --point.""",
    "homeport group show shop",
    then="homeport failover --group shop",
)
SET = lesson(
    "Give all members of a group another policy, at once.",
    "Members share one policy, since they take their points together.",
    "homeport group set shop --policy silver",
    then="homeport group show shop",
)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
GroupOption = Annotated[
    str | None, typer.Option("--group", metavar="GROUP", help="All members of this replication group, not one item.")
]
AloneOption = Annotated[
    bool, typer.Option("--alone", help="Though it is a member of a group: without the others, at another instant.")
]
OneItem = Annotated[
    str | None, typer.Argument(metavar="ITEM", help="The replicated item's name or id; or give --group.")
]


def register(app: typer.Typer) -> None:
    groups = group("Groups: machines whose recovery points are of one instant.")
    app.add_typer(groups, name="group", rich_help_panel=PROTECT)

    @command(groups, "list", LIST)
    def list_groups(session: Session) -> None:
        found = session.vault.groups()
        session.answer({"groups": found}, lambda console: show_groups(console, found))

    @command(groups, "show", SHOW)
    def show(session: Session, name: GroupArgument) -> None:
        found = session.vault.group(name)
        session.answer({"group": found}, lambda console: show_group(console, found))

    @command(groups, "set", SET)
    def set_group(
        session: Session,
        name: GroupArgument,
        policy: Annotated[str, typer.Option(metavar="NAME", help="The policy for all of its members.")],
    ) -> None:
        found = session.vault.change_group(name, {"policy": policy})
        session.answer({"group": found}, lambda console: show_group(console, found))


def one_of(item: str | None, group: str | None, alone: bool = False) -> None:
    """An operation takes an item or a whole group. Raises WrongUse."""
    if (item is None) == (group is None):
        raise WrongUse("name one ITEM, or a group with --group")
    if group is not None and alone:
        raise WrongUse("--alone is for one member; --group is for all of them")


def common_point(point: str, default: str) -> str:
    """What --point means for a group. ``default``: what it is where it was not given. Raises WrongUse."""
    wanted = MULTI_VM if point == default else point
    if wanted in KINDS or ("/" not in wanted and "-" not in wanted):
        return wanted
    raise WrongUse(f"{point} is no point of a group: {', '.join(KINDS)}, or an id from `homeport group show`")


def single_point(point: str) -> None:
    """Raises WrongUse where --point is one that only a group has."""
    if point in KINDS or ("/" not in point and "-" not in point and point != "latest"):
        raise WrongUse(f"{point} is a point of a whole group: name the group with --group")


def operate_group(
    session: Session, name: str, operation: str, inputs: Mapping[str, Any], *, yes: bool, no_wait: bool, told: str
) -> None:
    """Begin an operation on all members, wait for their jobs, and say what became of each. ``told``: what happens to
    each, said before it is asked for."""
    session.needs_consent(yes, f"`{operation} --group {name}`")
    if not yes:
        found = session.vault.group(name)
        session.ask([f"{member['name']} ({member['state']}, at {member['active_site']}): {told}" for member in
                     found["members"]])  # fmt: skip
    begun = session.vault.operate_group(name, operation, inputs)
    jobs: list[Job] = begun if no_wait else [follow(session, job["id"]) for job in begun]
    lines, failed = [], False
    for job in jobs:
        member = job.get("item_name") or "?"
        if no_wait:
            lines.append(f"{member}: accepted, job {job['id']}")
        elif job["state"] == "succeeded":
            point = (job.get("result") or {}).get("point")
            lines.append(f"{member}: {operation} succeeded" + (f", from point {point}" if point else ""))
        else:
            failed = True
            error = failure(job).to_json()
            lines.append(f"{member}: {job['state']}: {error['cause']} ({error['code']}) {error.get('remedy') or ''}")
    session.tell({"jobs": jobs}, lines)
    if failed:
        raise typer.Exit(FAILED)


def show_groups(console: Console, groups: list[Group]) -> None:
    if not groups:
        console.print("There is no replication group. One begins with: homeport protect MACHINE … --group NAME")
        return
    rows = table("Name", "From", "To", "Policy", "Members", "Newest common point")
    for each in groups:
        newest = each["common_points"][:1]
        rows.add_row(
            each["name"],
            each["from"],
            each["to"],
            each["policy"],
            coloured(", ".join(member["name"] for member in each["members"]), ""),
            f"{show_span(each['rpo_seconds'])} ago" if newest else coloured("none yet", "yellow"),
        )
    console.print(rows)


def show_group(console: Console, found: Group) -> None:
    shown = details()
    shown.add_row("Group", coloured(f"{found['name']} from {found['from']} to {found['to']}", ""))
    shown.add_row("Policy", coloured(found["policy"], ""))
    for member in found["members"]:
        shown.add_row("Member", coloured(f"{member['name']}: {member['state']}, at {member['active_site']}", ""))
    console.print(shown)
    if not found["common_points"]:
        console.print("There is no point yet that all of its members have.")
        return
    rows = table("Common point", "Time", "Consistency")
    for point in found["common_points"][:SHOWN]:
        rows.add_row(point["round"], show_instant(point["time"]), point["consistency"])
    console.print(rows)
    if len(found["common_points"]) > SHOWN:
        console.print(f"and {len(found['common_points']) - SHOWN} older ones")
