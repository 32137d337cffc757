"""The operations of a recovery: drill, fail over, come home."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from homeport.cli import consequences
from homeport.cli.api import Item
from homeport.cli.consequences import LATEST
from homeport.cli.lessons import COME_HOME, DRILL, FAIL_OVER, PROTECT, lesson
from homeport.cli.session import NoWaitOption, Session, YesOption, command
from homeport.cli.status import tell_what_now
from homeport.cli.waiting import accept
from homeport.domain.errors import HomeportError

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The replicated item's name or id.")]
KINDS = (LATEST, "latest-processed", "latest-app-consistent")
_POINT = re.compile(r"[0-9a-f]{16}/\d{1,16}")
_FORWARD = re.compile(r"(?:tcp:)?(\d{1,5}):(\d{1,5})")


def chosen_point(text: str) -> str:
    """A --point: one of KINDS or <timeline>/<number>."""
    if text not in KINDS and not _POINT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not a point: expected {', '.join(KINDS)}, or an id as `homeport points ITEM` lists it"
        )
    return text


def forwarded(text: str) -> str:
    """A --forward: LOCAL:GUEST, both TCP ports."""
    match = _FORWARD.fullmatch(text)
    if not match or not all(0 < int(port) < 65536 for port in match.groups()):
        raise typer.BadParameter(f"{text!r} is not LOCAL:GUEST, two TCP ports such as 8080:80")
    return f"{match[1]}:{match[2]}"


def point_option(help: str) -> Any:
    return typer.Option("--point", metavar="POINT", parser=chosen_point, help=help)


TEST_FAILOVER = lesson(
    "Drill: start a copy of the machine at the other site, on an isolated network.",
    """Production and replication go on untouched. The copy starts from the newest point unless --point says otherwise;
    its network has no way out, --forward opens a port of it on this machine's loopback so that you can look inside.""",
    "homeport test-failover web1 --forward 8080:80",
    "homeport test-failover web1 --point latest-app-consistent",
    then='homeport cleanup web1 --notes "what we saw"; a failover is refused until then.',
)
CLEANUP = lesson(
    "End a drill: remove the test machine and everything it wrote.",
    "Nothing of it is left at the other site. The notes are kept with the job.",
    'homeport cleanup web1 --notes "booted in 8 s, data intact"',
    then="homeport failover web1, when it must be.",
)
FAILOVER = lesson(
    "Fail over: start the machine at the other site, for real.",
    """It boots at once from the recovery point, whatever its size. Without --no-shutdown the source is shut down first
    and its last changes are sent (with --point latest nothing is lost); with it the source isn't asked: for disasters.
    Asks before it begins.""",
    "homeport failover web1",
    "homeport failover web1 --point latest-processed --no-shutdown --yes",
    then="look at the machine; then homeport change-point web1 --point ID, or homeport commit web1.",
)
CHANGE_POINT = lesson(
    "After a failover: start again from another recovery point.",
    """The machine that runs at the other site is ended, what it wrote is lost, and it starts from the chosen point.
    Possible until the commit. Asks before it begins.""",
    "homeport change-point web1 --point 5f0c2d9a7b31e846/41",
    then="homeport commit web1",
)
COMMIT = lesson(
    "Commit a failover or a failback: this is where the machine stays.",
    """After a failover the recovery points are no longer offered. After a failback the recovery machine is removed.
    Asks before it begins.""",
    "homeport commit web1",
    then="homeport reprotect web1",
)
REPROTECT = lesson(
    "Protect the machine the other way round: from where it runs now to where it came from.",
    """After a failover the original's powered-off disks become the base, so that only differences cross; after a
    failback the machine is protected forward again, by differences too.""",
    "homeport reprotect web1",
    then="homeport failback web1, once the site at home is well again.",
)
FAILBACK = lesson(
    "Come home: bring the original machine to the recovery machine's state and start it.",
    """The recovery machine is shut down and its last changes are sent; the original's disks are brought to the chosen
    point, and what is overwritten goes to the retention drive first. Asks before it begins.""",
    "homeport failback web1",
    then="homeport commit web1, then homeport reprotect web1: the circle is closed.",
)
RESYNC = lesson(
    "Compare the machine's disks with the newest point by digests, and send what differs.",
    "Happens by itself where changes may have been missed; this asks for it now. The machine goes on running.",
    "homeport resync web1",
    then="homeport status web1 --watch",
)
DISABLE = lesson(
    "End a machine's protection.",
    "Replication stops and the recovery points are given up. The machine goes on running. Asks before it begins.",
    "homeport disable web1",
    then="homeport protect MACHINE begins anew.",
)


