"""What a check is: a rule over facts, and what an operator is told when it finds something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from homeport.domain.checks.facts import PLANNED_FAILOVER, Facts
from homeport.domain.operations import Operation


class Severity(StrEnum):
    """ERROR refuses the operation that it was found before; in between it makes the item's health critical."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Found:
    """What a rule found wrong. ``severity``: where it differs from its check's. ``impossible``: a failover would fail
    for certain, so that refusing it loses nothing."""

    found: str
    expected: str
    severity: Severity | None = None
    impossible: bool = False


@dataclass(frozen=True)
class Unknown:
    """A fact that the rule needs is not there; that is told, never passed over."""

    what: str


Rule = Callable[[Facts], Found | Unknown | None]


@dataclass(frozen=True)
class Finding:
    """One result, as the operator reads it. ``name``: its check's; two checks may share a code of the original."""

    code: str
    name: str
    severity: Severity
    title: str
    found: str
    expected: str
    causes: tuple[str, ...]
    remedy: str
    unknown: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "severity": str(self.severity), "causes": list(self.causes)}


@dataclass(frozen=True)
class Check:
    """``before``: the occasions (operations, or a planned failover) it is made before; ``refuses``: those of them that
    it refuses. Beside these it is made every 12 hours, with ``severity``. ``also``: where else its code is met."""

    code: str
    name: str
    title: str
    severity: Severity
    before: frozenset[str]
    refuses: frozenset[str]
    causes: tuple[str, ...]
    remedy: str
    rule: Rule
    also: str = ""

    def applies(self, occasion: str | None) -> bool:
        return occasion is None or occasion in self.before

    def judge(self, facts: Facts) -> Finding | None:
        """None: all is well, or the check has nothing to say about such an item."""
        result = self.rule(facts)
        match result:
            case None:
                return None
            case Unknown(what=what):
                return self._finding(Severity.INFO, f"Not known: {what}", "to know it", unknown=True)
            case Found(found=found, expected=expected):
                return self._finding(self._severity(facts, result), found, expected)

    def _severity(self, facts: Facts, result: Found) -> Severity:
        wanted = result.severity or self.severity
        if facts.occasion is None:
            return wanted
        if result.severity is Severity.INFO:
            return wanted
        # A failover is what all this is for: only what makes it impossible, known now, keeps anyone from it.
        certain = facts.occasion != Operation.FAILOVER or (result.impossible and facts.target_is_fresh)
        if facts.occasion in self.refuses and result.severity is not Severity.WARNING and certain:
            return Severity.ERROR
        return Severity.WARNING if wanted is Severity.ERROR else wanted

    def _finding(self, severity: Severity, found: str, expected: str, *, unknown: bool = False) -> Finding:
        return Finding(
            self.code, self.name, severity, self.title, found, expected, self.causes, self.remedy, unknown=unknown
        )


def check(
    *,
    code: str,
    title: str,
    severity: Severity,
    causes: tuple[str, ...],
    remedy: str,
    before: tuple[str, ...] = (),
    refuses: tuple[str, ...] = (),
    also: str = "",
) -> Callable[[Rule], Check]:
    """Makes a rule a check, named like the function. ``before``: beside the occasions in ``refuses``."""

    def make(rule: Rule) -> Check:
        name = getattr(rule, "__name__", code).replace("_", "-")
        occasions = frozenset(map(str, (*before, *refuses)))
        return Check(code, name, title, severity, occasions, frozenset(map(str, refuses)), causes, remedy, rule, also)

    return make


STARTS = (Operation.TEST_FAILOVER, PLANNED_FAILOVER, Operation.FAILOVER)
"""A machine is started at the away site."""
