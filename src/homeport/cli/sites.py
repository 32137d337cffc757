"""`homeport site …` and `homeport machine …`: where machines run, and which there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import Discovery, MachineList, Refreshed, Site
from homeport.cli.formats import parse_instant, show_age, show_instant, show_size
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.session import Session, YesOption, command, group
from homeport.cli.speech import fill, told, word
from homeport.cli.tables import POWER_COLOURS, coloured, details, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ADD = lesson(
    "Add a site: a place where machines run.",
    """A site has a provider, which knows its machines. For qemu the path is a folder with one folder per machine, each
    holding a machine.toml. Two sites are needed: one where machines run and one where they can be recovered.""",
    "homeport site add home --provider qemu --path /srv/home",
    then="homeport machine list SITE shows what was discovered there.",
)
LIST = lesson(
    "List the sites of the vault.",
    """Shows each site's name, provider and path, whether its server is in contact, and when its machines were last
    discovered; in yellow where that is stale.""",
    "homeport site list",
    then="homeport machine list SITE",
)
SHOW = lesson(
    "Show a site: where its machines and its recovery points lie, and what it says of itself.",
    """Whether its servers are connected, since when not; when its machines were last discovered, and what kept the last
    try from it; and the facts that checks look at: memory, disk space, CPUs.""",
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
    """Refused while items replicate from it or to it, and while it has servers of its own. Its folder, its machines and
    its recovery store stay as they are; the site can be added again. --force: its servers are gone for good, and are
    removed with it; items have to end first all the same. Says what is left behind. Asks before it begins.""",
    "homeport site remove away",
    "homeport site remove away --force",
    then="homeport site list",
)
REFRESH = lesson(
    "Discover a site's machines now, and say what is new, gone or changed.",
    """Its configuration server does so by itself every 15 minutes (`discovery` in its configuration): a machine that
    was made a moment ago, a changed disk, a process server or a drive is seen that much later, or now.""",
    "homeport site refresh home",
    then="homeport machine list SITE --no-refresh",
)
MACHINES = lesson(
    "List the machines a site's provider discovers.",
    """Shows disks, power, and whether a machine can be protected, with the reason where it can't. The site is asked
    anew unless --no-refresh: then it is what the vault knows since the last discovery, also of a site that is away.""",
    "homeport machine list home",
    "homeport machine list home --no-refresh",
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

    @command(site, "refresh", REFRESH)
    def refresh_site(
        session: Session, name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
    ) -> None:
        found = session.vault.refresh_site(name)
        session.answer({"refreshed": found}, lambda console: show_refreshed(console, found))

    @command(site, "remove", REMOVE)
    def remove(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
        force: Annotated[bool, typer.Option("--force", help="With its servers, which are gone for good.")] = False,
        yes: YesOption = False,
    ) -> None:
        session.needs_consent(yes, f"`site remove {name}`")
        if not yes:
            session.ask(
                [f"The vault forgets the site {name}. Its folder, machines and recovery store stay as they are."]
            )
        removed = session.vault.remove_site(name, force=force)
        session.tell({"site": removed}, [f"Site {name} removed.", *removed.get("left", [])])

    @command(machine, "list", MACHINES)
    def list_machines(
        session: Session,
        site: Annotated[str, typer.Argument(help="The site's name.")],
        refresh: Annotated[
            bool, typer.Option("--refresh/--no-refresh", help="Ask the site anew, or show what the vault knows.")
        ] = True,
    ) -> None:
        found = session.vault.machines(site, refresh=refresh)
        session.answer({**found}, lambda console: show_machines(console, site, found))

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
    rows = table("Name", "Provider", "Path", "Connected", "Last discovery")
    for site in sites:
        connected = coloured("yes", "green") if site.get("connected") else coloured("no", "yellow")
        rows.add_row(
            site.get("name", "?"),
            site.get("provider", "?"),
            coloured(site.get("path", ""), ""),
            connected,
            _last(site.get("discovery")),
        )
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
    discovery: Discovery = site.get("discovery") or {}
    rows.add_row("Last discovery", _last(discovery))
    if why := discovery.get("why"):
        rows.add_row("", coloured(why, "yellow"))
    if error := discovery.get("error"):
        rows.add_row("", coloured(f"The last try failed: {told(str(error.get('cause')))}", "yellow"))
    facts = dict(site.get("facts") or {})
    servers, drives = facts.pop("servers", []), facts.pop("retention_drives", [])
    facts.pop("process_server", None)  # `server show` has it
    for server in servers:
        said = f"{server['role']}, {server['state']}, last contact {show_instant(server['last_contact'])}"
        rows.add_row(
            f"Server {server['name']}", coloured(said, "green" if server["state"] == "connected" else "yellow")
        )
    for drive in drives:
        said = f"{show_size(drive['free'])} of {show_size(drive['total'])} free, {drive['filesystem']}; "
        rows.add_row(f"Drive {drive['path']}", said + (drive["reason"] or "can be the retention drive"))
    for name, value in sorted(facts.items()):
        shown = show_size(value) if isinstance(value, int) and name.startswith("free_") else str(value)
        rows.add_row(word(name.replace("_", " ").capitalize(), "fact"), coloured(shown, ""))
    console.print(rows)


def _last(discovery: Discovery | None) -> Text:
    """When machines were last discovered: "3 min ago"; an earlier vault doesn't say."""
    if discovery is None:
        return coloured("-", "")
    at = parse_instant(discovery.get("last"))
    age = show_age(at) if at is not None else word("never", "field")
    return coloured(fill("{age}, stale", age=age), "yellow") if discovery.get("stale") else coloured(age, "")


def show_refreshed(console: Console, found: Refreshed) -> None:
    site = found["site"].get("name", "?")
    counts = f"{len(found['new'])} new, {len(found['gone'])} gone, {len(found['changed'])} changed"
    console.print(f"Discovered {site}: {counts}.", markup=False)
    for machine in found["new"]:
        console.print(fill("new: {name}", name=machine["name"]), markup=False)
    for machine in found["gone"]:
        console.print(fill("gone: {name}", name=machine["name"]), markup=False)
    for machine in found["changed"]:
        for change in machine["changes"]:
            field, before, after = change["field"], change["before"], change["after"]
            what = f"{word(field.replace('_', ' '), 'change')}: {_value(field, before)} → {_value(field, after)}"
            console.print(fill("changed: {name}: {what}", name=machine["name"], what=what), markup=False)


def _value(field: str, value: Any) -> str:
    if field == "memory":
        return show_size(value)
    if field == "disks":
        return ", ".join(f"{disk['id']} {show_size(disk['size'])} {disk['format']}" for disk in value) or "-"
    if field == "nics":
        return ", ".join(f"{nic['mac']} {nic['network']} {nic['ip']}".rstrip() for nic in value) or "-"
    if field == "obstacles":
        return "; ".join(map(told, value)) or "-"
    if isinstance(value, bool):
        return word("yes" if value else "no", "field")
    return word(str(value), "power") if field == "power" else str(value)


def show_machines(console: Console, site: str, found: MachineList) -> None:
    machines, discovery = found["machines"], found.get("discovery")
    if not machines:
        console.print(f"No machines discovered at {site}.", markup=False)
        _show_last(console, discovery)
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
    _show_last(console, discovery)


def _show_last(console: Console, discovery: Discovery | None) -> None:
    if discovery is None:
        return
    style = "yellow" if discovery.get("stale") else ""
    console.print(f"Last discovery: {_last(discovery).plain}", markup=False, style=style)
    if why := discovery.get("why"):
        console.print(why, markup=False, style=style)
