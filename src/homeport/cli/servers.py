"""`homeport server …`: which servers a vault has, and which it no longer trusts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.process_servers import throttle_rows
from homeport.cli.session import Session, YesOption, command, group
from homeport.cli.tables import coloured, details, table
from homeport.cli.traffic import show_rates, traffic_rows

if TYPE_CHECKING:
    from rich.console import Console

LIST = lesson(
    "List the vault's servers, in the order in which they are upgraded.",
    """Shows role, site, state (joining, joined, revoked), last contact, version, and when the certificate expires, with
    a warning thirty days before: renewal happens by itself, so that a warning means that it failed. Vaults are upgraded
    first, then configuration servers, then process servers and master targets, then mobility services.""",
    "homeport server list",
    then="homeport server revoke NAME, where one is not to be trusted any more",
)
SHOW = lesson(
    "Show one server; of a process server its health, its cache, its throttle, and what each disk changes and ships.",
    """A process server is as well as the worst of: heartbeat, free cache, how long the oldest point has waited to be
    shipped, processors and memory over 15 minutes. Below 20 % of free cache no points are begun; changes stay tracked
    at their machines. Where it isn't healthy, items are named that another process server would better have. Servers
    that run in the vault's own process are shown under their site's name. Rates are bytes per second: over 5 minutes,
    an hour, and a day; what is shipped of a disk is counted after compression.""",
    "homeport server show ps-1",
    then="homeport process-server switch ITEM --to NAME, where items should move",
)
REVOKE = lesson(
    "Revoke a server's certificates: nobody takes its word any more, from its next request on.",
    """For a machine that was stolen or broken into. What it did stays; its name is free again after `homeport server
    remove`. --serial: only that certificate, of which the server may have newer ones. Asks before it begins.""",
    "homeport server revoke ps-1",
    then="homeport server remove NAME",
)
REMOVE = lesson(
    "Remove a server from the vault, and revoke its certificates.",
    """In the order of dependency. A process server is refused while it replicates items, or is the only one to take the
    points of others into its site; a master target while items come home by it; a configuration server while its site
    has other servers, or items. --force: where it is gone for good; what depends on it is removed with it. Says what is
    left behind. Asks before it begins.""",
    "homeport server remove ps-1",
    "homeport server remove cs-home --force",
    then="homeport server list",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the server, as `server list` shows it.")]
_COLOURS = {"joined": "green", "joining": "cyan", "revoked": "red"}


def register(app: typer.Typer) -> None:
    server = group("Servers: who belongs to the vault.")
    app.add_typer(server, name="server", rich_help_panel=SET_UP)

    @command(server, "list", LIST)
    def list_servers(session: Session) -> None:
        answer = session.vault.servers()
        session.answer(answer, lambda console: show(console, answer))

    @command(server, "show", SHOW)
    def show_server(session: Session, name: NameArgument) -> None:
        answer = session.vault.server(name)
        session.answer(answer, lambda console: show_one(console, name, answer))

    @command(server, "revoke", REVOKE)
    def revoke(
        session: Session,
        name: NameArgument,
        serial: Annotated[
            str | None, typer.Option("--serial", metavar="HEX", help="Only this certificate; see server list --json.")
        ] = None,
        yes: YesOption = False,
    ) -> None:
        session.needs_consent(yes, f"`server revoke {name}`")
        if not yes:
            what = f"the certificate {serial}" if serial else "every certificate"
            session.ask([f"From now on nobody takes {what} of {name}. That can't be taken back; it can join anew."])
        revoked = session.vault.revoke_server(name, serial)
        session.answer({"server": revoked}, lambda console: console.print(f"Revoked: {name}.", markup=False))

    @command(server, "remove", REMOVE)
    def remove(
        session: Session,
        name: NameArgument,
        force: Annotated[bool, typer.Option("--force", help="With what depends on it, whatever uses it.")] = False,
        yes: YesOption = False,
    ) -> None:
        session.needs_consent(yes, f"`server remove {name}`")
        if not yes:
            session.ask([f"The vault forgets {name} and revokes its certificates."])
        found = session.vault.remove_server(name, force=force)
        names = ", ".join(each["name"] for each in found["removed"])
        session.tell(found, [f"Removed: {names}.", *found.get("left", [])])


def show_one(console: Console, name: str, answer: dict[str, Any]) -> None:
    rows, known, vitals = details(), answer["server"], answer["process_server"]
    rows.add_row("Server", name)
    if known is not None:
        rows.add_row("Role", f"{known['role']} of {known['site'] or 'the vault'}")
        rows.add_row("State", coloured(known["state"], _COLOURS.get(known["state"], "")))
        rows.add_row("Last contact", show_instant(known["last_contact"]))
        rows.add_row("Version", known["version"] or "-")
    if vitals is not None:
        told = vitals["told"]
        colour = {"healthy": "green", "warning": "yellow"}.get(vitals["health"], "red")
        rows.add_row("Health", coloured(vitals["health"], colour))
        for reason in vitals["reasons"]:
            rows.add_row("", reason)
        for label, key in (("Processors", "cpu"), ("Memory", "memory")):
            if told.get(key) is not None:
                rows.add_row(label, f"{told[key]:.0%} over 15 min")
        if told.get("cache"):
            rows.add_row("Cache", f"{show_size(told['cache']['free'])} of {show_size(told['cache']['total'])} free")
        rows.add_row("Uploads", f"{told.get('threads', '-')} at once for a machine")
        if told.get("throttle"):
            throttle_rows(rows, told["throttle"])
        for item, statistics in sorted(vitals["items"].items()):
            if statistics is None:
                rows.add_row(item, "it has told nothing of this machine")
                continue
            rows.add_row(item, f"ships {show_rates(statistics['shipped'])}" + _waits(statistics["pending"]))
            traffic_rows(rows, statistics)
    console.print(rows)
    for move in vitals["moves"] if vitals is not None else ():
        console.print(
            f"Better at {move['to']}: homeport process-server switch {move['item']} --to {move['to']}", markup=False
        )


def _waits(pending: float | None) -> str:
    return "" if pending is None else f"; the oldest point has waited {pending:.0f} s"


def show(console: Console, answer: dict[str, Any]) -> None:
    _suggested(console, answer.get("suggestions") or {})
    if not answer["servers"]:
        console.print("No servers have joined: all run in the vault's own process.")
        return
    rows = table("Name", "Role", "Site", "State", "Last contact", "Version", "Certificate until")
    for each in answer["servers"]:
        expires = show_instant(each["certificate_expires"])
        version = each["version"] or "-"
        rows.add_row(
            each["name"],
            each["role"],
            each["site"] or "-",
            coloured(each["state"], _COLOURS.get(each["state"], "")),
            show_instant(each["last_contact"]),
            coloured(version, "" if version == answer["version"] else "yellow"),
            coloured(expires, "yellow" if each["warnings"] else ""),
        )
    console.print(rows)
    for each in answer["servers"]:
        for warning in each["warnings"]:
            console.print(f"{each['name']}: {warning}", markup=False, style="yellow")
    if answer["upgrade"]:
        console.print(f"To upgrade to {answer['version']} now: {', '.join(answer['upgrade'])}", markup=False)


def _suggested(console: Console, suggested: dict[str, Any]) -> None:
    if moves := suggested.get("moves"):
        told = f"Better at other process servers ({moves} machines): homeport process-server suggest"
        console.print(told, markup=False, style="yellow")
    if sites := suggested.get("add"):
        told = f"Another process server is needed at {', '.join(sites)}: homeport process-server suggest"
        console.print(told, markup=False, style="yellow")
