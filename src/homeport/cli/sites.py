"""`homeport site …` and `homeport machine …`: where machines run, and which there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homeport.cli.api import Machine, Site
from homeport.cli.formats import show_instant, show_size
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.session import Session, YesOption, command, group
from homeport.cli.speech import fill, told, word
from homeport.cli.tables import POWER_COLOURS, coloured, details, table

if TYPE_CHECKING:
    from rich.console import Console

ADD = lesson(
    "Add a site: a place where machines run.",
    """A site has a provider, which knows its machines. For qemu the path is a folder with one folder per machine, each
    holding a machine.toml. Two sites are needed: one where machines run and one where they can be recovered.""",
    "homeport site add home --provider qemu --path /srv/home",
    then="homeport machine list SITE shows what was discovered there.",
)
LIST = lesson(
    "List the sites of the vault.",
    "Shows each site's name, provider and path.",
    "homeport site list",
    then="homeport machine list SITE",
)
SHOW = lesson(
    "Show a site: where its machines and its recovery points lie, and what it says of itself.",
    "Whether its servers are connected, since when not, and the facts that checks look at: memory, disk space, CPUs.",
    "homeport site show home",
    then="homeport machine list SITE",
)
SET = lesson(
    "Let a site keep its recovery points in another store.",
    """The site tries the store out first: that objects are created only if absent, that it may read, write, list and
    delete, and that there is room. Then its points go there. Refused while recovery points lie in the store it has.
    "default" is the store in the site's own folder.""",
    "homeport site set away --store s3://bucket/homeport?region=eu-north-1",
    "homeport site set away --store default",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)
REMOVE = lesson(
    "Remove a site from the vault.",
    """Refused while items replicate from it or to it. Its folder, its machines and its recovery store stay as they are;
    the site can be added again. Asks before it begins.""",
    "homeport site remove away",
    then="homeport site list",
)
MACHINES = lesson(
    "List the machines a site's provider discovers.",
    """Shows disks, power, and whether a machine can be protected, with the reason where it can't. The site is asked
    anew unless --no-refresh.""",
    "homeport machine list home",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)
START = lesson(
    "Power a machine on at its site.",
    """A machine that runs is left alone. One that runs at the other site since a failover is refused: starting it here
    too would split its history.""",
    "homeport machine start home web1",
    then="homeport protect MACHINE --from SITE --to SITE --policy NAME",
)


def register(app: typer.Typer) -> None:
    site = group("Sites: the places where machines run.")
    machine = group("Machines: what a site's provider discovers.")
    app.add_typer(site, name="site", rich_help_panel=SET_UP)
    app.add_typer(machine, name="machine", rich_help_panel=SET_UP)

    @command(site, "add", ADD)
    def add(
        session: Session,
        name: Annotated[str, typer.Argument(help="The site's name.")],
        provider: Annotated[str, typer.Option(help="What runs the machines there: qemu.")],
        path: Annotated[Path, typer.Option(help="The provider's folder of machines.")],
    ) -> None:
        added = session.vault.add_site(name, provider, str(path.absolute()))
        session.answer(
            {"site": added},
            lambda console: console.print(
                f"Site {name} added. See its machines: homeport machine list {name}", markup=False
            ),
        )

    @command(site, "list", LIST)
    def list_sites(session: Session) -> None:
        sites = session.vault.sites()
        session.answer({"sites": sites}, lambda console: show_sites(console, sites))

    @command(site, "show", SHOW)
    def show_site(
        session: Session, name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
    ) -> None:
        found = session.vault.site(name)
        session.answer({"site": found}, lambda console: show_one(console, found))

    @command(site, "set", SET)
    def set_site(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
        store: Annotated[str, typer.Option(metavar="URL", help="Where its recovery points go, or default.")],
    ) -> None:
        changed = session.vault.set_site(name, None if store == "default" else store)
        session.answer({"site": changed}, lambda console: show_one(console, changed))

    @command(site, "remove", REMOVE)
    def remove(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
        yes: YesOption = False,
    ) -> None:
        session.needs_consent(yes, f"`site remove {name}`")
        if not yes:
            session.ask(
                [f"The vault forgets the site {name}. Its folder, machines and recovery store stay as they are."]
            )
        removed = session.vault.remove_site(name)
        session.answer({"site": removed}, lambda console: console.print(f"Site {name} removed.", markup=False))

    @command(machine, "list", MACHINES)
    def list_machines(
        session: Session,
        site: Annotated[str, typer.Argument(help="The site's name.")],
        refresh: Annotated[bool, typer.Option("--refresh/--no-refresh", help="Ask the site anew.")] = True,
    ) -> None:
        machines = session.vault.machines(site, refresh=refresh)
        session.answer({"machines": machines}, lambda console: show_machines(console, site, machines))

    @command(machine, "start", START)
    def start(
        session: Session,
        site: Annotated[str, typer.Argument(help="The site's name.")],
        name: Annotated[str, typer.Argument(help="The machine's name at that site.")],
    ) -> None:
        started = session.vault.start_machine(site, name)
        session.answer({"machine": started}, lambda console: console.print(f"{name} runs at {site}.", markup=False))


