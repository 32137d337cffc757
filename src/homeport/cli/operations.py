"""The operations of a recovery: drill, fail over, come home."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from homeport.cli import consequences, groups
from homeport.cli.api import Item
from homeport.cli.consequences import LATEST
from homeport.cli.errors import WrongUse
from homeport.cli.formats import parse_duration
from homeport.cli.groups import AloneOption, GroupOption, OneItem
from homeport.cli.lessons import COME_HOME, DRILL, FAIL_OVER, PROTECT, lesson
from homeport.cli.session import NoWaitOption, Session, YesOption, command
from homeport.cli.status import tell_what_now
from homeport.cli.waiting import accept
from homeport.domain.errors import HomeportError
from homeport.domain.units import DAY, HOUR, MINUTE

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The replicated item's name or id.")]


class CommitPolicy(StrEnum):
    """What becomes of a failover by itself."""

    NONE = "none"
    AUTO_COMMIT = "auto-commit"
    AUTO_ROLLBACK = "auto-rollback"


KINDS = (LATEST, "latest-processed", "latest-app-consistent")
_POINT = re.compile(r"[0-9a-f]{16}(/\d{1,16})?")
_FORWARD = re.compile(r"(?:tcp:)?(\d{1,5}):(\d{1,5})")


def chosen_point(text: str) -> str:
    """A --point: one of KINDS or <timeline>/<number>; of a group: one of groups.KINDS or a round's id."""
    if text not in (*KINDS, *groups.KINDS) and not _POINT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not a point: expected {', '.join(KINDS)}, or an id as `homeport points ITEM` lists it"
        )
    return text


def delay(text: str) -> int:
    """A --commit-after: seconds."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not MINUTE <= seconds <= 7 * DAY:
        raise typer.BadParameter(f"{text!r} is out of range: expected 1m to 7d")
    return seconds


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
    With --planned the source must shut down and its last changes must arrive, else everything is undone. Nobody there
    later to decide? --commit-policy auto-commit or auto-rollback does it after --commit-after. With --group all of a
    replication group goes to the newest point that its members share. Asks before it begins.
    """,
    "homeport failover web1",
    "homeport failover web1 --planned --commit-policy auto-rollback --commit-after 4h",
    "homeport failover web1 --point latest-processed --no-shutdown --yes",
    "homeport failover --group shop",
    then="look at the machine; then homeport commit web1, change-point web1 --point ID, or undo web1.",
)
UNDO = lesson(
    "Take a failover back: the machine goes on at home where it stopped.",
    """Possible until the commit, and only while the home site is there. The recovery machine is shut down and removed;
    what its disks held by then can be restored for 24 hours. Asks before it begins.""",
    "homeport undo web1",
    then="homeport status web1: it is protected and replicates again.",
)
COMPLETE_MIGRATION = lesson(
    "Instead of a commit: the machine stays at the other site for good, without protection.",
    """Waits until the machine holds all of its disks itself, then forgets the recovery points of both sites. There is
    no way back: no reprotect, no failback. Asks before it begins.""",
    "homeport complete-migration web1",
    then="homeport disable web1 takes it off the list; the machine goes on running.",
)
PAUSE = lesson(
    "Stop a machine's replication for a while.",
    """Recovery points stay, and can be failed over to; the machine goes on being tracked, so that resuming sends only
    what changed. The RPO grows meanwhile.""",
    "homeport pause web1",
    then="homeport resume web1",
)
RESUME = lesson(
    "Go on replicating a machine that was paused.",
    "What changed since the pause is sent with the next recovery point.",
    "homeport resume web1",
    then="homeport status web1 --watch",
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
    """The point can't be changed, nor the failover undone, afterwards. The recovery points stay for the retention of
    their policy; with --erase-points they are dropped at once. After a failback the recovery machine is removed. Asks
    before it begins.""",
    "homeport commit web1",
    "homeport commit web1 --erase-points",
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
    """Replication stops; the machine goes on running. The recovery points stay for 14 days (homeport item list
    --deleted), with --purge they are deleted at once and the machine's key is shredded. With --source-gone the home
    site isn't asked: it is told when it returns. Asks before it begins.""",
    "homeport disable web1",
    "homeport disable web1 --source-gone --purge",
    then="homeport item list --deleted; homeport protect MACHINE begins anew.",
)


