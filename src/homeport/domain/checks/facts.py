"""What checks look at: a tree of frozen facts, gathered by the vault. None is "not known" wherever it is allowed.

Sizes in bytes, spans in seconds, instants in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from homeport.domain.churn import Traffic
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation
from homeport.domain.points import PointInfo
from homeport.domain.policy import Policy
from homeport.domain.process_servers import Vitals
from homeport.domain.states import REPLICATES, Direction, State
from homeport.domain.units import MINUTE

PLANNED_FAILOVER = "planned-failover"
"""A failover that must lose nothing, and is undone at any error: it can wait for what is in its way."""

FRESH = 1 * MINUTE
"""How old facts may be to refuse a failover."""


@dataclass(frozen=True)
class Quota:
    """What the site's operator allows its running machines, all together; None: no limit. ``wrong``: why a limit that
    was meant to be set is not."""

    memory: int | None = None
    cpus: int | None = None
    machines: int | None = None
    wrong: str = ""


@dataclass(frozen=True)
class Privilege:
    """Whether the site's credentials may do something, as it was tried; ``why``: what came of it."""

    held: bool
    why: str = ""


@dataclass(frozen=True)
class Drive:
    """A volume. ``device``: equal for two folders on one volume; ``filesystem``: its type, in lower case."""

    path: str = ""
    free: int | None = None
    total: int | None = None
    device: str | None = None
    filesystem: str | None = None
    writable: bool | None = None


@dataclass(frozen=True)
class Store:
    """A site's recovery store. ``free``, ``path``: None where the storage has no such thing (object storage)."""

    reachable: bool | None = None
    why: str = ""
    free: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class SiteFacts:
    """A site as it was last heard of. ``received``: when these facts came; ``clock``: what its clock showed then.
    ``silence``: since its configuration server was heard of. ``machines``: its inventory, of the time ``inventoried``.
    """

    name: str
    silence: float | None = None
    received: datetime | None = None
    clock: datetime | None = None
    host: str | None = None
    free_memory: int | None = None
    total_memory: int | None = None
    cpus: int | None = None
    free_disk: int | None = None
    accelerator: str | None = None
    quota: Quota = field(default_factory=Quota)
    privileges: Mapping[str, Privilege] | None = None
    networks: tuple[str, ...] | None = None
    store: Store = field(default_factory=Store)
    retention: Drive | None = None
    cache: Drive | None = None
    process_servers: tuple[Vitals, ...] = ()
    folder: Drive | None = None
    machines: tuple[Machine, ...] | None = None
    inventoried: datetime | None = None

    def machine(self, name: str) -> Machine | None:
        return next((machine for machine in self.machines or () if machine.name == name), None)


@dataclass(frozen=True)
class ItemFacts:
    """``timelines``: all that were ever made for it. ``replication_error``: code and words of what its replication
    reports; ``traffic``: what it tells of its disks.
    ``tested``, ``test_began``: the end of its last cleaned up test, the beginning of one that is not."""

    name: str
    state: State
    direction: Direction
    active: str
    store: str
    created: datetime
    timelines: frozenset[str] = frozenset()
    replication_error: tuple[str, str] | None = None
    traffic: Traffic = field(default_factory=Traffic)
    tested: datetime | None = None
    test_began: datetime | None = None


@dataclass(frozen=True)
class Facts:
    """``original``, ``recovered``: the machine as it is at home, and as it shall be away. ``points``: those offered,
    oldest first. ``operation`` None: looked at in between. ``network``, ``forward``: asked for by a test failover.
    ``passphrase_confirmed``: that of the vault; ``vault_host``: that it lives on, None: not known, or on no single one.
    """

    now: datetime
    original: Machine
    recovered: Machine
    home: SiteFacts
    away: SiteFacts
    item: ItemFacts
    policy: Policy | None
    points: tuple[PointInfo, ...] = ()
    passphrase_confirmed: bool = True
    vault_host: str | None = None
    operation: Operation | None = None
    planned: bool = False
    network: str | None = None
    forward: tuple[str, ...] = ()

    @property
    def occasion(self) -> str | None:
        if self.operation is Operation.FAILOVER and self.planned:
            return PLANNED_FAILOVER
        return None if self.operation is None else str(self.operation)

    @property
    def active(self) -> SiteFacts:
        """Where the machine runs."""
        return self.away if self.item.active == self.away.name else self.home

    @property
    def other(self) -> SiteFacts:
        return self.home if self.active is self.away else self.away

    @property
    def target(self) -> SiteFacts:
        """Where the operation starts the machine, or the next one will."""
        if self.operation in (Operation.TEST_FAILOVER, Operation.FAILOVER, Operation.CHANGE_POINT, Operation.PROTECT):
            return self.away
        return self.home if self.operation is Operation.FAILBACK else self.other

    @property
    def store_site(self) -> SiteFacts:
        """Whose store holds the item's points, or will when the operation is done."""
        if self.operation is not None:
            return self.target
        return self.away if self.item.store == self.away.name else self.home

    @property
    def target_is_fresh(self) -> bool:
        ages = (age(self.now, self.target.received), age(self.now, self.target.inventoried))
        return all(found is not None and found <= FRESH for found in ages)

    @property
    def replicates(self) -> bool:
        return self.item.state in REPLICATES

    @property
    def machine(self) -> Machine:
        """As it would be started at the target."""
        return self.original if self.target is self.home else self.recovered

    @property
    def running(self) -> Machine | None:
        """As the site where it runs sees it; None: it doesn't, or was not asked."""
        return self.active.machine((self.original if self.active is self.home else self.recovered).name)

    @property
    def disk_bytes(self) -> int:
        return sum(disk.size for disk in self.machine.disks)

    def ours(self, machine: Machine) -> bool:
        """Whether a machine at the target lies on a recovery point of this item: made by Homeport, to be replaced."""
        origin = machine.extra.get("origin")
        if not isinstance(origin, dict):
            return False
        return str(origin.get("point", "")).split("/")[0] in self.item.timelines


def age(now: datetime, instant: datetime | None) -> float | None:
    """Seconds since; never negative."""
    return None if instant is None else max(0.0, (now - instant).total_seconds())


def size(count: int) -> str:
    """Bytes in words: "1.5 GiB"."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """A duration in words, in its largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
