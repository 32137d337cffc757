"""What happened to an item since it was last described, told from its timelines in the stores.

Each step is one that leaves a mark there: a failover ends the timeline, and its machine holds a lease on a point; a
commit hides points; a reprotect imports disks into a timeline of the other store; an undone failover or failback goes
on in a fork. What leaves none is told as something to be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from homeport.domain.policy import failback_policy
from homeport.domain.states import Direction, State
from homeport.domain.target import Target
from homeport.vault import items
from homeport.vault.database import ItemRow, Json
from homeport.vault.found import FoundMachine, FoundTimeline

_MOST_STEPS = 100
"""Operations in a row that are told from stores: a bound, not a rule."""

_REPLICATING = frozenset({State.PROTECTED, State.RESYNCING, State.PAUSED, State.REVERSE_PROTECTED})

SETTLED = {
    State.ENABLING_PROTECTION: State.ENABLE_FAILED,
    State.INITIAL_REPLICATION_IN_PROGRESS: State.ENABLE_FAILED,
    State.TEST_FAILOVER_IN_PROGRESS: State.TEST_FAILOVER_CLEANUP_PENDING,
    State.TEST_FAILOVER_CLEANUP_IN_PROGRESS: State.TEST_FAILOVER_CLEANUP_PENDING,
    State.FAILOVER_IN_PROGRESS: State.FAILOVER_FAILED,
    State.CHANGE_POINT_IN_PROGRESS: State.FAILOVER_FAILED,
    State.UNDO_IN_PROGRESS: State.FAILOVER_FAILED,
    State.REPROTECT_IN_PROGRESS: State.REPROTECT_FAILED,
    State.FAILBACK_IN_PROGRESS: State.FAILBACK_FAILED,
    State.MIGRATION_IN_PROGRESS: State.MIGRATION_FAILED,
    State.DISABLING: State.DISABLE_FAILED,
}
"""Where an item is that was described in the middle of an operation which nobody goes on with."""


class CatchUp:
    """``away``, ``home``: the item's machine in the stores of its two sites; None: not there, or not given."""

    def __init__(self, session: Session, item: ItemRow, away: FoundMachine | None, home: FoundMachine | None) -> None:
        self._session = session
        self._item = item
        self._away = away.timelines if away else {}
        self._home = home.timelines if home else {}
        self._leases = away.leases if away else {}
        self.checks: list[str] = []
        """What can't be told from stores, in words for the operator."""

    def run(self) -> None:
        """Brings the item to what the stores tell."""
        begun = self._item.state
        if "commit_policy" in self._item.ties:
            self._tie(commit_policy=None)
            self.checks.append("it was to be committed or rolled back by itself, and is no more: do it yourself")
        self._settle()
        for _ in range(_MOST_STEPS):
            if not self._step():
                break
        if self._item.state is not begun:
            self.checks.append(
                f"it was {begun} when it was last described; the stores tell that it is {self._item.state}"
            )

    # -- one step ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        item = self._item
        if item.state is State.COMMIT_IN_PROGRESS:
            reverse = item.direction is Direction.REVERSE
            item.state = State.FAILBACK_COMMIT_PENDING if reverse else State.FAILOVER_COMMIT_PENDING
        item.state = SETTLED.get(item.state, item.state)
        timeline = self._away.get(item.timeline)
        if item.state is State.ENABLE_FAILED and timeline is not None and timeline.grown:
            item.state = State.PROTECTED

    def _step(self) -> bool:
        """Whether the item got any further."""
        state, forward = self._item.state, self._item.direction is Direction.FORWARD
        if state in _REPLICATING or state is State.TEST_FAILOVER_CLEANUP_PENDING:
            return self._ended_forward() if forward else self._ended_reverse()
        if state is State.FAILOVER_FAILED:
            return self._went_on_in_fork(self._away) or self._failed_over()
        if state is State.FAILOVER_COMMIT_PENDING:
            return self._went_on_in_fork(self._away) or self._committed()
        if state is State.FAILOVER_COMMITTED or (state is State.REPROTECT_FAILED and forward):
            return self._reprotected_homewards()
        if state in (State.FAILBACK_COMMIT_PENDING, State.FAILBACK_FAILED):
            return self._came_home() or self._went_on_in_fork(self._home)
        if state is State.FAILBACK_COMMITTED or state is State.REPROTECT_FAILED:
            return self._reprotected_forward()
        return False

    def _ended_forward(self) -> bool:
        timeline = self._away.get(self._item.timeline)
        if timeline is None:
            self.checks.append(f"its timeline {self._item.timeline} is in none of the stores")
            return False
        if not timeline.ended:
            return False
        if self._went_on_in_fork(self._away):
            return True
        self._item.state, self._item.replicate = State.FAILOVER_FAILED, None
        self.checks.append("a failover was begun: see where the machine runs before you begin anything else")
        return True

    def _failed_over(self) -> bool:
        point = self._leases.get(self._vm_away)
        ended = self._away.get(self._item.timeline)
        if point is None or ended is None or not ended.ended or point.timeline not in self._item.lineage:
            return False
        item = self._item
        item.state, item.failover_point, item.active_site = State.FAILOVER_COMMIT_PENDING, str(point), item.away
        item.recovery_machine = {"name": self._vm_away, "site": item.away}
        item.replicate = None
        self.checks.append(f"a machine at {item.away} was started from point {point}: see that it runs")
        return True

    def _committed(self) -> bool:
        timeline = self._away.get(self._item.timeline)
        if self._base_at_home() is None and (timeline is None or not timeline.hidden):
            return False
        self._item.state = State.FAILOVER_COMMITTED
        return True

    def _reprotected_homewards(self) -> bool:
        base, item = self._base_at_home(), self._item
        if base is None or base.imported is None or item.failover_point is None:
            return False
        if not base.grown:
            fresh = item.state is not State.REPROTECT_FAILED
            item.state = State.REPROTECT_FAILED
            return fresh
        item.state, item.direction = State.REVERSE_PROTECTED, Direction.REVERSE
        self._replicates(base.id, [base.id], at=item.away, store=item.home, tracker_base=item.failover_point)
        self._tie(import_point=str(base.imported), stopped=None, pending=None)
        return True

    def _ended_reverse(self) -> bool:
        timeline = self._home.get(self._item.timeline)
        if timeline is None:
            self.checks.append(f"its timeline {self._item.timeline} is in none of the stores")
            return False
        if not timeline.ended:
            return False
        if self._came_home() or self._went_on_in_fork(self._home):
            return True
        self._item.state, self._item.replicate = State.FAILBACK_FAILED, None
        self.checks.append("a failback was begun: see where the machine runs before you begin anything else")
        return True

    def _came_home(self) -> bool:
        """A commit of the failback kept the recovery machine's final state away."""
        item, ended = self._item, self._home.get(self._item.timeline)
        kept = self._newest(
            self._away, lambda one: one.imported is not None and str(one.parent) == str(item.failover_point)
        )
        if kept is None or kept.origin is None or ended is None or kept.created < ended.created:
            return False
        item.state, item.active_site, item.replicate = State.FAILBACK_COMMITTED, item.home, None
        item.recovery_machine = item.failover_point = None
        prepared = {"timeline": kept.id, "import_point": str(kept.imported)}
        self._tie(next_timeline=prepared, home_parent=str(kept.origin), pending=None)
        self.checks.append(f"it was failed back: see that it runs at {item.home}, and no more at {item.away}")
        return True

    def _reprotected_forward(self) -> bool:
        item = self._item
        prepared = item.ties.get("next_timeline") or {}
        timeline = self._away.get(prepared.get("timeline", ""))
        if timeline is None or not timeline.grown:
            return False
        item.state, item.direction = State.PROTECTED, Direction.FORWARD
        tracker_base = item.ties.get("home_parent")
        self._replicates(timeline.id, [timeline.id], at=item.home, store=item.away, tracker_base=tracker_base)
        self._tie(import_point=prepared["import_point"], stopped=None, next_timeline=None, pending=None)
        return True

    def _went_on_in_fork(self, timelines: dict[str, FoundTimeline]) -> bool:
        """What was begun was undone."""
        item = self._item
        fork = self._newest(
            timelines,
            lambda one: one.imported is None and one.parent is not None and one.parent.timeline == item.timeline,
        )
        if fork is None:
            return False
        at, store = (item.home, item.away) if timelines is self._away else (item.away, item.home)
        item.state = State.PROTECTED if timelines is self._away else State.REVERSE_PROTECTED
        self._replicates(fork.id, [*item.lineage, fork.id], at=at, store=store, tracker_base=None)
        if not fork.grown:
            self.checks.append(f"what was begun was being undone: see that it runs at {at}, and only there")
        if timelines is self._away:
            item.recovery_machine = item.failover_point = None
        self._tie(stopped=None, pending=None)
        return True

    # -- helps ---------------------------------------------------------------------------------------------------------

    def _base_at_home(self) -> FoundTimeline | None:
        """The timeline that a reprotect began from the original's disks."""
        wanted = self._item.failover_point
        return self._newest(self._home, lambda one: wanted is not None and str(one.origin) == wanted)

    @property
    def _vm_away(self) -> str:
        return Target.from_json(self._item.target).name or self._item.name

    def _newest(
        self, timelines: dict[str, FoundTimeline], fits: Callable[[FoundTimeline], bool]
    ) -> FoundTimeline | None:
        found = [one for one in timelines.values() if fits(one)]
        return max(found, key=lambda one: one.created, default=None)

    def _tie(self, **ties: Any) -> None:
        kept = {**self._item.ties, **ties}
        self._item.ties = {name: value for name, value in kept.items() if value is not None}

    def _replicates(self, timeline: str, lineage: list[str], *, at: str, store: str, tracker_base: str | None) -> None:
        item = self._item
        own = items.policy_of(self._session, item.policy)
        policy = own if at == item.home else failback_policy(own)
        item.timeline, item.lineage, item.store_site, item.active_site = timeline, lineage, store, at
        known: list[str] = item.timelines.get(store, [])
        if timeline not in known:
            item.timelines = {**item.timelines, store: [*known, timeline]}
        vm = self._vm_away if at == item.away else item.name
        params = params_of(vm, timeline, policy.to_json(), tracker_base)
        item.replicate = {"at": at, "store": store, "params": params}
        self._tie(paused=None)


def params_of(vm: str, timeline: str, policy: Json, tracker_base: str | None) -> Json:
    """What a site needs to replicate; where the tracking isn't known to fit, it compares by digests."""
    return {
        "vm": vm,
        "timeline": timeline,
        "interval": policy["interval"],
        "app_consistent": policy["app_consistent"],
        "retention": policy["retention"],
        "rpo_threshold": policy["rpo_threshold"],
        "tracker_base": tracker_base,
        "same_as": None,
    }
