"""The recovery point objective as it stands, and an item's health with its reasons (reference 1.4, 3)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from homeport.domain.churn import CHURN_CODE
from homeport.domain.policy import CRITICAL_FACTOR
from homeport.domain.states import FAILED, REPLICATES, State

SILENT = 30.0
"""Seconds without a word from the active site's configuration server, after which nobody knows how the item is."""


class Health(StrEnum):
    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


def rpo_seconds(newest_complete: datetime | None, now: datetime) -> float | None:
    """What would be lost if the machine vanished now: seconds since the newest point that is complete in the store.

    None while there is no such point. Never negative: a source's clock ahead of ours is not a negative loss.
    """
    return None if newest_complete is None else max(0.0, (now - newest_complete).total_seconds())


@dataclass(frozen=True)
class Rounds:
    """What the site tells of the rounds of an item's group. ``age``: seconds since the last instant that it shared with
    the others, None: never; ``trouble``: why its last point is of no such instant."""

    group: str
    age: float | None
    trouble: str | None = None


@dataclass(frozen=True)
class Condition:
    """What health is judged by. Seconds; ``rpo_critical``: the second threshold (None: twice the first); ``silence``:
    since the active site's configuration server was heard of, None if never; ``error``: what replication reports, in
    words."""

    state: State
    rpo: float | None
    rpo_threshold: float
    silence: float | None
    error: str | None = None
    rpo_critical: float | None = None
    configuration: tuple[tuple[Health, str], ...] = ()
    """What the last checks found."""
    rounds: Rounds | None = None
    churn: tuple[str, ...] = ()
    """What changes more than it may, in words."""


def health(condition: Condition) -> tuple[Health, list[str]]:
    """The worst of all findings, and each in words, the worst first. Replication counts only where it should run."""
    findings: list[tuple[Health, str]] = []
    if condition.state in FAILED:
        findings.append((Health.CRITICAL, f"the last operation failed ({condition.state})"))
    if condition.state in REPLICATES:
        findings += _replication(condition)
    elif condition.state is State.PAUSED:
        findings += [*_rpo(condition), (Health.WARNING, "paused: nothing is replicated, the RPO grows")]
    elif condition.state is State.FAILBACK_COMMITTED or condition.state is State.FAILOVER_COMMITTED:
        findings.append((Health.WARNING, "not protected until it is reprotected"))
    findings += condition.configuration
    order = list(Health)
    findings.sort(key=lambda finding: -order.index(finding[0]))
    return (findings[0][0] if findings else Health.NORMAL), [text for _, text in findings]


def _replication(condition: Condition) -> list[tuple[Health, str]]:
    findings: list[tuple[Health, str]] = []
    if condition.silence is None or condition.silence > SILENT:
        since = "yet" if condition.silence is None else f"for {condition.silence:.0f} s"
        findings.append((Health.CRITICAL, f"the active site's configuration server was not heard of {since}"))
    if condition.error:
        findings.append((Health.CRITICAL, f"replication: {condition.error}"))
    findings += [*_rpo(condition), *_rounds(condition)]
    findings += [(Health.WARNING, f"{text} ({CHURN_CODE})") for text in condition.churn]
    if condition.state is State.RESYNCING:
        findings.append((Health.WARNING, "resynchronizing; earlier points can be used"))
    return findings


def _rounds(condition: Condition) -> list[tuple[Health, str]]:
    rounds = condition.rounds
    if rounds is None or (rounds.age is not None and rounds.age <= condition.rpo_threshold):
        return []
    since = "yet" if rounds.age is None else f"for {rounds.age:.0f} s"
    trouble = f" ({rounds.trouble})" if rounds.trouble else ""
    return [(Health.WARNING, f"no recovery point of one instant with the group {rounds.group} {since}{trouble}")]


def _rpo(condition: Condition) -> list[tuple[Health, str]]:
    rpo, warning, critical = condition.rpo, condition.rpo_threshold, condition.rpo_critical
    if critical is None:
        critical = CRITICAL_FACTOR * warning
    if rpo is None or rpo <= warning:
        return []
    grade, threshold = (Health.CRITICAL, critical) if rpo > critical else (Health.WARNING, warning)
    return [(grade, f"RPO {rpo:.0f} s exceeds the {grade} threshold of {threshold:.0f} s")]
