"""Checks of the recovery store: can it be reached, is there room, does it lie apart from the machine."""

from __future__ import annotations

from homeport.domain.checks.check import STARTS, Found, Severity, Unknown, check
from homeport.domain.checks.facts import Facts, size
from homeport.domain.operations import Operation
from homeport.domain.states import State
from homeport.domain.units import MiB

LEAST_FREE = 256 * MiB
"""Below this not even the indexes of some hours fit."""

_WRITES = (Operation.PROTECT, Operation.REPROTECT)


@check(
    code="check.store-unreachable",
    title="The recovery store can be reached",
    severity=Severity.ERROR,
    refuses=(*_WRITES, *STARTS, Operation.FAILBACK),
    causes=("Its disk is not mounted.", "The storage, or the network to it, is down.", "Its credentials are wrong."),
    remedy="Mend what is named: no machine can be started from points that can't be read.",
)
def store_unreachable(facts: Facts) -> Found | Unknown | None:
    store = facts.store_site.store
    if store.reachable is None:
        return Unknown(f"whether the store of site {facts.store_site.name!r} can be reached")
    if store.reachable:
        return None
    why = f": {store.why}" if store.why else ""
    return Found(f"the store of site {facts.store_site.name!r} can't be read{why}", "it answers", impossible=True)


@check(
    code="check.store-full",
    title="Room in the recovery store",
    severity=Severity.ERROR,
    refuses=_WRITES,
    causes=("Points are kept for long, or the machine writes much.", "Something else fills that disk."),
    remedy="Free space there, or shorten the policy's retention; replication goes on by itself.",
)
def store_full(facts: Facts) -> Found | Unknown | None:
    """Object storage has no such number. A first copy needs at most what the disks hold."""
    site, free = facts.store_site, facts.store_site.store.free
    if free is None:
        return None
    if free < LEAST_FREE:
        return Found(f"{size(free)} are free in the store of site {site.name!r}", f"{size(LEAST_FREE)} at least")
    if facts.operation in _WRITES and free < facts.disk_bytes:
        return Found(
            f"{size(free)} are free in the store of site {site.name!r}",
            f"up to {size(facts.disk_bytes)} for the first copy",
            severity=Severity.WARNING,
        )
    return None


@check(
    code="check.store-at-own-site",
    title="The recovery store lies apart from the machine",
    severity=Severity.ERROR,
    causes=("The item was rebuilt from a bucket of its own site.", "Both sites are folders of one host."),
    remedy="Keep the other site on hardware of its own: what takes the machine must not take its points.",
)
def store_at_own_site(facts: Facts) -> Found | Unknown | None:
    if not facts.replicates or facts.item.state is State.UNPROTECTED:
        return None
    if facts.item.store == facts.item.active:
        return Found(f"machine and points are at site {facts.item.active!r}", "points at the other site")
    if facts.active.host is not None and facts.active.host == facts.other.host:
        # As in a trial on one machine: the operator knows, so it is told and does not alarm.
        return Found(
            f"sites {facts.home.name!r} and {facts.away.name!r} are on one host",
            "sites that don't fail together",
            severity=Severity.INFO,
        )
    return None
