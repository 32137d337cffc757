"""`homeport` itself: its commands in the order of a recovery, and what happens to their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from homeport.cli import (
    checks,
    groups,
    items,
    jobs,
    joining,
    lessons,
    operations,
    points,
    policies,
    protect,
    serve,
    servers,
    sites,
    status,
    store_commands,
    up,
    vault,
)
from homeport.cli.errors import FAILED, WRONG_USE, Interrupted, WrongUse, exit_status, report, system_error
from homeport.cli.spoken_help import in_our_words, spoken
from homeport.domain.errors import HomeportError

ORDER = (
    *("up", "serve", "vault", "site", "configuration-server", "process-server", "master-target"),
    *("mobility-service", "server"),
    *("machine", "policy"),
    *("protect", "item", "group", "point", "resync", "pause", "resume", "disable"),
    *("test-failover", "cleanup"),
    *("failover", "change-point", "commit", "undo", "complete-migration"),
    *("reprotect", "failback"),
    *("status", "points", "check", "job"),
    "store",
)


class InOrderOfRecovery(TyperGroup):
    """Lists the commands as a recovery needs them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return sorted(self.commands, key=ORDER.index)


HELP = lessons.lesson(
    "Homeport is site recovery that anyone can run.",
    """It replicates whole machines to another site, keeps recovery points, starts any of them there in seconds, and
    brings the machines home. The commands below stand in the order of a recovery; each explains itself with --help,
    answers a script with --json, and exits with 0 (done), 1 (failed) or 2 (wrong use).""",
    "homeport up",
    "homeport protect web1 --from home --to away --policy gold",
    "homeport failover web1 --point latest",
    then="`homeport up` starts everything on this machine.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from homeport import __version__

        typer.echo(f"homeport {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    app = typer.Typer(
        cls=InOrderOfRecovery, help=HELP, no_args_is_help=True, rich_markup_mode="rich", add_completion=False
    )

    @app.callback()
    def homeport(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
        ] = False,
        lang: Annotated[
            str | None,
            typer.Option(
                "--lang",
                metavar="en|ja",
                help="Language of messages, anywhere on the line. Default: HOMEPORT_LANG, else the locale's.",
            ),
        ] = None,
    ) -> None:
        """Options of `homeport` itself."""

    parts = (
        *(up, serve, vault, sites, joining, servers, policies, protect, items, groups),
        *(operations, points, status, checks, jobs),
    )
    for part in (*parts, store_commands):
        part.register(app)
    return app


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command of ``argv`` (default: the process's); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    json_wanted = "--json" in arguments
    try:
        with spoken(typer.main.get_command(build())) as command:
            try:
                status = command.main(arguments, prog_name="homeport", standalone_mode=False)
            except typer.TyperException as error:
                return _wrongly_used(error, json_wanted)
        sys.stdout.flush()
    except HomeportError as error:
        report(error, json_wanted=json_wanted)
        return exit_status(error)
    except typer.Abort:
        report(Interrupted("The command was ended at its question; nothing was done."), json_wanted=json_wanted)
        return FAILED
    except OSError as error:
        return system_error(error, json_wanted)
    if status == 130:  # what Typer makes of Ctrl-C
        report(Interrupted("The command was interrupted."), json_wanted=json_wanted)
        return FAILED
    return status if isinstance(status, int) else 0


def _wrongly_used(error: typer.TyperException, json_wanted: bool) -> int:
    if json_wanted:
        report(WrongUse(error.format_message()), json_wanted=True)
    else:
        from typer.rich_utils import rich_format_error

        words = in_our_words(error)
        error.format_message = lambda: words  # type: ignore[method-assign]
        rich_format_error(error)  # type: ignore[arg-type]
    return WRONG_USE