def register(app: typer.Typer) -> None:
    @command(app, "resync", RESYNC, panel=PROTECT)
    def resync(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "resync", {}, no_wait=no_wait, done=f"{item} is in step again")

    @command(app, "disable", DISABLE, panel=PROTECT)
    def disable(session: Session, item: ItemArgument, yes: YesOption = False, no_wait: NoWaitOption = False) -> None:
        consent(session, item, "disable", yes, consequences.disable)
        operate(session, item, "disable", {}, no_wait=no_wait, done=f"{item} is no longer protected", remains=False)

    @command(app, "test-failover", TEST_FAILOVER, panel=DRILL)
    def test_failover(
        session: Session,
        item: ItemArgument,
        point: Annotated[str | None, point_option("Start from this point. Default: the newest.")] = None,
        network: Annotated[str | None, typer.Option(help="The test's network. Default: an isolated one.")] = None,
        forward: Annotated[
            list[str] | None,
            typer.Option(
                parser=forwarded, metavar="LOCAL:GUEST", help="Open a guest's TCP port on loopback; repeatable."
            ),
        ] = None,
        no_wait: NoWaitOption = False,
    ) -> None:
        inputs = given(point=point, network=network, forward=forward or None)
        operate(session, item, "test-failover", inputs, no_wait=no_wait, done=f"The test machine of {item} runs")

    @command(app, "cleanup", CLEANUP, panel=DRILL)
    def cleanup(
        session: Session,
        item: ItemArgument,
        notes: Annotated[str, typer.Option(help="What the drill showed; kept with the job.")] = "",
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        consent(session, item, "cleanup", yes, consequences.cleanup)
        operate(session, item, "cleanup", {"notes": notes}, no_wait=no_wait, done=f"The test of {item} is cleaned up")

    @command(app, "failover", FAILOVER, panel=FAIL_OVER)
    def failover(
        session: Session,
        item: ItemArgument,
        point: Annotated[
            str, point_option("latest, latest-processed, latest-app-consistent, or an id from `homeport points`.")
        ] = LATEST,
        no_shutdown: Annotated[
            bool, typer.Option("--no-shutdown", help="Don't shut the source down, don't wait for its last changes.")
        ] = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        def told(found: Item) -> list[str]:
            return consequences.failover(found, session.vault.points(item), point, not no_shutdown)

        consent(session, item, "failover", yes, told)
        inputs = {"point": point, "shutdown": not no_shutdown}
        operate(session, item, "failover", inputs, no_wait=no_wait, done=f"{item} is failed over")

    @command(app, "change-point", CHANGE_POINT, panel=FAIL_OVER)
    def change_point(
        session: Session,
        item: ItemArgument,
        point: Annotated[str, point_option("The point to start from.")],
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        def told(found: Item) -> list[str]:
            return consequences.change_point(found, session.vault.points(item), point)

        consent(session, item, "change-point", yes, told)
        operate(session, item, "change-point", {"point": point}, no_wait=no_wait, done=f"{item} runs from {point}")

    @command(app, "commit", COMMIT, panel=FAIL_OVER)
    def commit(session: Session, item: ItemArgument, yes: YesOption = False, no_wait: NoWaitOption = False) -> None:
        consent(session, item, "commit", yes, consequences.commit)
        operate(session, item, "commit", {}, no_wait=no_wait, done=f"{item} is committed")

    @command(app, "reprotect", REPROTECT, panel=COME_HOME)
    def reprotect(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "reprotect", {}, no_wait=no_wait, done=f"{item} is protected the other way round")

    @command(app, "failback", FAILBACK, panel=COME_HOME)
    def failback(
        session: Session,
        item: ItemArgument,
        point: Annotated[
            str, point_option("The point to bring home. Default: the recovery machine's last state.")
        ] = LATEST,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        def told(found: Item) -> list[str]:
            return consequences.failback(found, session.vault.points(item), point)

        consent(session, item, "failback", yes, told)
        operate(session, item, "failback", {"point": point}, no_wait=no_wait, done=f"{item} is home")


def given(**inputs: Any) -> dict[str, Any]:
    """The inputs that were given; what was left out is the vault's to choose."""
    return {name: value for name, value in inputs.items() if value is not None}


def consent(
    session: Session, item: str, operation: str, yes: bool, consequences_of: Callable[[Item], list[str]]
) -> None:
    """Say what ``operation`` loses or ends and ask, unless ``yes``. Raises ConfirmationNeeded, Declined, and, rather
    than ask about what the vault would refuse, the vault's own codes for that."""
    session.needs_consent(yes, f"`{operation} {item}`")
    if yes:
        return
    found = session.vault.item(item)
    allowed = found.get("allowed_operations") or []
    if operation not in allowed:
        if found.get("job"):
            raise HomeportError(
                f"the job {found['job']} works on {item}; nothing else can begin now.",
                code="item.operation-running",
                remedy=f"Wait for it, or look at it with `homeport job show {found['job']}`.",
                job=found["job"],
            )
        raise HomeportError(
            f"{operation} is not allowed while {item} is {found.get('state')}.",
            code="item.operation-not-allowed",
            remedy=f"Look at it with `homeport status {item}`.",
            state=found.get("state"),
            allowed_operations=allowed,
        )
    session.ask(consequences_of(found))


def operate(
    session: Session,
    item: str,
    operation: str,
    inputs: Mapping[str, Any],
    *,
    no_wait: bool,
    done: str,
    remains: bool = True,
) -> None:
    """Begin an operation, wait for it, and say what it led to. ``remains``: the item is still there afterwards."""
    job = accept(session, session.vault.operate(item, operation, inputs), wait=not no_wait, done=done)
    if no_wait:
        return
    if remains or session.json_wanted:
        tell_what_now(session, job, item)
