"""Items through any sequence of operations, outcomes, reports, points and clocks, held to the invariants of reference
2.5 as far as they are rules (docs/operations.md: the first reads "empty unless kept", the fourth "stops, and resumes on
cancel or undo")."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from homeport.domain.choice import PointNotAvailable, choose_point, offered
from homeport.domain.health import Condition, Health, health, rpo_seconds
from homeport.domain.operation_kinds import NOT_ASKED_FOR
from homeport.domain.operations import (
    CANCELLABLE,
    Operation,
    OperationNotAllowed,
    after_report,
    allowed_operations,
    require_allowed,
    transition,
    way_back,
)
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.policy import Policy, failback_policy
from homeport.domain.retention import points_to_prune
from homeport.domain.states import (
    FAILED,
    IN_PROGRESS,
    OFFERS_POINTS,
    REPLICATES,
    TRACKS_RPO,
    Direction,
    State,
    directions_of,
    offers_points,
)

ITEMS = 3
OUTCOMES = st.sampled_from(["done", "done", "done", "failed", "undone"])
POLICY = Policy("gold", rpo_threshold=900, retention=6 * 3600, rpo_critical=3600)
STOPS = {Operation.FAILOVER, Operation.FAILBACK}
SELF_UNDOING = {Operation.TEST_FAILOVER, Operation.CHANGE_POINT, Operation.UNDO, Operation.COMPLETE_MIGRATION} | STOPS


@dataclass
class Running:
    """A job at work. ``stopped``: replication was stopped, as its first effect; ``built``: a machine was made."""

    operation: Operation
    before: State
    stopped: bool = False
    built: bool = False
    cancel: bool = False


@dataclass
class Item:
    """What the vault would keep of an item, and what the world would be like around it."""

    number: int
    state: State = State.UNPROTECTED
    direction: Direction = Direction.FORWARD
    job: Running | None = None
    last_failed: Operation | None = None
    paused: bool = False
    points_kept: bool = False
    replicating: bool = False
    test_machine: bool = False
    runs: set[Direction] = field(default_factory=lambda: {Direction.FORWARD})
    lineage: list[str] = field(default_factory=list)
    points: list[PointInfo] = field(default_factory=list)
    taken: int = 0
    """Points ever taken: what a test failover must not touch."""

    def begin_timeline(self, number: int, *, fork: bool) -> None:
        self.lineage = [*(self.lineage if fork else []), f"{number:016x}"]

    def policy(self) -> Policy:
        return POLICY if self.direction is Direction.FORWARD else failback_policy(POLICY)

    def offers(self) -> list[PointInfo]:
        if not offers_points(self.state, points_kept=self.points_kept):
            return []
        return offered([point for point in self.points if point.id.timeline in self.lineage], self.lineage)

    def allowed(self) -> tuple[Operation, ...]:
        return allowed_operations(
            self.state, self.direction, has_points=bool(self.offers()), running=self.job is not None
        )


class Lives(RuleBasedStateMachine):
    """Operations are begun and ended in separate rules, so that reports, points and clocks fall in between."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.timelines = 0
        self.items: list[Item] = []

    @initialize()
    def machines_are_protected(self) -> None:
        """The last of them isn't yet, when all begins."""
        self.items = [Item(number) for number in range(ITEMS)]
        for item in self.items:
            self.protect(item)
        for number in range(ITEMS - 1):
            self.a_job_ends(number, "done")

    def timeline(self, item: Item, *, fork: bool) -> None:
        self.timelines += 1
        item.begin_timeline(self.timelines, fork=fork)

    def protect(self, item: Item) -> None:
        leads = transition(Operation.PROTECT, item.state)
        assert leads.during is not None
        item.state, item.job = leads.during, Running(Operation.PROTECT, item.state)
        self.timeline(item, fork=False)
        item.replicating = True

    # ── what happens by itself ──────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=st.one_of(st.integers(-7200, 7200), st.integers(0, 30 * 86400)))
    def the_clock_goes(self, seconds: int) -> None:
        """And sometimes back."""
        self.now += timedelta(seconds=seconds)

    @rule(number=st.integers(0, ITEMS - 1), app=st.booleans(), tags=st.sampled_from([(), ("before patch",)]))
    def a_point_arrives(self, number: int, app: bool, tags: tuple[str, ...]) -> None:
        item = self.items[number]
        if not item.replicating:
            return
        self.take(item, Consistency.APP if app else Consistency.CRASH, tags)

    def take(self, item: Item, consistency: Consistency = Consistency.CRASH, tags: tuple[str, ...] = ()) -> None:
        item.taken += 1
        item.points.append(PointInfo(PointId(item.lineage[-1], item.taken), self.now, consistency, tags=tags))

    @rule(number=st.integers(0, ITEMS - 1), phase=st.sampled_from(["seeding", "replicating", "resyncing", "stopped"]))
    def a_report_arrives(self, number: int, phase: str) -> None:
        """A late one too: of a replication that was stopped meanwhile."""
        item = self.items[number]
        before = item.state
        item.state = after_report(item.state, item.direction, phase, running=item.job is not None)
        if before not in (State.PROTECTED, State.REVERSE_PROTECTED, State.RESYNCING):
            assert item.state is before

    @rule(number=st.integers(0, ITEMS - 1))
    def old_points_are_thinned_out(self, number: int) -> None:
        item = self.items[number]
        if not item.replicating:
            return
        before = item.offers()
        gone = set(points_to_prune(item.points, self.now, item.policy().retention))
        item.points = [point for point in item.points if point.id not in gone]
        left = item.offers()
        assert bool(before) == bool(left)
        assert [point for point in left if point.tags] == [point for point in before if point.tags]

    # ── operations ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(number=st.integers(0, ITEMS - 1), data=st.data(), wild=st.booleans())
    def an_operation_begins(self, number: int, data: st.DataObject, wild: bool) -> None:
        """Mostly one that is allowed; else any, which is refused and changes nothing."""
        item = self.items[number]
        allowed = item.allowed()
        lasting = [each for each in allowed if each is not Operation.DISABLE]
        among = list(Operation) if wild or not lasting else lasting
        operation = data.draw(st.sampled_from(among), label="operation")
        if operation in NOT_ASKED_FOR or operation not in allowed:
            with pytest.raises(OperationNotAllowed) as refused:
                require_allowed(
                    operation,
                    item.state,
                    item.direction,
                    has_points=bool(item.offers()),
                    running=item.job is not None,
                )
            assert refused.value.code.startswith("item.")
            assert refused.value.remedy
            return
        self.begin(item, operation)

    @rule(number=st.integers(0, ITEMS - 1), data=st.data(), outcomes=st.lists(OUTCOMES, min_size=1, max_size=6))
    def operations_run_through(self, number: int, data: st.DataObject, outcomes: list[str]) -> None:
        """One after the other, as in a drill or a disaster: what leads far."""
        for outcome in outcomes:
            item = self.items[number]
            if item.job is None:
                among = [each for each in item.allowed() if each is not Operation.DISABLE] or [Operation.DISABLE]
                self.begin(item, data.draw(st.sampled_from(among), label="operation"))
            self.a_job_ends(number, outcome)

    def begin(self, item: Item, operation: Operation) -> None:
        assert item.job is None, "an item takes one operation at a time"
        if operation is Operation.CHANGE_POINT:
            assert item.state is State.FAILOVER_COMMIT_PENDING  # 3
        leads = transition(operation, item.state, item.direction, paused=item.paused)
        item.job = Running(operation, item.state)
        item.state = leads.during or item.state
        item.last_failed = None

    @rule(number=st.integers(0, ITEMS - 1))
    def a_failed_job_is_cancelled(self, number: int) -> None:
        item = self.items[number]
        if item.job is None and item.last_failed is not None:
            back = way_back(item.last_failed, item.state)
            if back is not None:
                self.begin(item, back)

    @rule(number=st.integers(0, ITEMS - 1))
    def a_cancel_is_asked_for(self, number: int) -> None:
        job = self.items[number].job
        if job is not None and job.operation in CANCELLABLE:
            job.cancel = True

    @rule(number=st.integers(0, ITEMS - 1))
    def a_job_goes_on(self, number: int) -> None:
        """The middle of a failover or failback: first replication stops, then a machine is built (4)."""
        item = self.items[number]
        if item.job is None or item.job.operation not in STOPS:
            return
        if not item.job.stopped:
            item.job.stopped, item.replicating = True, False
            item.runs = set()
        else:
            assert not item.replicating
            item.job.built = True

    @rule(number=st.integers(0, ITEMS - 1), outcome=OUTCOMES)
    def a_job_ends(self, number: int, outcome: str) -> None:
        item = self.items[number]
        job = item.job
        if job is None:
            return
        if job.cancel:
            outcome = "undone" if outcome == "done" else outcome
        if outcome == "undone" and not (job.cancel or job.operation in SELF_UNDOING):
            outcome = "failed"
        if job.operation in STOPS and outcome == "done":
            while not job.built:
                self.a_job_goes_on(number)
        leads = transition(job.operation, job.before, item.direction, paused=item.paused)
        after = {"done": leads.done, "failed": leads.failed, "undone": leads.cancelled}[outcome]
        item.job = None
        item.last_failed = job.operation if outcome == "failed" else None
        self.effects(item, job, outcome)
        item.state = after
        assert after not in IN_PROGRESS
        if after is State.UNPROTECTED:
            self.items[number] = Item(number)
            self.protect(self.items[number])

    def effects(self, item: Item, job: Running, outcome: str) -> None:
        """What the workflow of an operation leaves in the world."""
        ended = (job.operation, outcome)
        match ended:
            case (Operation.PROTECT, "done"):
                self.take(item)  # its end waits for the first point
            case (Operation.PROTECT, "failed") | (Operation.DISABLE, _):
                item.replicating = False
            case (Operation.TEST_FAILOVER, _):
                item.test_machine = outcome != "undone"
            case (Operation.CLEANUP, "done"):
                item.test_machine = False
            case (Operation.FAILOVER, "done"):
                item.paused = False
                item.runs = {Direction.REVERSE}
            case (Operation.FAILBACK, "done"):
                item.paused = False
                item.runs = {Direction.FORWARD}
            case (Operation.FAILOVER | Operation.FAILBACK, "failed"):
                item.paused, item.replicating, item.runs = False, False, set()
            case (Operation.CHANGE_POINT | Operation.UNDO | Operation.CANCEL_FAILOVER, "failed"):
                item.runs = set()
            case (Operation.FAILOVER, "undone") | (Operation.UNDO | Operation.CANCEL_FAILOVER, "done"):
                self.goes_on(item, Direction.FORWARD)
            case (Operation.FAILBACK, "undone") | (Operation.CANCEL_FAILBACK, "done"):
                self.goes_on(item, Direction.REVERSE)
            case (Operation.COMMIT, "done"):
                item.points_kept = item.number % 2 == 0
                if not item.points_kept:
                    item.points = []
            case (Operation.REPROTECT, "done"):
                item.direction = Direction.REVERSE if item.direction is Direction.FORWARD else Direction.FORWARD
                item.points_kept, item.replicating = False, True
                self.timeline(item, fork=False)
                self.take(item)
            case (Operation.PAUSE | Operation.RESUME, "done"):
                item.paused = job.operation is Operation.PAUSE
                item.replicating = not item.paused
            case (Operation.COMPLETE_MIGRATION, "done"):
                item.points = []

    def goes_on(self, item: Item, direction: Direction) -> None:
        """The way back: the machine runs where it ran, and replicates in a fork of the timeline."""
        item.runs, item.replicating, item.paused = {direction}, True, False
        self.timeline(item, fork=True)

    # ── what must hold at any time ──────────────────────────────────────────────────────────────────────────────

    @invariant()
    def a_state_has_its_direction(self) -> None:
        for item in self.items:
            assert item.direction in directions_of(item.state)

    @invariant()
    def points_are_offered_in_their_states_only(self) -> None:
        """1: after a commit the list is empty unless points are kept."""
        for item in self.items:
            if item.offers():
                assert item.state in OFFERS_POINTS or item.points_kept
            if item.state in (State.FAILOVER_COMMITTED, State.FAILBACK_COMMITTED):
                assert bool(item.offers()) == item.points_kept
            if item.state in (State.MIGRATED, State.UNPROTECTED):
                assert not item.offers()

    @invariant()
    def a_test_never_touches_replication(self) -> None:
        """2."""
        for item in self.items:
            if item.state in (
                State.TEST_FAILOVER_IN_PROGRESS,
                State.TEST_FAILOVER_CLEANUP_PENDING,
                State.TEST_FAILOVER_CLEANUP_IN_PROGRESS,
            ):
                assert item.replicating != item.paused
                assert item.runs == {Direction.FORWARD}

    @invariant()
    def no_machine_is_built_while_replication_runs(self) -> None:
        """4: it stops first, whatever comes of it, and resumes on cancel or undo."""
        for item in self.items:
            if item.job is not None and item.job.built:
                assert not item.replicating
            if item.state in (State.FAILOVER_COMMIT_PENDING, State.FAILBACK_COMMIT_PENDING):
                assert not item.replicating
            if item.job is None and item.state in REPLICATES - {State.TEST_FAILOVER_CLEANUP_PENDING}:
                assert item.replicating

    @invariant()
    def what_is_allowed_follows_from_what_there_is(self) -> None:
        """6, and an item takes one operation at a time."""
        for item in self.items:
            allowed = item.allowed()
            assert not allowed or item.job is None
            for operation in allowed:
                require_allowed(operation, item.state, item.direction, has_points=bool(item.offers()))
                assert operation not in NOT_ASKED_FOR
            if item.test_machine and item.job is None:
                assert allowed == (Operation.CLEANUP,)
            if item.job is None and item.state is State.PAUSED:
                assert item.paused

    @invariant()
    def every_point_on_offer_can_be_chosen(self) -> None:
        for item in self.items:
            there = item.offers()
            for point in there:
                assert choose_point(there, str(point.id)) == point
            if there:
                assert choose_point(there).id == max(there, key=lambda point: point.id.number).id
            else:
                with pytest.raises(PointNotAvailable):
                    choose_point(there)

    @invariant()
    def there_is_a_way_on(self) -> None:
        """Nothing is stranded: only a migrated item has nothing before it but to be removed."""
        for item in self.items:
            if item.job is not None:
                assert item.state in IN_PROGRESS or transition(item.job.operation, item.state).during is None
                continue
            assert item.state not in IN_PROGRESS
            allowed = item.allowed()
            assert allowed
            if allowed == (Operation.DISABLE,):
                assert item.state in {State.MIGRATED, State.ENABLE_FAILED, State.DISABLE_FAILED}

    @invariant()
    def the_health_tells_the_trouble(self) -> None:
        for item in self.items:
            there = item.offers()
            rpo = rpo_seconds(there[-1].time, self.now) if there and item.state in TRACKS_RPO else None
            policy = item.policy()
            condition = Condition(item.state, rpo, policy.rpo_threshold, silence=1, rpo_critical=policy.critical)
            grade, reasons = health(condition)
            assert (grade is Health.NORMAL) == (not reasons)
            if item.state in FAILED or (rpo is not None and rpo > policy.critical):
                assert grade is Health.CRITICAL
            if item.state is State.PAUSED or (rpo is not None and rpo > policy.rpo_threshold):
                assert grade is not Health.NORMAL

    @invariant()
    def a_machine_runs_once(self) -> None:
        for item in self.items:
            assert len(item.runs) <= 1
            if item.job is None and item.state not in FAILED:
                assert item.runs


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=60)


