"""What the vault does by itself when its time has come: commit policies, and what is kept for a while only.

Instants are absolute and lie in the items' ties (items.py), so a restart loses none; each is taken up in a transaction
that looks again, so of several instances of the vault one acts. What fails is noted there and tried again later.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.groups import shared_points
from homeport.domain.operations import Operation
from homeport.domain.retention import points_to_prune
from homeport.domain.states import State
from homeport.vault import deleted, groups, items, operations, tagged
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, JobRow, Json, PointRow, now
from homeport.vault.retained import is_due, points_read_later, points_to_drop
from homeport.vault.signal import Stopping
from homeport.vault.work import OPEN, Ask, post_if_idle

log = structlog.get_logger(__name__)

_POLICIES: dict[str, tuple[Operation, Json]] = {
    "auto-commit": (Operation.COMMIT, {"erase_points": False}),
    "auto-rollback": (Operation.UNDO, {}),
}


class Timers:
    """The thread; it ends with the vault's signal."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._thread = threading.Thread(target=self._run, name="vault-timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """After the vault's signal was stopped."""
        self._thread.join(30)

    def _run(self) -> None:
        every = self._core.timeouts.timers
        while True:
            try:
                look(self._core)
                self._core.signal.until(lambda: None, every, every)
            except Stopping:
                return
            except Exception:
                if self._core.signal.stopped:
                    return
                log.exception("what is due can't be looked at now; tried again soon")
                try:
                    self._core.signal.until(lambda: None, every, every)
                except Stopping:
                    return


def look(core: Core) -> None:
    """Begin what is due. One item's trouble keeps no other from its turn."""
    with core.database.read() as session:
        rows = list(session.scalars(select(ItemRow).where(ItemRow.removed.is_(None), ItemRow.job.is_(None))))
    for item in rows:
        if "commit_policy" in item.ties and item.state is State.FAILOVER_COMMIT_PENDING:
            _commit_policy(core, item)
        for entry in item.ties.get("discarded", []):
            if is_due(entry["until"], now()):
                _drop(core, item, "discarded", entry, "drop-timeline", {"timeline": entry["timeline"]})
        for entry in item.ties.get("kept", []):
            if is_due(entry["until"], now()):
                _drop(core, item, "kept", entry, "drop-points", _dropped_points(core, item, entry))
        if len(item.lineage) > 1 and item.replicate is not None:
            _thin_earlier(core, item)
    deleted.drop_due(core)


def _commit_policy(core: Core, item: ItemRow) -> None:
    policy: Json = item.ties["commit_policy"]
    if "job" in policy and "error" not in policy:
        _note_failure(core, item, policy["job"])
    if datetime.fromisoformat(policy["at"]) > now():
        return
    operation, params = _POLICIES[policy["action"]]
    retry_at = now() + timedelta(seconds=core.timeouts.timer_retry)
    try:
        job = operations.begin_by_policy(core, item.id, operation, params, retry_at)
    except HomeportError as error:
        log.warning("a commit policy can't be carried out", item=item.name, code=error.code, cause=error.cause)
        _change_policy(core, item, policy, {"at": retry_at.isoformat(), "error": error.to_json()})
        return
    if job is not None:
        log.info("commit policy carried out", item=item.name, action=policy["action"], job=job)


def _note_failure(core: Core, item: ItemRow, job: str) -> None:
    with core.database.read() as session:
        error = session.get_one(JobRow, job).error
    if error is not None:
        _change_policy(core, item, item.ties["commit_policy"], {"error": error})


def _change_policy(core: Core, item: ItemRow, seen: Json, changes: Json) -> None:
    """Unless somebody decided meanwhile."""
    with core.database.write() as session:
        row = session.get_one(ItemRow, item.id)
        if row.ties.get("commit_policy") == seen:
            row.ties = {**row.ties, "commit_policy": {**seen, **changes}}


def _thin_earlier(core: Core, item: ItemRow) -> None:
    """Retention of the timelines that the present one forks from: nobody replicates into them, so nobody else thins
    them."""
    with core.database.read() as session:
        drop = _past_retention(session, item)
    if not drop or core.liveness.gone(item.store_site, core.timeouts.gone):
        return
    turn = int(now().timestamp() // core.timeouts.timer_retry)
    request = Ask(item.store_site, "thin-points", {"timelines": drop}, f"thin:{item.id}:{turn}", item=item.id)
    work = post_if_idle(core, request)
    if work is None or work.state != "done" or work.result is None:
        return
    with core.database.write() as session:
        for timeline, numbers in work.result["left"].items():
            session.execute(delete(PointRow).where(PointRow.timeline == timeline, PointRow.number.not_in(numbers)))


def _past_retention(session: Session, item: ItemRow) -> dict[str, list[int]]:
    """Numbers by earlier timeline. What all members of a group have is kept as what they replicate now is: each by
    itself would keep another one of every hour, and none would be left that all have."""
    points, policy = items.points_of(session, item), items.effective_policy(session, item)
    fellows = groups.members(session, item.group_name) if item.group_name is not None else []
    theirs = [items.points_of(session, fellow) for fellow in fellows if fellow.id != item.id]
    shared = shared_points(points, theirs) if theirs else ()
    needed = set(points_read_later(item))
    drop: dict[str, list[int]] = {}
    for point in points_to_prune(points, now(), policy.retention, needed, shared):
        if point.timeline != item.timeline:
            drop.setdefault(point.timeline, []).append(point.number)
    return drop


def _dropped_points(core: Core, item: ItemRow, entry: Json) -> Json:
    with core.database.read() as session:
        stay = [str(point.id) for point in tagged.tagged_of(session, item, entry["timelines"])]
        newest = {
            timeline: max(items.newest_number(session, timeline), tagged.newest_left(item, timeline))
            for timeline in entry["timelines"]
        }
    return points_to_drop(item, newest, stay)


def _drop(core: Core, item: ItemRow, tie: str, entry: Json, kind: str, params: Json) -> None:
    """Ask the entry's site, once per try, and look at each turn what came of it."""
    site, tries = entry["site"], entry.get("tries", 0)
    name = entry.get("timeline") or "+".join(entry["timelines"])
    work = None
    if not core.liveness.gone(site, core.timeouts.gone):
        key = f"{tie}:{item.id}:{name}:{entry['until']}:{tries}"
        work = post_if_idle(core, Ask(site, kind, params, key, item=item.id))
    if work is None or work.state in OPEN:
        return
    if work.state == "done":
        _change_entry(core, item, tie, entry, None)
        log.info("dropped what was kept for a while", item=item.name, kind=kind, name=name)
        return
    again = (now() + timedelta(seconds=core.timeouts.timer_retry)).isoformat()
    _change_entry(core, item, tie, entry, {**entry, "until": again, "tries": tries + 1, "error": work.error})


def _change_entry(core: Core, item: ItemRow, tie: str, entry: Json, changed: Json | None) -> None:
    with core.database.write() as session:
        row = session.get_one(ItemRow, item.id)
        entries: list[Json] = [each for each in row.ties.get(tie, []) if each != entry]
        entries += [changed] if changed is not None else []
        row.ties = {name: value for name, value in {**row.ties, tie: entries}.items() if value or name != tie}
        if changed is None:
            if tie == "kept":
                tagged.outlive(session, row, entry["timelines"])
            for timeline in entry.get("timelines") or [entry["timeline"]]:
                items.remember_points(session, timeline, [])
