"""Replication policies: their values, whether these are in range, and the failback policy that is made from each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.limits import LIMITS, Limits, Profile
from homeport.domain.units import DAY, HOUR, MINUTE

CRITICAL_FACTOR = 2
"""The second threshold of the RPO, where none is given, in multiples of the first."""


class PolicyInvalid(HomeportError):
    """A value is out of its range (reference 4). ``details.problems``: each in words."""

    code = "policy.invalid"


@dataclass(frozen=True)
class Policy:
    """All in seconds. ``app_consistent`` 0: off. ``interval``: between crash-consistent points. ``rpo_critical``: the
    second threshold, None: twice the first. ``generated``: made together with a forward policy, not editable."""

    name: str
    rpo_threshold: int = 60 * MINUTE
    retention: int = DAY
    app_consistent: int = 0
    interval: int = 15
    generated: bool = False
    rpo_critical: int | None = None

    @property
    def critical(self) -> int:
        return CRITICAL_FACTOR * self.rpo_threshold if self.rpo_critical is None else self.rpo_critical

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rpo_critical": self.critical}


def validate(policy: Policy, profile: Profile = Profile.DEFAULT) -> None:
    """Raises :class:`PolicyInvalid`, naming every value that is out of range."""
    found = problems(policy, LIMITS[profile])
    if found:
        strict = " (the profile is strict)" if profile is Profile.STRICT else ""
        raise PolicyInvalid(
            f"The policy is not valid{strict}: {'; '.join(found)}.",
            remedy="Correct the values and try again.",
            problems=found,
            profile=str(profile),
        )


def problems(policy: Policy, limits: Limits) -> list[str]:
    """Every value that is out of range, with its range, in words."""
    found: list[str] = []
    if not limits.name_fits(policy.name):
        found.append(f"name {policy.name!r}: {limits.name_rule}")
    low, high = limits.rpo_threshold
    if not low <= policy.rpo_threshold <= high:
        found.append(f"RPO threshold {policy.rpo_threshold} s: {_span(low)} to {_span(high)}")
    if not policy.rpo_threshold <= policy.critical <= CRITICAL_FACTOR * high:
        found.append(
            f"critical RPO {policy.critical} s: at least the RPO threshold of {policy.rpo_threshold} s, "
            f"at most {_span(CRITICAL_FACTOR * high)}"
        )
    if not 0 <= policy.retention <= limits.retention:
        found.append(f"retention {policy.retention} s: 0 to {_span(limits.retention)}")
    low, high = limits.app_consistent
    if policy.app_consistent and not low <= policy.app_consistent <= high:
        found.append(f"app-consistent frequency {policy.app_consistent} s: 0 (off) or {_span(low)} to {_span(high)}")
    if policy.app_consistent and policy.app_consistent >= policy.retention:
        found.append(f"app-consistent frequency {policy.app_consistent} s: less than the retention")
    low, high = limits.interval
    if not low <= policy.interval <= high:
        found.append(f"interval {policy.interval} s: {_span(low)} to {_span(high)}")
    return found


def _span(seconds: int) -> str:
    """In its largest whole unit."""
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (1, "second")):
        if seconds % unit == 0 and seconds >= unit:
            count = seconds // unit
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return f"{seconds} seconds"


def failback_policy(forward: Policy) -> Policy:
    """The policy of the way home: 15 minutes, 24 hours, 60 minutes; not editable (reference 4)."""
    return Policy(
        name=f"{forward.name}-failback",
        rpo_threshold=15 * MINUTE,
        retention=DAY,
        app_consistent=HOUR,
        interval=forward.interval,
        generated=True,
    )