def walk() -> set[tuple[State, Direction]]:
    """Every state and direction that operations, their outcomes and reports lead to, beginning with none."""
    found = {(State.UNPROTECTED, Direction.FORWARD)}
    todo = list(found)
    while todo:
        state, direction = todo.pop()
        asked = [*allowed_operations(state, direction)]
        if state is State.UNPROTECTED:
            asked.append(Operation.PROTECT)
        asked += {back for failed in Operation if (back := way_back(failed, state)) is not None}
        reached = {
            (after_report(state, direction, phase, running=False), direction) for phase in ("resyncing", "replicating")
        }
        for operation in asked:
            for paused in (False, True):
                leads = transition(operation, state, direction, paused=paused)
                turned = Direction.REVERSE if direction is Direction.FORWARD else Direction.FORWARD
                done = turned if operation is Operation.REPROTECT else direction
                after_disable = operation is Operation.DISABLE
                reached.add((leads.done, Direction.FORWARD if after_disable else done))
                reached |= {(leads.failed, direction), (leads.cancelled, direction)}
                if leads.during is not None:
                    reached.add((leads.during, direction))
        todo += reached - found
        found |= reached
    return found


def test_every_state_is_reached_in_its_directions_and_in_no_other() -> None:
    # Shown by the workflow of protect between its own steps, which no rule leads to.
    expected = {(state, way) for state in State for way in directions_of(state)}
    assert walk() == expected - {(State.INITIAL_REPLICATION_IN_PROGRESS, Direction.FORWARD)}


def test_from_every_state_a_way_leads_back_to_protected() -> None:
    """But from Migrated, which ends."""
    home = {(State.PROTECTED, Direction.FORWARD)}
    ways_to: dict[tuple[State, Direction], set[tuple[State, Direction]]] = {}
    for state, direction in walk():
        if state in IN_PROGRESS:
            continue
        for operation in (*allowed_operations(state, direction), *([Operation.PROTECT] * (state is State.UNPROTECTED))):
            done = transition(operation, state, direction).done
            turned = direction if operation is not Operation.REPROTECT else Direction(_other(direction))
            after = (done, Direction.FORWARD if done is State.UNPROTECTED else turned)
            ways_to.setdefault(after, set()).add((state, direction))
        if state is State.RESYNCING:
            after = (after_report(state, direction, "replicating", running=False), direction)
            ways_to.setdefault(after, set()).add((state, direction))
    reached, todo = set(home), list(home)
    while todo:
        for before in ways_to.get(todo.pop(), set()) - reached:
            reached.add(before)
            todo.append(before)
    assert reached == {pair for pair in walk() if pair[0] not in IN_PROGRESS}


def _other(direction: Direction) -> Direction:
    return Direction.REVERSE if direction is Direction.FORWARD else Direction.FORWARD
