"""`homeport process-server switch|suggest|throttle`: who replicates what, and how fast it may ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.errors import FAILED, VaultRefused, WrongUse
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.speech import fill, told
from homeport.cli.tables import coloured, details
from homeport.domain.bandwidth import parse_rate, parse_window, spell_rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SWITCH = lesson(
    "Give replicated items another process server of the site where their machines run.",
    """The one before is asked to stop; where it is away, the new one's writing fences it. What waited in its cache is
    taken from the machine again: nothing is lost, and no point is made twice. Several at once: --suggested does what
    `process-server suggest` says, --from NAME --to NAME moves all that one has; both only show what they would do,
    until --yes. Members of a replication group stay: their points meet at one server.""",
    "homeport process-server switch web1 --to ps2",
    "homeport process-server switch --suggested --yes",
    "homeport process-server switch --from ps1 --to ps2 --yes",
    then="homeport status ITEM",
)
SUGGEST = lesson(
    "Show which items another process server would better have, and which site needs one more.",
    """Items leave process servers that are not well (heartbeat, cache, what waits, processors, memory, more than 2 TB a
    day or 225 machines) for those of the same site that are, stay well with them, and then do less than the one before
    did. Nothing is done.""",
    "homeport process-server suggest",
    "homeport process-server suggest home --json",
    then="homeport process-server switch --suggested, which shows it again, and does it with --yes",
)
THROTTLE = lesson(
    "Show or set how fast a process server may ship, for all of its machines together.",
    """What is set here is kept by the vault and rules in place of the server's own configuration (rate, windows),
    within seconds, also after a restart; --off gives the word back to that. Rates are bits per second: 512k, 40Mbit,
    1.5G, none. --limit counts where no --schedule holds; of several that do, the first one. Hours are those of
    --time-zone, without it the server's own local time. A server that is away is told when it is back. Without options
    it shows.""",
    "homeport process-server throttle ps1",
    "homeport process-server throttle ps1 --limit 100Mbit --schedule 'mon-fri 08:00-18:00=10Mbit' --time-zone UTC",
    "homeport process-server throttle ps1 --off",
    then="homeport server show NAME, which says what rules now",
)


def add(process_server: typer.Typer) -> None:
    """To the group of `homeport process-server`."""

    @command(process_server, "switch", SWITCH)
    def switch(
        session: Session,
        item: Annotated[str | None, typer.Argument(metavar="[ITEM]", help="Name or id.")] = None,
        to: Annotated[
            str | None,
            typer.Option("--to", metavar="NAME", help="Of a process server: see `homeport site show`."),
        ] = None,
        source: Annotated[
            str | None, typer.Option("--from", metavar="NAME", help="All items of this process server.")
        ] = None,
        suggested: Annotated[
            bool, typer.Option("--suggested", help="What `homeport process-server suggest` says.")
        ] = False,
        site: Annotated[
            str | None, typer.Option("--site", metavar="SITE", help="With --suggested: only there.")
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without, several are only shown.")] = False,
    ) -> None:
        if [item is not None, source is not None, suggested].count(True) != 1:
            raise WrongUse("name one of ITEM, --from NAME and --suggested")
        if suggested is (to is not None) or (site is not None and not suggested):
            raise WrongUse("ITEM and --from NAME need --to NAME; --site goes with --suggested")
        if suggested:
            _switch_all(session, _suggested(session, site), yes=yes)
        elif source is not None and to is not None:
            _switch_all(session, _all_of(session, source, to), yes=yes)
        elif item is not None and to is not None:
            switched = session.vault.switch_process_server(item, to)
            before = f" (before: {switched['before']})" if switched.get("before") else ""
            session.tell({"switched": switched}, [f"{item} is replicated by {switched['process_server']}{before}."])

    @command(process_server, "suggest", SUGGEST)
    def suggest(
        session: Session,
        site: Annotated[str | None, typer.Argument(metavar="[SITE]", help="Only of this site.")] = None,
    ) -> None:
        found = session.vault.suggestions(site)
        session.tell({"suggestions": found}, _suggestion_lines(found))

    @command(process_server, "throttle", THROTTLE)
    def throttle(
        session: Session,
        server: Annotated[str, typer.Argument(metavar="SERVER", help="A process server; see `homeport site show`.")],
        show: Annotated[bool, typer.Option("--show", help="What rules now; changes nothing.")] = False,
        limit: Annotated[str | None, typer.Option("--limit", metavar="RATE", help="40Mbit, 512k, 1.5G, none.")] = None,
        schedule: Annotated[
            list[str] | None,
            typer.Option("--schedule", metavar="WINDOW", help="mon-fri 08:00-18:00=10Mbit; repeatable."),
        ] = None,
        time_zone: Annotated[
            str | None, typer.Option("--time-zone", metavar="ZONE", help="Of the hours: Europe/Berlin, UTC.")
        ] = None,
        off: Annotated[bool, typer.Option("--off", help="The server's own configuration rules again.")] = False,
    ) -> None:
        sets = limit is not None or bool(schedule)
        if [show, sets, off].count(True) > 1 or (time_zone is not None and not schedule):
            raise WrongUse("use one of --show, --off, and --limit with --schedule; --time-zone goes with --schedule")
        if off:
            answer = session.vault.end_throttle(server)
        elif sets:
            for window in schedule or ():
                parse_window(window)
            answer = session.vault.set_throttle(server, limit or "none", schedule or [], time_zone)
        else:
            answer = session.vault.throttle(server)
        session.answer({"throttle": answer}, lambda console: _show_throttle(console, answer))


def _suggested(session: Session, site: str | None) -> list[dict[str, Any]]:
    return [move for each in session.vault.suggestions(site) for move in each["moves"]]


def _all_of(session: Session, source: str, to: str) -> list[dict[str, Any]]:
    found = session.vault.server(source)["process_server"]
    if found is None:
        raise WrongUse(f"{source} is no process server")
    return [
        {"item": item, "item_name": item, "from": source, "to": to, "why": "all of its items"}
        for item in sorted(found["items"])
    ]


def _suggestion_lines(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for each in found:
        lines += [_move_line(move) for move in each["moves"]]
        lines += [f"{each['site']}: add a process server. {why}" for why in each["add"]]
    return lines or ["Nothing to suggest: every machine has the process server that it should have."]


def _move_line(move: dict[str, Any]) -> str:
    return fill(
        "{item}: from {source} to {to} ({why})",
        item=move["item_name"],
        source=move["from"],
        to=move["to"],
        why="; ".join(map(told, str(move["why"]).split("; "))),
    )


def _switch_all(session: Session, moves: list[dict[str, Any]], *, yes: bool) -> None:
    """One after the other; one that is refused does not keep the others."""
    switched: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for move in moves if yes else ():
        try:
            switched.append(
                {"item": move["item_name"], **session.vault.switch_process_server(move["item"], move["to"])}
            )
        except VaultRefused as error:
            refused.append({"item": move["item_name"], "error": error.to_json()})
    if not moves:
        lines = ["Nothing to switch."]
    elif not yes:
        lines = [*map(_move_line, moves), "Nothing was done yet: the same with --yes does it."]
    else:
        lines = [f"{each['item']} is replicated by {each['process_server']}." for each in switched]
        lines += [
            fill("{item}: refused: {why}", item=each["item"], why=told(f"{each['error']['cause']}")) for each in refused
        ]
    session.tell({"moves": moves, "done": yes, "switched": switched, "refused": refused}, lines)
    if refused:
        raise typer.Exit(FAILED)


def _show_throttle(console: Console, answer: dict[str, Any]) -> None:
    rows, effective = details(), answer["effective"]
    rows.add_row("Process server", coloured(f"{answer['server']} ({answer['site']})", ""))
    if effective is None:
        rows.add_row("Rate now", "not known: it has not told")
    else:
        throttle_rows(rows, effective)
    console.print(rows)
    if not answer["applied"]:
        wanted = answer["vault"]
        says = "nothing" if wanted is None else _spelled(wanted)
        console.print(f"The vault says: {says}. The server has not taken that on yet.", markup=False, style="yellow")
    if error := answer.get("error"):
        console.print(f"{told(str(error['cause']))} ({error['code']})", markup=False, style="yellow")


def throttle_rows(rows: Table, throttle: dict[str, Any]) -> None:
    """Of a throttle that rules, as a process server tells it."""
    by_vault = throttle.get("rules") == "vault"
    who = "by the vault" if by_vault else "by the server's own configuration"
    rows.add_row("Rate now", f"{told(spell_rate(throttle.get('now')))}, {told(who)}")
    if throttle.get("schedule"):
        rows.add_row("", _spelled(throttle))
        rows.add_row("", f"It is {throttle.get('clock', '?')} there.")


def _spelled(throttle: dict[str, Any]) -> str:
    """The windows, the limit where none holds, and whose hours they are."""
    parts = []
    for text in throttle.get("schedule") or ():
        rate, _, when = str(text).partition(" ")
        parts.append(f"{when or told('always')}: {told(spell_rate(parse_rate(rate)))}")
    rate = told(spell_rate(throttle.get("limit")))
    if not parts:
        return rate
    zone = throttle.get("time_zone") or told("local time there")
    return fill("{windows}; else {rate} (hours: {zone})", windows="; ".join(parts), rate=rate, zone=zone)