def show_sites(console: Console, sites: list[Site]) -> None:
    if not sites:
        console.print("No sites yet. Add one: homeport site add NAME --provider qemu --path DIR")
        return
    rows = table("Name", "Provider", "Path", "Connected")
    for site in sites:
        connected = coloured("yes", "green") if site.get("connected") else coloured("no", "yellow")
        rows.add_row(site.get("name", "?"), site.get("provider", "?"), coloured(site.get("path", ""), ""), connected)
    console.print(rows)


def show_one(console: Console, site: Site) -> None:
    rows = details()
    rows.add_row("Site", coloured(f"{site['name']} ({site.get('provider', '?')})", ""))
    rows.add_row("Path", coloured(site.get("path", ""), ""))
    rows.add_row("Recovery store", coloured(site.get("store") or "in its own folder", ""))
    if site.get("connected"):
        rows.add_row("Connected", coloured("yes", "green"))
    else:
        rows.add_row("Connected", coloured(f"no, last seen {show_instant(site.get('last_seen'))}", "yellow"))
    facts = dict(site.get("facts") or {})
    servers, drives = facts.pop("servers", []), facts.pop("retention_drives", [])
    facts.pop("process_server", None)  # `server show` has it
    for server in servers:
        told = f"{server['role']}, {server['state']}, last contact {show_instant(server['last_contact'])}"
        rows.add_row(
            f"Server {server['name']}", coloured(told, "green" if server["state"] == "connected" else "yellow")
        )
    for drive in drives:
        told = f"{show_size(drive['free'])} of {show_size(drive['total'])} free, {drive['filesystem']}; "
        rows.add_row(f"Drive {drive['path']}", told + (drive["reason"] or "can be the retention drive"))
    for name, value in sorted(facts.items()):
        shown = show_size(value) if isinstance(value, int) and name.startswith("free_") else str(value)
        rows.add_row(word(name.replace("_", " ").capitalize(), "fact"), coloured(shown, ""))
    console.print(rows)


def show_machines(console: Console, site: str, machines: list[Machine]) -> None:
    if not machines:
        console.print(f"No machines discovered at {site}.", markup=False)
        return
    rows = table("Name", "Power", "Memory", "Disks", "Guest agent", "Can be protected", "UUID")
    for machine in machines:
        disks = ", ".join(
            f"{disk.get('id')} {show_size(disk.get('size'))} {disk.get('format', '')}".rstrip()
            for disk in machine.get("disks", [])
        )
        obstacles = machine.get("obstacles") or []
        fit = (
            coloured("yes", "green")
            if not obstacles
            else coloured(fill("no: {why}", why="; ".join(map(told, obstacles))), "yellow")
        )
        power = machine.get("power", "unknown")
        rows.add_row(
            machine.get("name", "?"),
            coloured(power, POWER_COLOURS.get(power, "")),
            show_size(machine.get("memory")),
            disks,
            "yes" if machine.get("guest_agent") else "no",
            fit,
            machine.get("uuid", ""),
        )
    console.print(rows)
