"""Replication groups: machines whose recovery points are of one instant (multi-VM consistency, reference 3 and 12).

Members of a group run at one site and are recovered at one other, by one policy. Of time to time all of them are held
at one instant, and the point that each takes then bears the same *mark*: "<group>/<round>". A round is **common** where
every member has its point: whoever returns all members to it finds them as they were at one instant.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from homeport.domain.choice import PointKind, PointNotAvailable
from homeport.domain.errors import HomeportError
from homeport.domain.limits import Limits
from homeport.domain.operation_kinds import Operation
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.states import Direction, State

TOGETHER = frozenset({Operation.FAILOVER, Operation.CHANGE_POINT, Operation.FAILBACK})
"""What takes a machine to a recovery point for real: done to one member by itself it parts the group (reference 3:
"single failover of one member forbidden"). A drill may be of one: it harms nobody."""

MULTI_VM = frozenset({PointKind.LATEST_MULTI_VM, PointKind.LATEST_MULTI_VM_APP_CONSISTENT})
"""Kinds of points that only a group has."""

_ROUND = re.compile(r"[0-9a-f]{16}")
_MARK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[0-9a-f]{16}")
_SHOWN = 8


class GroupNameInvalid(HomeportError):
    code = "group.name-invalid"


class GroupNotJoinable(HomeportError):
    """A machine can't be protected as a member of this group."""

    code = "group.not-joinable"


class GroupFull(HomeportError):
    code = "group.full"
    remedy = "Protect it in another group, or by itself."


class MemberAlone(HomeportError):
    """``details``: ``group``, ``members`` (names)."""

    code = "group.member-alone"


class NotTogether(HomeportError):
    """``details``: ``members``: of each that can't, why."""

    code = "group.not-together"


class NoCommonPoint(PointNotAvailable):
    """``details.rounds``: those that are common to all members, the newest first."""

    code = "group.no-common-point"


@dataclass(frozen=True)
class Member:
    """What the rules ask of a member, or of who wants to be one."""

    name: str
    home: str
    away: str
    policy: str
    direction: Direction = Direction.FORWARD
    state: State = State.UNPROTECTED


@dataclass(frozen=True)
class Common:
    """A round that all members have. ``points``: by member; ``time``: the instant, UTC."""

    round: str
    time: datetime
    consistency: Consistency
    points: Mapping[str, PointId]


def new_round() -> str:
    """A fresh round's id: sixteen hex digits."""
    return secrets.token_hex(8)


def mark(group: str, round_id: str) -> str:
    """What a point of a round bears."""
    return f"{group}/{round_id}"


def is_mark(text: object) -> bool:
    return isinstance(text, str) and _MARK.fullmatch(text) is not None


def is_round(text: str) -> bool:
    return _ROUND.fullmatch(text) is not None


def round_of(point: PointInfo, group: str) -> str | None:
    """The round of ``group`` that a point is of, if it is of one."""
    name, _, round_id = (point.group or "").rpartition("/")
    return round_id if name == group else None


# ── membership ──────────────────────────────────────────────────────────────────────────────────────────────────────


def require_name(group: str, limits: Limits) -> None:
    """Raises :class:`GroupNameInvalid`."""
    if not limits.name_fits(group):
        raise GroupNameInvalid(f"The name {group!r} of a group is not valid: {limits.name_rule}.")


def require_joinable(group: str, joining: Member, members: Sequence[Member], limits: Limits) -> None:
    """Raises :class:`GroupNameInvalid`, :class:`GroupFull`, :class:`GroupNotJoinable`."""
    require_name(group, limits)
    if not members:
        return
    if len(members) >= limits.group_members:
        raise GroupFull(
            f"The group {group} has {len(members)} members; {limits.group_members} is the most.", group=group
        )
    first = members[0]
    if (joining.home, joining.away) != (first.home, first.away):
        raise GroupNotJoinable(
            f"The group {group} replicates from {first.home} to {first.away}, and {joining.name} would from "
            f"{joining.home} to {joining.away}.",
            remedy="Name the group's sites, or another group.",
            group=group,
        )
    if joining.policy != first.policy:
        raise GroupNotJoinable(
            f"The group {group} has the policy {first.policy}, and {joining.name} would get {joining.policy}: members "
            "share one, since they take their points together.",
            remedy=f"Name the policy {first.policy}, or give the group another with `homeport group set {group}`.",
            group=group,
        )
    away = [member.name for member in members if member.direction is not Direction.FORWARD or _moved(member.state)]
    if away:
        raise GroupNotJoinable(
            f"The group {group} does not run at {first.home} now: {_named(away)}.",
            remedy="Wait until all of it is home and protected again.",
            group=group,
        )


