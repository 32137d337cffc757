"""`homeport serve ROLE`: one role as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.session import Session, command, group
from homeport.domain.servers import Role

ROLES = {
    Role.VAULT: (
        "Serve the vault alone, to sites elsewhere.",
        """Sites dial in over TLS with certificates of the vault's own authority; the `homeport` command on this machine
        talks to it on loopback. It needs no way to any site.""",
        "homeport vault key new --site home, which a configuration server joins with",
    ),
    Role.CONFIGURATION_SERVER: (
        "Serve a site's configuration server: takes the vault's work, and carries it out at its site.",
        """It dials out to the vault; the site's process servers and master target take their work from it. It must have
        joined the vault, and see the site's folder.""",
        "homeport serve process-server, and homeport serve master-target",
    ),
    Role.PROCESS_SERVER: (
        "Serve a site's process server: ships changes, and is the door to the site's store.",
        """It reads machines where they run, or has their mobility service bring what they wrote; it keeps what waits in
        its cache, ships it to the other site's process server, and takes what comes from there. It must have joined
        the site's configuration server.""",
        "homeport protect",
    ),
    Role.MASTER_TARGET: (
        "Serve a site's master target: writes the original's disks at a failback.",
        """What is overwritten is kept on the retention drive first. It must have joined the site's configuration
        server.""",
        "homeport reprotect, homeport failback",
    ),
    Role.MOBILITY_SERVICE: (
        "Serve the machines of a host to process servers that run elsewhere.",
        """It tracks what the machines write and sends it to the process server that each has (source =
        "mobility-service" in that one's settings). It must run where the machines do, and have joined the site's
        configuration server.""",
        "homeport serve process-server, homeport protect",
    ),
}

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML; see --sample-config.")]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Serve nothing: try every way that this role needs, name what is blocked; 0: all open."
    ),
]
SampleOption = Annotated[bool, typer.Option("--sample-config", help="Print a commented configuration.")]
UnitOption = Annotated[bool, typer.Option("--systemd-unit", help="Print a unit for systemd.")]


def register(app: typer.Typer) -> None:
    serve = group("Serve one role as a process of its own, at the site where it belongs.")
    app.add_typer(serve, name="serve", rich_help_panel=SET_UP)
    for role, (what, more, then) in ROLES.items():
        _register(serve, role, what, more, then)


def _register(app: typer.Typer, role: Role, what: str, more: str, then: str) -> None:
    help = lesson(
        what,
        more,
        f"homeport serve {role} --sample-config > {role}.toml",
        f"homeport serve {role} --config {role}.toml --check",
        f"homeport serve {role} --config {role}.toml",
        then=then,
    )

    @command(app, str(role), help, with_vault=False)
    def serve(
        session: Session,
        config: ConfigOption = None,
        check: CheckOption = False,
        sample_config: SampleOption = False,
        systemd_unit: UnitOption = False,
    ) -> None:
        if sample_config or systemd_unit:
            from homeport.servers.serve.settings import sample_config as sample
            from homeport.servers.serve.units import unit

            text = sample(role) if sample_config else unit(role)
            session.tell({"text": text}, [text.rstrip()])
            return
        if config is None:
            raise WrongUse("Say with --config which configuration; --sample-config prints one.")
        _with_config(session, role, config, check)


def _with_config(session: Session, role: Role, path: Path, check: bool) -> None:
    from homeport.servers.serve.settings import read_config

    config = read_config(role, path)
    if not check:
        from homeport.servers.serve.process import run
        from homeport.servers.serve.roles import make_server

        run(config, make_server(config), lambda: read_config(role, path))
        return
    from homeport.servers.serve.check import check as try_all

    ways = try_all(config)
    blocked = [way for way in ways if way.blocked]

    lines = []
    for way in ways:
        lines += [f"{way.peer} at {way.url}", *(f"  {step:<10} {found}" for step, found in way.steps.items())]
        if way.blocked:
            lines += [f"  {way.blocked:<10} BLOCKED: {way.why}", f"  {'':<10} {way.remedy}"]
    answer: dict[str, Any] = {"open": not blocked, "ways": [way.to_json() for way in ways]}
    session.tell(answer, lines or ["This server dials nobody yet."])
    if blocked:
        raise typer.Exit(1)
