"""Replicated items: how they are found, what the API shows of them, and which points they offer.

What one operation leaves for a later one lies in an item's ``ties``:

``stopped``        {"point", "complete"}: the machine that was active was stopped as planned, and its last point
``import_point``   the point that the replication's timeline began from (the powered-off disks, imported)
``home_parent``    the point that the original's disks were last brought to: parent of the home site's next timeline
``next_timeline``  {"timeline", "import_point"}: prepared at the away site by the commit of a failback
``pending``        {"fork" | "import": timeline}: named by an operation that has not ended, so that its repetition
                   names the same one
``attempted``      the point that the recovery machine was last asked to start from: it may be there, whole or in part
``paused``         {"since", "replicate"}: replication is paused, and how it ran before
``commit_policy``  {"action": "auto-commit" | "auto-rollback", "at"}: what becomes of a failover by itself; after a try
                   also "job", and "error": why the last one failed
``discarded``      [{"timeline", "site", "until"}]: what a recovery machine wrote whose failover was undone
``tagged``         [points]: what is left of earlier timelines since it is tagged (tagged.py)
``untagged``       [points]: their tags were taken back (tagged.py)
``purging``        since when a deleted item's points are being deleted
``kept``           [{"site", "timelines", "until"}]: points that a commit left (retained.py)
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from homeport.domain import choice, health
from homeport.domain.checks.catalogue import health_reasons
from homeport.domain.churn import CHURN_CODE, excess, traffic_of
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation, allowed_operations
from homeport.domain.points import PointInfo
from homeport.domain.policy import Policy, failback_policy
from homeport.domain.states import TRACKS_RPO, Direction, offers_points
from homeport.domain.target import Target
from homeport.vault import tagged
from homeport.vault.core import Core
from homeport.vault.database import CheckRow, ItemRow, Json, PointRow, PolicyRow, now
from homeport.vault.retained import points_kept


class ItemNotFound(HomeportError):
    code = "item.not-found"
    remedy = "See `homeport status` for the replicated items."


def find(session: Session, name: str) -> ItemRow:
    """By name or id. Raises :class:`ItemNotFound`."""
    by_id = session.get(ItemRow, name)
    if by_id is not None:
        return by_id
    item = session.scalar(select(ItemRow).where(ItemRow.name == name, ItemRow.removed.is_(None)))
    if item is None:
        raise ItemNotFound(f"There is no replicated item {name!r}.")
    return item


def live(session: Session, name: str) -> ItemRow:
    """One that is not deleted. Raises :class:`ItemNotFound`."""
    item = find(session, name)
    if item.removed is not None:
        raise ItemNotFound(f"{item.name} is not protected any more.")
    return item


def policy_of(session: Session, name: str) -> Policy:
    row = session.get_one(PolicyRow, name)
    return Policy(
        name=row.name,
        rpo_threshold=row.rpo_threshold,
        retention=row.retention,
        app_consistent=row.app_consistent,
        interval=row.interval,
        generated=row.generated,
        rpo_critical=row.rpo_critical,
    )


def effective_policy(session: Session, item: ItemRow) -> Policy:
    """The policy by which the item replicates now: its own, or on the way home the failback policy made from it."""
    own = policy_of(session, item.policy)
    return own if item.direction is Direction.FORWARD else failback_policy(own)


def remember_points(session: Session, timeline: str, points: list[Json]) -> None:
    """Keep ``points`` as the whole list of ``timeline``. Raises ValueError or KeyError where one is malformed."""
    infos = [PointInfo.from_json(point) for point in points]
    known = {row.number: row for row in session.scalars(select(PointRow).where(PointRow.timeline == timeline))}
    fresh = {info.id.number: info.to_json() for info in infos if info.id.timeline == timeline}
    gone = [number for number in known if number not in fresh]
    if gone:
        session.execute(delete(PointRow).where(PointRow.timeline == timeline, PointRow.number.in_(gone)))
    for number, data in fresh.items():
        if number not in known:
            session.add(PointRow(timeline=timeline, number=number, data=data))
        elif known[number].data != data:
            known[number].data = data


def points_of(session: Session, item: ItemRow) -> list[PointInfo]:
    """What is offered to the operator, oldest first; after a commit, what it kept."""
    if not offers_points(item.state, points_kept=points_kept(item, now())):
        return []
    rows = session.scalars(select(PointRow).where(PointRow.timeline.in_(item.lineage)))
    return choice.offered(tagged.as_tagged_now([PointInfo.from_json(row.data) for row in rows], item), item.lineage)


def allowed(session: Session, item: ItemRow) -> tuple[Operation, ...]:
    return allowed_operations(
        item.state, item.direction, has_points=bool(points_of(session, item)), running=item.job is not None
    )


def _instant(value: Any) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def to_json(core: Core, session: Session, item: ItemRow) -> Json:
    points = points_of(session, item)
    policy = effective_policy(session, item)
    replication = item.replication
    newest = _instant(replication.get("rpo_from"))
    if newest is None and points:
        newest = points[-1].time
    rpo = health.rpo_seconds(newest, now()) if item.state in TRACKS_RPO else None
    error = replication.get("error")
    condition = health.Condition(
        state=item.state,
        rpo=rpo,
        rpo_threshold=policy.rpo_threshold,
        rpo_critical=policy.critical,
        silence=core.liveness.silence(item.active_site),
        error=error_text(error),
        configuration=_configuration(session.get(CheckRow, item.id)),
        churn=tuple(excess(traffic_of(replication.get("traffic")))),
        rounds=_rounds(item),
    )
    grade, reasons = health.health(condition)
    return {
        "id": item.id,
        "name": item.name,
        "machine": item.machine,
        "from": item.home,
        "to": item.away,
        "policy": item.policy,
        "group": item.group_name,
        "state": str(item.state),
        "direction": str(item.direction),
        "active_site": item.active_site,
        "health": str(grade),
        "health_reasons": reasons,
        "rpo_seconds": rpo,
        "last_point": points[-1].to_json() if points else None,
        "timeline": item.timeline,
        "replication": {
            "phase": replication.get("phase", "stopped"),
            "progress": replication.get("progress"),
            "error": error,
            "crossed": total_crossed(item.crossed),
            "process_server": replication.get("process_server"),
            "traffic": replication.get("traffic"),
        },
        "test": item.test,
        "allowed_operations": [str(operation) for operation in allowed(session, item)],
        "job": item.job,
        "recovery_machine": item.recovery_machine,
        "failover_point": item.failover_point,
        "commit_policy": item.ties.get("commit_policy"),
        "tagged_points": tagged.summary(session, item, points, policy),
        "target": Target.from_json(item.target).to_json(),
        "target_machine": target_machine(item),
        "created": item.created.isoformat(),
    }


def _configuration(checked: CheckRow | None) -> tuple[tuple[health.Health, str], ...]:
    """Of the last checks: without what is judged anew each time."""
    found = [] if checked is None else checked.findings
    return health_reasons([finding for finding in found if finding.get("code") != CHURN_CODE])


def _rounds(item: ItemRow) -> health.Rounds | None:
    told = item.replication.get("round")
    if item.group_name is None or not told:
        return None
    at = _instant(told.get("at"))
    return health.Rounds(item.group_name, health.rpo_seconds(at, now()), told.get("trouble"))


def target_machine(item: ItemRow) -> Json:
    """What would be made at the other site now: {"name", "cpus", "memory", "disks", "nics"}."""
    made = Target.from_json(item.target).applied_to(Machine.from_json(item.description)).to_json()
    return {name: made[name] for name in ("name", "cpus", "memory", "disks", "nics")}


def count_crossed(ledger: Json, site: str, reported: Json) -> Json:
    """``ledger`` with what a site's server counted since it began: a count that went back is a server that restarted.

    Per site and direction: [bytes in all, bytes by the last report]."""
    entry = dict(ledger.get(site, {}))
    for way in ("out", "in"):
        total, last = entry.get(way, (0, 0))
        now_counted = int(reported.get(way, 0))
        entry[way] = [total + (now_counted - last if now_counted >= last else now_counted), now_counted]
    return {**ledger, site: entry}


def total_crossed(ledger: Json) -> Json:
    """Bytes that crossed between the sites since the item was protected. "out": away from where it ran."""
    return {way: sum(entry.get(way, (0, 0))[0] for entry in ledger.values()) for way in ("out", "in")}


def error_text(error: Any) -> str | None:
    """What a report says of its trouble, in words."""
    if not error:
        return None
    if isinstance(error, dict):
        return f"{error.get('cause', '')} ({error.get('code', '')})"
    return str(error)


def newest_number(session: Session, timeline: str) -> int:
    """The number of a timeline's newest known point; -1 where none is known."""
    newest = session.scalar(select(func.max(PointRow.number)).where(PointRow.timeline == timeline))
    return -1 if newest is None else newest
