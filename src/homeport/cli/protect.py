"""`homeport protect`: the beginning of a machine's replication."""

from __future__ import annotations

from typing import Annotated

import typer

from homeport.cli.lessons import PROTECT, lesson
from homeport.cli.session import NoWaitOption, Session, command
from homeport.cli.status import tell_what_now
from homeport.cli.waiting import accept

HELP = lesson(
    "Protect a machine: replicate it from one site to another.",
    """Prepares a timeline of recovery points at the other site and begins the first copy, which skips what is empty;
    then points are taken at the policy's interval. The machine goes on running all the while.""",
    "homeport protect web1 --from home --to away --policy gold",
    then="homeport status web1 --watch, then a drill: homeport test-failover web1",
)


def register(app: typer.Typer) -> None:
    @command(app, "protect", HELP, panel=PROTECT)
    def protect(
        session: Session,
        machine: Annotated[str, typer.Argument(help="The machine's name or UUID.")],
        source: Annotated[str, typer.Option("--from", metavar="SITE", help="Where it runs.")],
        target: Annotated[str, typer.Option("--to", metavar="SITE", help="Where it can be recovered.")],
        policy: Annotated[str, typer.Option(metavar="NAME", help="The replication policy.")],
        no_wait: NoWaitOption = False,
    ) -> None:
        job_id = session.vault.protect(machine, source, target, policy)
        job = accept(session, job_id, wait=not no_wait, done=f"{machine} is protected from {source} to {target}")
        if not no_wait:
            tell_what_now(session, job, job.get("item") or machine)
