"""What timelines tell of an item that was described before its last operations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.states import IN_PROGRESS, Direction, State
from homeport.vault.catch_up import SETTLED, CatchUp
from homeport.vault.database import Database, ItemRow, PolicyRow, SiteRow
from homeport.vault.found import FoundMachine, FoundTimeline

BEGUN = datetime(2026, 3, 1, tzinfo=UTC)
T1, T2, T3, FORK = "1" * 16, "2" * 16, "3" * 16, "f" * 16


def timeline(
    id: str,
    age: int,
    *,
    points: int = 2,
    imported: bool = False,
    parent: str | None = None,
    origin: str | None = None,
    ended: bool = False,
    hidden: bool = False,
) -> FoundTimeline:
    """``age``: in the order of their making."""
    made = BEGUN + timedelta(hours=age)
    base = [PointInfo(PointId(id, 0), made, Consistency.CRASH, tags=("import",), hidden=hidden)] if imported else []
    grown = [PointInfo(PointId(id, number), made, Consistency.CRASH, hidden=hidden) for number in range(1, points + 1)]
    of = [PointId.parse(text) if text else None for text in (parent, origin)]
    return FoundTimeline(id, of[0], of[1], made, ended, [*base, *grown])


def machine(*timelines: FoundTimeline, **leases: str) -> FoundMachine:
    held = {owner: PointId.parse(point) for owner, point in leases.items()}
    return FoundMachine("m1", "11" * 32, [], {one.id: one for one in timelines}, held)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    database = Database(tmp_path / "vault.db", lambda: None)
    with database.write() as session:
        session.add_all([SiteRow(name=name, provider="qemu", path=f"/{name}") for name in ("east", "west")])
        session.add(
            PolicyRow(name="gold", rpo_threshold=900, retention=86400, app_consistent=0, interval=5, generated=False)
        )
        session.flush()
        yield session
        session.rollback()
    database.close()


def item(session: Session, state: State = State.PROTECTED, **values: Any) -> ItemRow:
    row = ItemRow(
        **{
            "id": "i1", "name": "web", "machine": "m1", "description": {}, "machine_key": "", "home": "east",
            "away": "west", "policy": "gold", "state": state, "direction": Direction.FORWARD, "active_site": "east",
            "store_site": "west", "timeline": T1, "lineage": [T1], "timelines": {"west": [T1]}, "ties": {},
            "target": {}, "replicate": {"at": "east", "store": "west", "params": {"timeline": T1}}, **values,
        }
    )  # fmt: skip
    session.add(row)
    return row


def caught_up(session: Session, row: ItemRow, away: FoundMachine | None, home: FoundMachine | None = None) -> CatchUp:
    found = CatchUp(session, row, away, home)
    found.run()
    session.flush()
    return found


def test_nothing_has_happened(session: Session) -> None:
    row = item(session)
    found = caught_up(session, row, machine(timeline(T1, 0)))
    assert (row.state, row.timeline, found.checks) == (State.PROTECTED, T1, [])
    assert row.replicate


def test_a_failover_that_was_begun_and_has_no_machine_yet(session: Session) -> None:
    row = item(session)
    found = caught_up(session, row, machine(timeline(T1, 0, ended=True), **{"web-test": f"{T1}/1"}))
    assert (row.state, row.replicate) == (State.FAILOVER_FAILED, None)
    assert any("where the machine runs" in check for check in found.checks)


def test_a_failover_whose_machine_holds_its_point(session: Session) -> None:
    row = item(session, target={"name": "web-dr"})
    caught_up(session, row, machine(timeline(T1, 0, ended=True), **{"web-dr": f"{T1}/2"}))
    assert (row.state, row.failover_point, row.active_site) == (State.FAILOVER_COMMIT_PENDING, f"{T1}/2", "west")
    assert row.recovery_machine == {"name": "web-dr", "site": "west"}


def test_a_failover_that_was_undone_goes_on_in_its_fork(session: Session) -> None:
    row = item(session, State.FAILOVER_COMMIT_PENDING, failover_point=f"{T1}/2", recovery_machine={"name": "web"})
    kept = timeline(T3, 2, imported=True, parent=f"{T1}/2", points=0)
    caught_up(session, row, machine(timeline(T1, 0, ended=True), timeline(FORK, 1, parent=f"{T1}/2"), kept))
    assert (row.state, row.timeline, row.lineage) == (State.PROTECTED, FORK, [T1, FORK])
    assert (row.failover_point, row.recovery_machine, row.active_site) == (None, None, "east")
    assert row.replicate is not None
    assert row.replicate["params"]["timeline"] == FORK
    assert row.timelines == {"west": [T1, FORK]}


def test_a_commit_that_hid_the_points(session: Session) -> None:
    row = item(session)
    caught_up(session, row, machine(timeline(T1, 0, ended=True, hidden=True), web=f"{T1}/2"))
    assert row.state is State.FAILOVER_COMMITTED


def test_a_reprotect_homewards_and_one_that_did_not_get_far(session: Session) -> None:
    away = machine(timeline(T1, 0, ended=True, hidden=True), web=f"{T1}/2")
    row = item(session)
    caught_up(session, row, away, machine(timeline(T2, 1, imported=True, points=0, origin=f"{T1}/2")))
    assert row.state is State.REPROTECT_FAILED
    caught_up(session, row, away, machine(timeline(T2, 1, imported=True, origin=f"{T1}/2")))
    assert (row.state, row.direction, row.timeline) == (State.REVERSE_PROTECTED, Direction.REVERSE, T2)
    assert (row.store_site, row.active_site, row.ties["import_point"]) == ("east", "west", f"{T2}/0")
    assert row.replicate is not None
    assert row.replicate["params"]["retention"] == 86400
    assert row.replicate["params"]["tracker_base"] == f"{T1}/2"


def test_a_whole_round_trip_from_its_first_description(session: Session) -> None:
    row = item(session)
    away = machine(
        timeline(T1, 0, ended=True, hidden=True),
        timeline(T3, 2, imported=True, parent=f"{T1}/2", origin=f"{T2}/2"),
        web=f"{T1}/2",
    )
    home = machine(timeline(T2, 1, imported=True, origin=f"{T1}/2", ended=True, hidden=True))
    caught_up(session, row, away, home)
    assert (row.state, row.direction, row.timeline, row.lineage) == (State.PROTECTED, Direction.FORWARD, T3, [T3])
    assert (row.active_site, row.store_site) == ("east", "west")
    assert (row.failover_point, row.recovery_machine) == (None, None)
    assert row.ties == {"import_point": f"{T3}/0", "home_parent": f"{T2}/2"}


def test_a_failback_that_was_begun_is_left_for_the_operator(session: Session) -> None:
    row = item(
        session, State.REVERSE_PROTECTED, direction=Direction.REVERSE, active_site="west", store_site="east",
        timeline=T2, lineage=[T2], failover_point=f"{T1}/2",
    )  # fmt: skip
    found = caught_up(
        session, row, machine(timeline(T1, 0, ended=True)), machine(timeline(T2, 1, imported=True, ended=True))
    )
    assert row.state is State.FAILBACK_FAILED
    assert any("where the machine runs" in check for check in found.checks)


def test_a_failback_that_was_undone_goes_on_in_its_fork(session: Session) -> None:
    row = item(
        session, State.REVERSE_PROTECTED, direction=Direction.REVERSE, active_site="west", store_site="east",
        timeline=T2, lineage=[T2], failover_point=f"{T1}/2",
    )  # fmt: skip
    home = machine(timeline(T2, 1, imported=True, ended=True), timeline(FORK, 2, parent=f"{T2}/2"))
    caught_up(session, row, machine(timeline(T1, 0, ended=True)), home)
    assert (row.state, row.timeline, row.lineage) == (State.REVERSE_PROTECTED, FORK, [T2, FORK])
    assert (row.failover_point, row.store_site, row.active_site) == (f"{T1}/2", "east", "west")


def test_a_failback_that_was_committed_waits_for_its_reprotect(session: Session) -> None:
    row = item(
        session, State.FAILBACK_COMMIT_PENDING, direction=Direction.REVERSE, active_site="east", store_site="east",
        timeline=T2, lineage=[T2], failover_point=f"{T1}/2",
    )  # fmt: skip
    kept = timeline(T3, 2, imported=True, points=0, parent=f"{T1}/2", origin=f"{T2}/2")
    caught_up(
        session, row, machine(timeline(T1, 0, ended=True), kept), machine(timeline(T2, 1, imported=True, ended=True))
    )
    assert row.state is State.FAILBACK_COMMITTED
    assert row.ties["next_timeline"] == {"timeline": T3, "import_point": f"{T3}/0"}


def test_a_first_copy_that_was_done_since(session: Session) -> None:
    row = item(session, State.INITIAL_REPLICATION_IN_PROGRESS)
    caught_up(session, row, machine(timeline(T1, 0)))
    assert row.state is State.PROTECTED
    row = item(session, State.INITIAL_REPLICATION_IN_PROGRESS, id="i2", name="other")
    caught_up(session, row, machine(timeline(T1, 0, points=0)))
    assert row.state is State.ENABLE_FAILED


def test_nothing_happens_by_itself_after_a_restore(session: Session) -> None:
    row = item(
        session,
        State.FAILOVER_COMMIT_PENDING,
        failover_point=f"{T1}/2",
        ties={"commit_policy": {"action": "auto-commit", "at": BEGUN.isoformat()}},
    )
    found = caught_up(session, row, machine(timeline(T1, 0, ended=True), web=f"{T1}/2"))
    assert row.state is State.FAILOVER_COMMIT_PENDING
    assert "commit_policy" not in row.ties
    assert any("by itself" in check for check in found.checks)


def test_points_that_are_in_no_store_are_told(session: Session) -> None:
    row = item(session)
    assert any(T1 in check for check in caught_up(session, row, None).checks)
    assert row.state is State.PROTECTED


@pytest.mark.parametrize("state", sorted(IN_PROGRESS))
def test_no_item_stays_in_the_middle_of_an_operation(session: Session, state: State) -> None:
    row = item(session, state)
    caught_up(session, row, machine(timeline(T1, 0, points=0)))
    assert row.state not in IN_PROGRESS
    assert set(SETTLED.values()).isdisjoint(IN_PROGRESS)
