"""Checks of the recovery points: are there any, are they recent, has one of them been tried."""

from __future__ import annotations

from homeport.domain.checks.check import Found, Severity, Unknown, check
from homeport.domain.checks.facts import PLANNED_FAILOVER, Facts, age, span
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.domain.states import Direction, State
from homeport.domain.units import DAY, HOUR

DRILL_EVERY = 90 * DAY
"""Days after which a test failover is outdated (reference 12, F85)."""

CLEAN_UP_WITHIN = 7 * DAY
FIRST_POINT_WITHIN = DAY


@check(
    code="78144",
    title="App-consistent points are made",
    severity=Severity.WARNING,
    causes=(
        "The guest agent does not run in the guest.",
        "Its freeze takes longer than 10 s, or one of its hooks fails.",
    ),
    remedy="See that the guest agent runs, then `homeport point ITEM --app-consistent`; its notes tell what fails.",
    also="The guest agent did not freeze the guest's file systems in time where only an app-consistent point would "
    "do; they are thawed, and points become crash-consistent.",
)
def app_consistent_points(facts: Facts) -> Found | Unknown | None:
    """Two frequencies: one attempt may fail in a guest that is busy."""
    every = facts.policy.app_consistent if facts.policy is not None else 0
    if not every or not facts.replicates:
        return None
    limit = 2 * every
    newest = max((p.time for p in facts.points if p.consistency is Consistency.APP), default=facts.item.created)
    passed = (facts.now - newest).total_seconds()
    if passed <= limit:
        return None
    return Found(f"no app-consistent point in the last {span(passed)}", f"one every {span(every)}")


@check(
    code="check.points-old",
    title="There is a recent recovery point",
    severity=Severity.ERROR,
    before=(Operation.TEST_FAILOVER, Operation.FAILOVER, PLANNED_FAILOVER, Operation.FAILBACK),
    causes=("Replication has been standing still.", "The clock of the site where the machine runs is behind."),
    remedy="`homeport status ITEM` tells what keeps replication; what was written since the newest point is at stake.",
)
def points_old(facts: Facts) -> Found | Unknown | None:
    """Before an operation it is the critical RPO threshold; in between, when health tells of that, the retention."""
    if facts.policy is None or not facts.points or not facts.replicates:
        return None
    retention = max(facts.policy.retention, HOUR)
    limit = retention if facts.operation is None else facts.policy.critical
    passed = age(facts.now, facts.points[-1].time) or 0.0
    if passed <= limit:
        return None
    return Found(f"the newest point is of {span(passed)} ago", f"one of the last {span(limit)}")


@check(
    code="78169",
    title="Replication has made a first point",
    severity=Severity.ERROR,
    causes=(
        "The first copy takes long: much data, or a slow line.",
        "Replication is interrupted again and again.",
    ),
    remedy="`homeport status ITEM` shows how far it is and what it reports.",
)
def first_point(facts: Facts) -> Found | Unknown | None:
    passed = age(facts.now, facts.item.created) or 0.0
    if not facts.replicates or facts.points or passed <= FIRST_POINT_WITHIN:
        return None
    return Found(f"no recovery point {span(passed)} after the machine was protected", "one within a day")


@check(
    code="check.drill-overdue",
    title="A test failover was made lately",
    severity=Severity.WARNING,
    causes=("Nobody has tried it; only a test that was cleaned up counts.",),
    remedy="`homeport test-failover ITEM`, look at the machine, then `homeport cleanup ITEM`. Production goes on.",
)
def drill_overdue(facts: Facts) -> Found | Unknown | None:
    if facts.item.direction is not Direction.FORWARD or facts.item.state not in (State.PROTECTED, State.RESYNCING):
        return None
    passed = age(facts.now, facts.item.tested or facts.item.created) or 0.0
    if passed <= DRILL_EVERY:
        return None
    found = "no test failover since the machine was protected" if facts.item.tested is None else "the last one was"
    return Found(f"{found} {span(passed)} ago", f"one every {span(DRILL_EVERY)}")


@check(
    code="check.test-left",
    title="Test machines are cleaned up",
    severity=Severity.WARNING,
    causes=("The test was forgotten.",),
    remedy="`homeport cleanup ITEM`: its machine holds a recovery point, and no failover begins before.",
)
def test_left(facts: Facts) -> Found | Unknown | None:
    if facts.item.state is not State.TEST_FAILOVER_CLEANUP_PENDING:
        return None
    if facts.item.test_began is None:
        return Unknown("when the test failover was begun")
    passed = age(facts.now, facts.item.test_began) or 0.0
    if passed <= CLEAN_UP_WITHIN:
        return None
    return Found(f"the test machine is there since {span(passed)}", f"cleaned up within {span(CLEAN_UP_WITHIN)}")
