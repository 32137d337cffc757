"""`homeport item …`: what a replicated machine shall be where it is recovered, and items that were deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import DeletedItem, Item
from homeport.cli.errors import WrongUse
from homeport.cli.formats import parse_instant, parse_size, show_instant, show_size
from homeport.cli.lessons import PROTECT, lesson
from homeport.cli.session import NoWaitOption, Session, YesOption, command, group
from homeport.cli.status import tell_what_now
from homeport.cli.tables import HEALTH_COLOURS, coloured, details, table
from homeport.cli.waiting import accept

if TYPE_CHECKING:
    from rich.console import Console

SHOW = lesson(
    "Show what a machine shall be where it is recovered.",
    """Its name, size, network and address there, which disks are left out, and whether that was chosen or is as at the
    machine's own site. homeport status ITEM shows how its replication goes.""",
    "homeport item show web1",
    then="homeport item set web1 --size 4x8GiB",
)
SET = lesson(
    "Change what a machine shall be where it is recovered, or its policy.",
    """Checked at once, and again at a failover. Properties count from the next machine that is made (a test, a
    failover, a change of point), a policy at once. The word "same" takes a choice back: as at the machine's own site.
    The name can't change while the machine is there.""",
    "homeport item set web1 --cpus 4 --memory 8GiB --network blue",
    "homeport item set web1 --network same --policy silver",
    then="homeport test-failover web1 shows the machine as it would be.",
)
LIST = lesson(
    "List the replicated machines and what they would be at the other site, or those that were deleted.",
    """With --deleted the items whose protection ended and whose recovery points are still kept, and until when.""",
    "homeport item list",
    "homeport item list --deleted",
    then="homeport item show ITEM, or homeport item restore ITEM, or homeport item purge ITEM",
)
PURGE = lesson(
    "Delete the recovery points of a deleted item now.",
    """They would go by themselves 14 days after homeport disable. Where nothing else of the machine is kept its key is
    shredded first, so that nobody can read what is left anywhere. A site that is away does it when it returns. Asks
    before it begins.""",
    "homeport item purge web1",
    then="homeport item list --deleted",
)

RESTORE = lesson(
    "Protect the machine of a deleted item again, with the points that are kept.",
    """For an item that was disabled by mistake, while its points are kept (14 days). Its points are offered again; the
    next one ships what differs from the newest of them, found by digests: no full copy.""",
    "homeport item restore web1",
    then="homeport points web1",
)

UNTAG = lesson(
    "Take a recovery point's tag back, so that it is kept no longer than others of its age.",
    """Retention then drops it when it is its turn; where the points around it are gone already, it goes now. Its space
    comes back later, as that of any point.""",
    "homeport item untag web1 0f3a5c7e9b1d2f40/17",
    then="homeport points web1 --tagged",
)

SAME = "same"
"""Takes a choice back."""

DeletedArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The deleted item's name or id.")]
ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item's name or id.")]


def register(app: typer.Typer) -> None:
    items = group("Items: replicated machines, and what they shall be at the other site.")
    app.add_typer(items, name="item", rich_help_panel=PROTECT)

    @command(items, "list", LIST)
    def list_items(
        session: Session,
        deleted: Annotated[bool, typer.Option("--deleted", help="Those whose points are kept for a while.")] = False,
    ) -> None:
        if deleted:
            kept = session.vault.deleted_items()
            session.answer({"items": kept}, lambda console: show_deleted(console, kept))
            return
        found = session.vault.items()
        session.answer({"items": found}, lambda console: show_items(console, found))

    @command(items, "show", SHOW)
    def show(session: Session, item: ItemArgument) -> None:
        found = session.vault.item(item)
        session.answer({"item": found}, lambda console: show_item(console, found))

    @command(items, "set", SET)
    def set_item(
        session: Session,
        item: ItemArgument,
        name: Annotated[str | None, typer.Option(help="The machine's name there.")] = None,
        cpus: Annotated[str | None, typer.Option(metavar="N", help="Virtual CPUs there.")] = None,
        memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory there, e.g. 8GiB.")] = None,
        network: Annotated[str | None, typer.Option(help="Its network there.")] = None,
        ip: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The address that it shall get there.")] = None,
        tag: Annotated[
            list[str] | None, typer.Option(metavar="TEXT", help="Notes on the item, instead of those it has.")
        ] = None,
        policy: Annotated[str | None, typer.Option(metavar="NAME", help="Another replication policy, at once.")] = None,
    ) -> None:
        given: dict[str, Any] = {
            "name": name,
            "cpus": _number(cpus),
            "memory": _size(memory),
            "network": network,
            "ip": ip,
            "tags": tag or None,
            "policy": policy,
        }
        changes = {key: None if value == SAME else value for key, value in given.items() if value is not None}
        if not changes:
            raise WrongUse("nothing to set: name a property, such as --memory 8GiB")
        if "policy" in changes and changes["policy"] is None:
            raise WrongUse("--policy takes the name of a policy")
        changed = session.vault.change_item(item, changes)
        session.answer({"item": changed}, lambda console: show_item(console, changed))

    @command(items, "purge", PURGE)
    def purge(session: Session, item: DeletedArgument, yes: YesOption = False) -> None:
        session.needs_consent(yes, f"`item purge {item}`")
        if not yes:
            session.ask([f"The recovery points of {item} are deleted now, for good: nothing of it can be recovered."])
        found = session.vault.purge_deleted(item)
        session.answer(
            {"item": found},
            lambda console: console.print(f"The recovery points of {found['name']} are being deleted.", markup=False),
        )

    @command(items, "restore", RESTORE)
    def restore(session: Session, item: DeletedArgument, no_wait: NoWaitOption = False) -> None:
        job_id = session.vault.restore_deleted(item)
        job = accept(session, job_id, wait=not no_wait, done=f"{item} is protected again, with its earlier points")
        if not no_wait:
            tell_what_now(session, job, job.get("item") or item)

    @command(items, "untag", UNTAG)
    def untag(
        session: Session,
        item: ItemArgument,
        point: Annotated[str, typer.Argument(metavar="POINT", help="As homeport points ITEM --tagged lists it.")],
    ) -> None:
        timeline, slash, number = point.partition("/")
        if not slash or not number.isdigit():
            raise WrongUse(f"{point!r} is no recovery point; expected TIMELINE/NUMBER")
        found = session.vault.untag(item, timeline, number)
        session.answer(
            {"item": found}, lambda console: console.print(f"{point} is kept as others of its age are.", markup=False)
        )


