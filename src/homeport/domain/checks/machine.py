"""Checks of the machine itself: is it there, does it answer, is its name free where it would be recovered."""

from __future__ import annotations

from homeport.domain.checks.check import STARTS, Found, Severity, Unknown, check
from homeport.domain.checks.facts import PLANNED_FAILOVER, Facts
from homeport.domain.churn import DAY_LIMIT, DISK_LIMIT, MACHINE_LIMIT, MB, excess
from homeport.domain.machines import Power
from homeport.domain.operations import Operation
from homeport.domain.states import State


def _inventory_unknown(name: str) -> Unknown:
    return Unknown(f"which machines are at site {name!r}; it was not asked since the item's last operation")


@check(
    code="78093",
    title="The machine runs",
    severity=Severity.WARNING,
    before=(Operation.PROTECT,),
    refuses=(Operation.REPROTECT,),
    causes=("It is shut down or paused.", "It hangs, so that its process does not answer."),
    remedy="Start it at the site where it belongs now (`homeport machine start SITE NAME`), then try again.",
    also="A machine that was to be started ends at once: its cause has the end of its log (`run/qemu.log` in the "
    "machine's folder); mend that, then `homeport job restart JOB`.",
)
def machine_running(facts: Facts) -> Found | Unknown | None:
    if facts.operation is None and not facts.replicates:
        return None
    if facts.active.machines is None:
        return _inventory_unknown(facts.active.name)
    seen = facts.running
    if seen is None or seen.power is Power.RUNNING:
        return None  # one that is not seen at all is the next check's
    return Found(f"{seen.name} at site {facts.active.name!r} is {seen.power}", "it runs")


@check(
    code="95226",
    title="The machine is in reach of its configuration server",
    severity=Severity.ERROR,
    refuses=(Operation.REPROTECT, Operation.FAILBACK),
    causes=(
        "The machine was removed or renamed at that site.",
        "Its process is there and does not answer.",
        "The configuration server there looks after another folder.",
    ),
    remedy="See `homeport machine list SITE` for what that site sees; bring the machine back, then try again.",
)
def machine_in_reach(facts: Facts) -> Found | Unknown | None:
    if facts.operation is None and not facts.replicates:
        return None
    if facts.active.machines is None:
        return _inventory_unknown(facts.active.name)
    seen = facts.running
    if seen is None:
        return Found(
            f"the configuration server of site {facts.active.name!r} sees no machine {facts.item.name}",
            "it sees the machine that runs there",
        )
    if seen.power is Power.UNKNOWN:
        return Found(f"{seen.name} does not answer the configuration server", "it answers")
    return None


@check(
    code="check.machine-obstacles",
    title="Nothing about the machine is in the way of replication",
    severity=Severity.WARNING,
    before=(Operation.REPROTECT,),
    causes=("The machine was changed since it was protected.",),
    remedy="Remove what is named; until then replication may stop at the machine's next start.",
)
def machine_obstacles(facts: Facts) -> Found | Unknown | None:
    seen = facts.running
    if seen is None or not seen.obstacles:
        return None
    return Found(f"{seen.name}: {'; '.join(seen.obstacles)}", "nothing in the way")


@check(
    code="check.guest-agent-missing",
    title="The guest agent answers",
    severity=Severity.WARNING,
    before=(Operation.PROTECT,),
    causes=("The guest agent is not installed in the guest.", "It is not running, or still starting."),
    remedy="Install and start qemu-guest-agent in the guest; until then points are crash-consistent only.",
)
def guest_agent_missing(facts: Facts) -> Found | Unknown | None:
    seen = facts.running
    if facts.policy is None or not facts.policy.app_consistent or seen is None or seen.power is not Power.RUNNING:
        return None
    if seen.guest_agent:
        return None
    return Found(
        f"the guest agent of {seen.name} is not connected", "it answers: the policy wants app-consistent points"
    )


@check(
    code="78052",
    title="The machine's name is free where it would be recovered",
    severity=Severity.ERROR,
    before=(Operation.PROTECT,),  # which refuses it by itself, with `protect.name-taken`
    refuses=STARTS,
    causes=("Another machine of that name was made there.", "A test machine was left behind by hand."),
    remedy="Rename or remove that machine at the site, then try again.",
)
def name_taken(facts: Facts) -> Found | Unknown | None:
    target = facts.target
    if target is facts.home:
        return None  # there it is the original itself
    if target.machines is None:
        return _inventory_unknown(target.name)
    name = facts.machine.name
    names = {
        Operation.TEST_FAILOVER: (f"{name}-test",),
        Operation.FAILOVER: (name,),
    }.get(facts.operation or Operation.PROTECT, (name, f"{name}-test"))
    found = [seen for wanted in names if (seen := target.machine(wanted)) and not facts.ours(seen)]
    if not found:
        return None
    listed = ", ".join(machine.name for machine in found)
    return Found(f"site {target.name!r} has a machine {listed} of another origin", "the name is free", impossible=True)


@check(
    code="78174",
    title="The machine's changes arrive",
    severity=Severity.ERROR,
    before=(Operation.FAILOVER,),
    refuses=(PLANNED_FAILOVER,),
    causes=(
        "The machine is off, or its process is gone.",
        "Its process is held by another program.",
        "There is no room for the replication's scratch files at its site.",
    ),
    remedy="See the cause that replication reports: `homeport status ITEM`.",
)
def source_heartbeat(facts: Facts) -> Found | Unknown | None:
    error = facts.item.replication_error
    if facts.item.state not in (State.PROTECTED, State.RESYNCING, State.REVERSE_PROTECTED) or error is None:
        return None
    code, words = error
    if not code.startswith("source."):
        return None
    return Found(f"replication reports: {words} ({code})", "the machine's changes can be read")


@check(
    code="78188",
    title="The machine changes no more than can be replicated",
    severity=Severity.WARNING,
    causes=(
        "A program writes much that nobody needs replicated: caches, temporary files, a database's dump.",
        "A burst: a backup, an update, a defragmentation. It passes, and so does what waits to be shipped.",
    ),
    remedy="`homeport status ITEM` shows what each disk changes. Wait where it is a burst; else put what need not be "
    "replicated on a disk of its own and leave that out (`--exclude-disk`).",
)
def churn_over_limit(facts: Facts) -> Found | Unknown | None:
    found = excess(facts.item.traffic) if facts.replicates else []
    if not found:
        return None
    disk, machine, day = DISK_LIMIT // MB, MACHINE_LIMIT // MB, DAY_LIMIT / 1e12
    return Found("; ".join(found), f"at most {disk} MB/s of a disk, {machine} MB/s and {day:.0f} TB a day of a machine")
