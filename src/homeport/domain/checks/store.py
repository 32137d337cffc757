"""Checks of the recovery store: can it be reached, is there room, does it lie apart from the machine."""

from __future__ import annotations

from pathlib import PurePosixPath

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
    causes=(
        "The item was rebuilt from a bucket of its own site.",
        "The other site's store was set into the folder of this one.",
        "Both sites are folders of one host.",
    ),
    remedy="Keep the other site on hardware of its own: what takes the machine must not take its points.",
)
def store_at_own_site(facts: Facts) -> Found | Unknown | None:
    if not facts.replicates or facts.item.state is State.UNPROTECTED:
        return None
    if facts.item.store == facts.item.active:
        return Found(f"machine and points are at site {facts.item.active!r}", "points at the other site")
    if _inside(facts):
        return Found(
            f"the store of site {facts.other.name!r} lies in the folder of site {facts.active.name!r}, where the "
            f"machine runs",
            "points outside of that folder",
        )
    if _one_host(facts):
        # As in a trial on one machine: the operator knows, so it is told and does not alarm.
        return Found(
            f"sites {facts.home.name!r} and {facts.away.name!r} are on one host",
            "sites that don't fail together",
            severity=Severity.INFO,
        )
    return None


def _one_host(facts: Facts) -> bool:
    return facts.active.host is not None and facts.active.host == facts.other.host


def _inside(facts: Facts) -> bool:
    """Paths say something of each other on one host only."""
    folder, store = facts.active.folder, facts.other.store.path
    if not _one_host(facts) or folder is None or not folder.path or store is None:
        return False
    return PurePosixPath(store).is_relative_to(folder.path)


@check(
    code="check.vault-at-source",
    title="The vault lies apart from the machine",
    severity=Severity.ERROR,
    causes=("The vault runs on the host of the site where the machine runs.",),
    remedy="Run the vault at the other site, or on a host of its own: what takes the machine must not take the vault. "
    "Until then keep the recovery passphrase at hand: `homeport vault restore` makes a lost vault again.",
)
def vault_at_source(facts: Facts) -> Found | Unknown | None:
    """Of a vault on another host of the same site nothing can be known here. Where both sites are on one host, the
    other check tells it."""
    if not facts.replicates or facts.item.state is State.UNPROTECTED or facts.vault_host is None:
        return None
    if facts.active.host is None:
        return Unknown(f"on which host site {facts.active.name!r} is")
    if facts.vault_host != facts.active.host or _one_host(facts):
        return None
    return Found(f"the vault runs on the host of site {facts.active.name!r}", "a vault that survives that site")
