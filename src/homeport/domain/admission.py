"""How many jobs may be at work at a site at once, and which of those that wait may begin.

Only what loads a site for long is limited: copying disks (one limit), and failovers (one of their own, so that no
failover ever waits for a copy). All else begins at once. Who is over the limit waits in order; nobody is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from homeport.domain.errors import HomeportError
from homeport.domain.operations import Operation

LARGEST_LIMIT = 1000


class Lane(StrEnum):
    """What shares a limit."""

    DATA_MOVING = "data-moving"
    FAILOVER = "failover"


LANES: dict[str, Lane] = {
    Operation.PROTECT: Lane.DATA_MOVING,
    Operation.REPROTECT: Lane.DATA_MOVING,
    Operation.FAILBACK: Lane.DATA_MOVING,
    Operation.COMPLETE_MIGRATION: Lane.DATA_MOVING,
    Operation.FAILOVER: Lane.FAILOVER,
}
"""Ways back (cancel-failover, undo …) are in none: they never wait."""


class LimitsInvalid(HomeportError):
    code = "vault.limits-invalid"
    remedy = f"Give whole numbers from 1 to {LARGEST_LIMIT}."


@dataclass(frozen=True)
class Limits:
    """Jobs at work at one site at once."""

    data_moving: int = 4
    failovers: int = 16

    def of(self, lane: Lane) -> int:
        return self.data_moving if lane is Lane.DATA_MOVING else self.failovers

    def check(self) -> None:
        """Raises :class:`LimitsInvalid`."""
        for name, value in (("data_moving", self.data_moving), ("failovers", self.failovers)):
            if not 1 <= value <= LARGEST_LIMIT:
                raise LimitsInvalid(f"The limit {name} is {value}.", limit=name, value=value)


@dataclass(frozen=True)
class Contender:
    """A job that is at work or waits to begin; it loads both of its sites."""

    job: str
    kind: str
    sites: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """Whether a waiting job may begin; if not, the site that is full (None: free, but the job is not the first in the
    queue for its sites), and how many wait before it."""

    job: str
    admitted: bool
    site: str | None = None
    limit: int = 0
    before: int = 0


def judge(at_work: Iterable[Contender], waiting: Iterable[Contender], limits: Limits) -> list[Verdict]:
    """Who of ``waiting`` (in order) may begin beside those ``at_work``. A job that must wait keeps its sites from all
    that come after it in its lane, so that none waits for ever."""
    load: Counter[tuple[Lane, str]] = Counter()
    for job in at_work:
        if (lane := LANES.get(job.kind)) is not None:
            load.update((lane, site) for site in job.sites)
    queued: list[tuple[Lane, Contender]] = []
    verdicts = []
    for job in waiting:
        lane = LANES.get(job.kind)
        if lane is None:
            verdicts.append(Verdict(job.job, True))
            continue
        limit = limits.of(lane)
        before = sum(1 for other, earlier in queued if other is lane and earlier.sites & job.sites)
        full = next((site for site in sorted(job.sites) if load[lane, site] >= limit), None)
        if full is None and not before:
            load.update((lane, site) for site in job.sites)
            verdicts.append(Verdict(job.job, True))
        else:
            queued.append((lane, job))
            verdicts.append(Verdict(job.job, False, full, limit, before))
    return verdicts
