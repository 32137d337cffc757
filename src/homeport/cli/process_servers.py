"""`homeport process-server switch`: an item gets another process server."""

from __future__ import annotations

from typing import Annotated

import typer

from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command

SWITCH = lesson(
    "Give a replicated item another process server of the site where its machine runs.",
    """The one before is asked to stop; where it is away, the new one's writing fences it. What waited in its cache is
    taken from the machine again: nothing is lost, and no point is made twice.""",
    "homeport process-server switch web1 --to ps2",
    then="homeport status ITEM",
)


def add(process_server: typer.Typer) -> None:
    """To the group of `homeport process-server`."""

    @command(process_server, "switch", SWITCH)
    def switch(
        session: Session,
        item: Annotated[str, typer.Argument(metavar="ITEM", help="Name or id.")],
        to: Annotated[str, typer.Option("--to", metavar="NAME", help="Of a process server: see `homeport site show`.")],
    ) -> None:
        switched = session.vault.switch_process_server(item, to)
        before = f" (before: {switched['before']})" if switched.get("before") else ""
        session.tell({"switched": switched}, [f"{item} is replicated by {switched['process_server']}{before}."])
