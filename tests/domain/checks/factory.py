"""Facts by which every check passes; a test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from homeport.domain.checks.facts import Drive, Facts, ItemFacts, Privilege, SiteFacts, Store
from homeport.domain.checks.site import PRIVILEGES
from homeport.domain.machines import Disk, Machine, Nic, Power
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.policy import Policy
from homeport.domain.states import Direction, State
from homeport.domain.units import GiB, TiB

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
TIMELINE = "0123456789abcdef"

WEB = Machine(
    "5b0c2a52-0000-4000-8000-000000000001",
    "web",
    (Disk("disk0", 8 * GiB, "raw"),),
    (Nic("52:54:00:00:00:01", "default", ("8080:80",)),),
    memory=2 * GiB,
    cpus=2,
    power=Power.RUNNING,
    guest_agent=True,
)
OTHER = replace(WEB, uuid="5b0c2a52-0000-4000-8000-000000000009", name="db", nics=())


def ago(**units: float) -> datetime:
    return NOW - timedelta(**units)


def drive(device: str) -> Drive:
    return Drive("/srv", 100 * GiB, TiB, device, "ext4", True)


def site(name: str, *machines: Machine, **changes: Any) -> SiteFacts:
    made = SiteFacts(
        name=name,
        silence=1.0,
        received=ago(seconds=5),
        clock=ago(seconds=4),
        host=f"host of {name}",
        free_memory=8 * GiB,
        total_memory=16 * GiB,
        cpus=8,
        free_disk=100 * GiB,
        accelerator="kvm",
        privileges={privilege: Privilege(True) for privilege in PRIVILEGES},
        networks=("default", "isolated"),
        store=Store(True, "", 100 * GiB),
        retention=drive("8:1"),
        cache=drive("8:2"),
        folder=drive("8:3"),
        machines=machines,
        inventoried=ago(seconds=5),
    )
    return replace(made, **changes)


def point(number: int, time: datetime, consistency: Consistency = Consistency.CRASH) -> PointInfo:
    return PointInfo(PointId(TIMELINE, number), time, consistency)


def forward(operation: Operation | None = None, **changes: Any) -> Facts:
    """Protected: runs at home, points away."""
    facts = Facts(
        now=NOW,
        original=WEB,
        recovered=WEB,
        home=site("east", WEB),
        away=site("west"),
        item=ItemFacts(
            "web", State.PROTECTED, Direction.FORWARD, "east", "west", ago(days=30), frozenset({TIMELINE}),
            tested=ago(days=20),
        ),
        policy=Policy("gold", 900, 86400, 3600, 15),
        points=(point(1, ago(minutes=30), Consistency.APP), point(2, ago(seconds=10))),
        operation=operation,
    )  # fmt: skip
    return replace(facts, **changes)


def made_here(machine: Machine = WEB, name: str = "web") -> Machine:
    """As Homeport makes it from a point of the item."""
    return replace(machine, name=name, extra={"origin": {"point": f"{TIMELINE}/2", "test": name != "web"}})


def failed_over(operation: Operation | None = None, **changes: Any) -> Facts:
    """Committed: runs away, the original is off at home."""
    facts = forward()
    committed = replace(facts.item, state=State.FAILOVER_COMMITTED, active="west")
    home, away = site("east", replace(WEB, power=Power.OFF)), site("west", made_here())
    return replace(
        facts, **{"operation": operation, "item": committed, "home": home, "away": away, "points": (), **changes}
    )


def coming_home(operation: Operation | None = None, **changes: Any) -> Facts:
    """Replicating from away to home."""
    facts = failed_over(operation)
    item = replace(facts.item, state=State.REVERSE_PROTECTED, direction=Direction.REVERSE, store="east")
    return replace(facts, **{"item": item, "points": forward().points, **changes})
