"""`homeport check`: what stands in the way of an operation, or will, while there is time to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.api import Findings
from homeport.cli.errors import FAILED
from homeport.cli.formats import show_instant
from homeport.cli.lessons import LOOK, lesson
from homeport.cli.session import Session, command
from homeport.cli.speech import fill, word
from homeport.cli.tables import coloured, table
from homeport.domain.operations import Operation

if TYPE_CHECKING:
    from rich.console import Group

COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}
SHOWN_AS = {"error": "error", "warning": "warning", "info": "note"}

CHECK = lesson(
    "Check whether a machine can be recovered, and brought home.",
    """Asks both sites for fresh facts (memory, disk, quota, networks, rights, clocks …) and tells what stands in the
    way: what was found, what is expected, what to do. Without ITEM all items, one after the other. With --before as
    before that operation: an error would refuse it. With --last what the last look found (there is one every
    12 hours and after each operation). Exit status 1 where an error was found.""",
    "homeport check",
    "homeport check web1 --before failover",
    then="mend what is named, then check again.",
)


def register(app: typer.Typer) -> None:
    @command(app, "check", CHECK, panel=LOOK)
    def check(
        session: Session,
        item: Annotated[str | None, typer.Argument(metavar="[ITEM]", help="The item's name or id.")] = None,
        before: Annotated[
            str | None, typer.Option(metavar="OPERATION", help="As before this operation: failover, reprotect …")
        ] = None,
        last: Annotated[bool, typer.Option("--last", help="Ask nobody: what the last look found.")] = False,
    ) -> None:
        if before is not None and before not in list(Operation):
            raise typer.BadParameter(f"{before!r} is no operation", param_hint="--before")
        if last and before is not None:
            raise typer.BadParameter("it can't be told from the last look", param_hint="--before")
        names = [item] if item is not None else [str(one["name"]) for one in session.vault.items()]
        if last:
            looks = [session.vault.checks(name) for name in names]
        else:
            looks = [session.vault.run_checks(name, before=before) for name in names]
        data: dict[str, Any] = {"checks": looks}
        session.answer(data, lambda console: console.print(draw(looks)))
        if any(finding["severity"] == "error" for look in looks for finding in look.get("findings", [])):
            raise typer.Exit(FAILED)


def draw(looks: list[Findings]) -> Group:
    from rich.console import Group

    if not looks:
        return Group(coloured("Nothing is protected yet, so there is nothing to check.", ""))
    parts: list[Any] = []
    for look in looks:
        at = f", {show_instant(look['at'])}" if look.get("at") else ""
        named = look.get("item_name", "?")
        if before := look.get("before"):
            named = fill("{item} before {operation}", item=named, operation=word(before, "operation"))
        parts.append(coloured(f"{named}{at}", "bold"))
        if not look.get("findings"):
            never = "before" not in look and not look.get("at")
            parts.append(coloured("It was not looked at yet." if never else "Nothing is in the way.", ""))
            continue
        rows = table("Code", "", "Found", "Expected", "What to do")
        for finding in look["findings"]:
            severity = finding.get("severity", "?")
            rows.add_row(
                finding.get("code", "?"),
                coloured(SHOWN_AS.get(severity, severity), COLOURS.get(severity, "")),
                coloured(finding.get("found", ""), ""),
                coloured(finding.get("expected", ""), ""),
                coloured(finding.get("remedy", ""), ""),
            )
        parts.append(rows)
    return Group(*parts)
