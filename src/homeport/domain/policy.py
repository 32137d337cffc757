"""Replication policies: their values, the ranges of these, and the failback policy that is made from each."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.units import DAY, HOUR, MINUTE

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


class PolicyInvalid(HomeportError):
    """A value is out of its range (reference 4)."""

    code = "policy.invalid"


@dataclass(frozen=True)
class Policy:
    """All in seconds. ``app_consistent`` 0: off. ``interval``: between crash-consistent points. ``generated``: made
    together with a forward policy, not editable."""

    name: str
    rpo_threshold: int = 60 * MINUTE
    retention: int = DAY
    app_consistent: int = 0
    interval: int = 15
    generated: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def validate(policy: Policy) -> None:
    """Raises :class:`PolicyInvalid`, naming every value that is out of range."""
    found: list[str] = []
    if not _NAME.match(policy.name):
        found.append(f"name {policy.name!r}: letters, digits, dots, dashes and underscores, at most 63")
    if policy.rpo_threshold < MINUTE:
        found.append(f"RPO threshold {policy.rpo_threshold} s: at least 1 minute")
    if not 0 <= policy.retention <= 15 * DAY:
        found.append(f"retention {policy.retention} s: 0 to 15 days")
    if policy.app_consistent and not HOUR <= policy.app_consistent <= 12 * HOUR:
        found.append(f"app-consistent frequency {policy.app_consistent} s: 0 (off) or 1 to 12 hours")
    if policy.app_consistent and policy.app_consistent >= policy.retention:
        found.append(f"app-consistent frequency {policy.app_consistent} s: less than the retention")
    if not 1 <= policy.interval <= 15 * MINUTE:
        found.append(f"interval {policy.interval} s: 1 second to 15 minutes")
    if found:
        raise PolicyInvalid(
            f"The policy is not valid: {'; '.join(found)}.", remedy="Correct the values and try again.", problems=found
        )


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