_AT_HOME = frozenset(
    {
        State.UNPROTECTED,
        State.ENABLING_PROTECTION,
        State.INITIAL_REPLICATION_IN_PROGRESS,
        State.ENABLE_FAILED,
        State.PROTECTED,
        State.RESYNCING,
        State.PAUSED,
        State.TEST_FAILOVER_IN_PROGRESS,
        State.TEST_FAILOVER_CLEANUP_PENDING,
        State.TEST_FAILOVER_CLEANUP_IN_PROGRESS,
        State.DISABLING,
        State.DISABLE_FAILED,
    }
)


def _moved(state: State) -> bool:
    return state not in _AT_HOME


def require_together(operation: Operation, group: str, item: str, others: Sequence[str], *, alone: bool) -> None:
    """``others``: the names of the item's fellow members; ``alone``: it was asked for in so many words. Raises
    :class:`MemberAlone`."""
    if operation not in TOGETHER or alone or not others:
        return
    raise MemberAlone(
        f"{item} is a member of the group {group}, with {_named(others)}: by itself it would be at another instant "
        "than these.",
        remedy=f"Do it to all of them: `homeport {operation} --group {group}`. Add --alone to part it from them.",
        group=group,
        members=[item, *others],
    )


# ── common points ───────────────────────────────────────────────────────────────────────────────────────────────────


def common(group: str, members: Mapping[str, Sequence[PointInfo]]) -> list[Common]:
    """The rounds that all members have, the newest first. ``members``: the points of each (those that are offered),
    oldest first. What came first is told by the points' places, never by their times."""
    if not members:
        return []
    by_round = {
        name: {found: point for point in points if (found := round_of(point, group))}
        for name, points in members.items()
    }
    shared = set.intersection(*(set(rounds) for rounds in by_round.values()))
    first = next(iter(by_round.values()))
    result = []
    for round_id in reversed([each for each in first if each in shared]):
        points = {name: rounds[round_id] for name, rounds in by_round.items()}
        app = all(point.consistency is Consistency.APP for point in points.values())
        result.append(
            Common(
                round_id,
                next(iter(points.values())).time,
                Consistency.APP if app else Consistency.CRASH,
                {name: point.id for name, point in points.items()},
            )
        )
    return result


def choose_common(group: str, members: Mapping[str, Sequence[PointInfo]], kind: str) -> Common:
    """The round meant by ``kind``: one of ``MULTI_VM``, or a round's id. Raises :class:`NoCommonPoint`."""
    there = common(group, members)
    if kind == PointKind.LATEST_MULTI_VM:
        found = there[:1]
    elif kind == PointKind.LATEST_MULTI_VM_APP_CONSISTENT:
        found = [each for each in there if each.consistency is Consistency.APP][:1]
    else:
        found = [each for each in there if each.round == kind]
    if found:
        return found[0]
    named = [f"{each.round} ({each.time.isoformat()}, {each.consistency})" for each in there[:_SHOWN]]
    listed = f"There are: {'; '.join(named)}." if named else "There is none that all of its members have."
    raise NoCommonPoint(
        f"The group {group} has no point {kind!r}. {listed}",
        remedy=f"See `homeport group show {group}`; a member can be moved by itself with --alone.",
        asked=kind,
        rounds=[each.round for each in there],
    )


def shared_points(own: Sequence[PointInfo], others: Collection[Sequence[PointInfo]]) -> list[PointId]:
    """Those of ``own`` whose rounds all the ``others`` have, too. (An other without any points has none to share yet:
    it doesn't count.)"""
    rounds = {point.group: point.id for point in own if point.group}
    for points in others:
        if points:
            theirs = {point.group for point in points}
            rounds = {each: point for each, point in rounds.items() if each in theirs}
    return list(rounds.values())


def next_tick(now: float, interval: float) -> float:
    """When who is free at ``now`` joins the next round: on a grid of whole intervals, so that all members of a group
    come together without being told. Seconds of one clock."""
    tick = (now // interval + 1) * interval
    return tick if tick > now else tick + interval  # floats: a grid point may be found to lie in the past


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