def _number(text: str | None) -> int | str | None:
    if text is None or text == SAME:
        return text
    if not text.isdigit():
        raise WrongUse(f"{text!r} is no number of CPUs")
    return int(text)


def _size(text: str | None) -> int | str | None:
    if text is None or text == SAME:
        return text
    try:
        return parse_size(text)
    except ValueError as error:
        raise WrongUse(str(error)) from error


def show_item(console: Console, item: Item) -> None:
    target, machine = item.get("target") or {}, item.get("target_machine") or {}
    rows = details()

    def row(name: str, value: str, chosen: object) -> None:
        rows.add_row(name, coloured(value, "") if chosen else coloured(f"{value} (as at {item['from']})", ""))

    rows.add_row("Item", coloured(f"{item['name']} from {item['from']} to {item['to']}, {item['state']}", ""))
    rows.add_row("Policy", coloured(str(item["policy"]), ""))
    if name := (item.get("replication") or {}).get("process_server"):
        rows.add_row("Process server", coloured(name, ""))
    row("Name there", str(machine.get("name", "?")), target.get("name"))
    row("CPUs", str(machine.get("cpus", "?")), target.get("cpus"))
    row("Memory", show_size(machine.get("memory")), target.get("memory"))
    networks = sorted({nic.get("network", "?") for nic in machine.get("nics", [])})
    row("Network", ", ".join(networks) or "none", target.get("network"))
    rows.add_row("IP", coloured(str(target.get("ip") or "any"), ""))
    disks = ", ".join(f"{disk['id']} {show_size(disk.get('size'))}" for disk in machine.get("disks", []))
    rows.add_row("Disks", coloured(disks, ""))
    excluded = target.get("excluded_disks") or []
    if excluded:
        rows.add_row(
            "Left out", coloured(f"{', '.join(excluded)}: not replicated, not there after a failover", "yellow")
        )
    if target.get("tags"):
        rows.add_row("Tags", coloured(", ".join(target["tags"]), ""))
    console.print(rows)


def show_items(console: Console, items: list[Item]) -> None:
    if not items:
        console.print("Nothing is protected yet. Begin: homeport protect MACHINE --from SITE --to SITE --policy NAME")
        return
    rows = table("Name", "From", "To", "Policy", "State", "Health", "Name there", "Size there")
    for item in items:
        machine = item.get("target_machine") or {}
        health = item.get("health", "?")
        rows.add_row(
            item["name"],
            item["from"],
            item["to"],
            item["policy"],
            item["state"],
            coloured(health, HEALTH_COLOURS.get(health, "")),
            str(machine.get("name", "?")),
            f"{machine.get('cpus', '?')} x {show_size(machine.get('memory'))}",
        )
    console.print(rows)


def show_deleted(console: Console, items: list[DeletedItem]) -> None:
    if not items:
        console.print("No deleted item has recovery points left.")
        return
    rows = table("Name", "Id", "From", "To", "Deleted", "Points", "Kept until")
    for item in items:
        waiting = "; ".join(item.get("waiting") or [])
        until = show_instant(item["purge_at"]) if parse_instant(item.get("purge_at")) else "-"
        rows.add_row(
            item["name"],
            item["id"],
            item["from"],
            item["to"],
            show_instant(item["removed"]),
            str(item.get("points", "?")),
            coloured(f"being deleted: {waiting}", "yellow") if waiting else coloured(until, ""),
        )
    console.print(rows)