def register(app: typer.Typer) -> None:
    @command(app, "resync", RESYNC, panel=PROTECT)
    def resync(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "resync", {}, no_wait=no_wait, done=f"{item} is in step again")

    @command(app, "pause", PAUSE, panel=PROTECT)
    def pause(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "pause", {}, no_wait=no_wait, done=f"{item} is paused")

    @command(app, "resume", RESUME, panel=PROTECT)
    def resume(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "resume", {}, no_wait=no_wait, done=f"{item} replicates again")

    @command(app, "disable", DISABLE, panel=PROTECT)
    def disable(
        session: Session,
        item: ItemArgument,
        source_gone: Annotated[
            bool, typer.Option("--source-gone", help="Its home site is lost: don't ask it, don't wait for it.")
        ] = False,
        purge: Annotated[
            bool, typer.Option("--purge", help="Delete its recovery points now, and shred the machine's key.")
        ] = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        consent(session, item, "disable", yes, lambda found: consequences.disable(found, purge=purge))
        inputs = {name: True for name, wanted in (("source_gone", source_gone), ("purge", purge)) if wanted}
        operate(session, item, "disable", inputs, no_wait=no_wait, done=f"{item} is no longer protected", remains=False)

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
        item: OneItem = None,
        group: GroupOption = None,
        point: Annotated[
            str, point_option("latest, latest-processed, latest-app-consistent, or an id from `homeport points`.")
        ] = LATEST,
        no_shutdown: Annotated[
            bool, typer.Option("--no-shutdown", help="Don't shut the source down, don't wait for its last changes.")
        ] = False,
        planned: Annotated[
            bool, typer.Option("--planned", help="Lose nothing: whatever keeps the last changes undoes it.")
        ] = False,
        commit_policy: Annotated[
            CommitPolicy,
            typer.Option("--commit-policy", help="What becomes of it by itself, unless you decide before."),
        ] = CommitPolicy.NONE,
        commit_after: Annotated[
            int | None,
            typer.Option(parser=delay, metavar="DURATION", help="When the commit policy acts: 1m to 7d. Default: 4h."),
        ] = None,
        alone: AloneOption = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        groups.one_of(item, group, alone)
        if planned and (no_shutdown or point != LATEST):
            raise WrongUse("--planned loses nothing: it goes with neither --no-shutdown nor another --point.")
        if commit_after is not None and commit_policy is CommitPolicy.NONE:
            raise WrongUse("--commit-after says when a --commit-policy acts, and none is given.")
        policy = {} if commit_policy is CommitPolicy.NONE else {"commit_policy": str(commit_policy)}
        after = 4 * HOUR if commit_after is None else commit_after
        if group is not None:
            if planned:
                raise WrongUse("--planned is for one item: a group goes to the newest point that all of it has")
            chosen = groups.common_point(point, LATEST)
            inputs = {
                "point": chosen,
                "shutdown": not no_shutdown,
                **policy,
                **({"commit_after": after} if policy else {}),
            }
            how = "is not shut down and not asked" if no_shutdown else "is shut down"
            told = f"{how}; it starts at the other site from the group's point {chosen}."
            groups.operate_group(session, group, "failover", inputs, yes=yes, no_wait=no_wait, told=told)
            return
        assert item is not None
        groups.single_point(point)

        def said(found: Item) -> list[str]:
            lines = consequences.failover(found, session.vault.points(item), point, not no_shutdown, planned=planned)
            return [*lines, *consequences.commit_policy(found, str(commit_policy), after)]

        consent(session, item, "failover", yes, said)
        inputs = {"point": point, "shutdown": not no_shutdown, **({"planned": True} if planned else {}), **policy}
        if alone:
            inputs["alone"] = True
        if policy:
            inputs["commit_after"] = after
        operate(session, item, "failover", inputs, no_wait=no_wait, done=f"{item} is failed over")

    @command(app, "change-point", CHANGE_POINT, panel=FAIL_OVER)
    def change_point(
        session: Session,
        point: Annotated[str, point_option("The point to start from.")],
        item: OneItem = None,
        group: GroupOption = None,
        alone: AloneOption = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        groups.one_of(item, group, alone)
        if group is not None:
            inputs = {"point": groups.common_point(point, "")}
            told = (
                f"it is ended, what it wrote since the failover is lost, and it starts from the group's point {point}."
            )
            groups.operate_group(session, group, "change-point", inputs, yes=yes, no_wait=no_wait, told=told)
            return
        assert item is not None
        groups.single_point(point)

        def said(found: Item) -> list[str]:
            return consequences.change_point(found, session.vault.points(item), point)

        consent(session, item, "change-point", yes, said)
        asked = {"point": point, **({"alone": True} if alone else {})}
        operate(session, item, "change-point", asked, no_wait=no_wait, done=f"{item} runs from {point}")

    @command(app, "commit", COMMIT, panel=FAIL_OVER)
    def commit(
        session: Session,
        item: ItemArgument,
        erase_points: Annotated[
            bool, typer.Option("--erase-points", help="Drop the recovery points now, not after their retention.")
        ] = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        consent(session, item, "commit", yes, lambda found: consequences.commit(found, erase_points=erase_points))
        inputs = {"erase_points": True} if erase_points else {}
        operate(session, item, "commit", inputs, no_wait=no_wait, done=f"{item} is committed")

    @command(app, "undo", UNDO, panel=FAIL_OVER)
    def undo(session: Session, item: ItemArgument, yes: YesOption = False, no_wait: NoWaitOption = False) -> None:
        consent(session, item, "undo", yes, consequences.undo)
        operate(session, item, "undo", {}, no_wait=no_wait, done=f"The failover of {item} is undone")

    @command(app, "complete-migration", COMPLETE_MIGRATION, panel=FAIL_OVER)
    def complete_migration(
        session: Session, item: ItemArgument, yes: YesOption = False, no_wait: NoWaitOption = False
    ) -> None:
        consent(session, item, "complete-migration", yes, consequences.complete_migration)
        operate(session, item, "complete-migration", {}, no_wait=no_wait, done=f"The migration of {item} is complete")

    @command(app, "reprotect", REPROTECT, panel=COME_HOME)
    def reprotect(session: Session, item: ItemArgument, no_wait: NoWaitOption = False) -> None:
        operate(session, item, "reprotect", {}, no_wait=no_wait, done=f"{item} is protected the other way round")

    @command(app, "failback", FAILBACK, panel=COME_HOME)
    def failback(
        session: Session,
        item: OneItem = None,
        group: GroupOption = None,
        point: Annotated[
            str, point_option("The point to bring home. Default: the recovery machine's last state.")
        ] = LATEST,
        alone: AloneOption = False,
        yes: YesOption = False,
        no_wait: NoWaitOption = False,
    ) -> None:
        groups.one_of(item, group, alone)
        if group is not None:
            chosen = groups.common_point(point, LATEST)
            told = f"it is shut down, and its original is brought to the group's point {chosen} and started."
            groups.operate_group(session, group, "failback", {"point": chosen}, yes=yes, no_wait=no_wait, told=told)
            return
        assert item is not None
        groups.single_point(point)

        def said(found: Item) -> list[str]:
            return consequences.failback(found, session.vault.points(item), point)

        consent(session, item, "failback", yes, said)
        asked = {"point": point, **({"alone": True} if alone else {})}
        operate(session, item, "failback", asked, no_wait=no_wait, done=f"{item} is home")


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
        code, remedy = _why_not(operation, found)
        raise HomeportError(
            f"{operation} is not allowed while {item} is {found.get('state')}.",
            code=code,
            remedy=remedy or f"Look at it with `homeport status {item}`.",
            state=found.get("state"),
            allowed_operations=allowed,
        )
    session.ask(consequences_of(found))


def _why_not(operation: str, item: Item) -> tuple[str, str]:
    """Code and remedy of what the vault would refuse, by the same rules. A vault may be newer and know more states."""
    from homeport.domain.operations import Operation, OperationNotAllowed, require_allowed
    from homeport.domain.states import Direction, State

    try:
        require_allowed(Operation(operation), State(item["state"]), Direction(item["direction"]), has_points=False)
    except OperationNotAllowed as refused:
        return refused.code, refused.remedy
    except (KeyError, ValueError):
        pass
    return OperationNotAllowed.code, ""


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
