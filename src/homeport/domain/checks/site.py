"""Checks of sites: are they there, is there room for one machine more, may Homeport do its work there."""

from __future__ import annotations

from homeport.domain.checks.check import STARTS, Found, Severity, Unknown, check
from homeport.domain.checks.facts import PLANNED_FAILOVER, Facts, SiteFacts, age, size, span
from homeport.domain.health import SILENT
from homeport.domain.machines import Machine, Power
from homeport.domain.operations import Operation
from homeport.domain.process_servers import Grade, judge
from homeport.domain.states import State
from homeport.domain.units import DAY, MINUTE, GiB, MiB

HEARTBEAT = 15 * MINUTE
"""Silence after which a process server's heartbeat counts as missing (reference 1.4)."""

CLOCK_SKEW = 5 * MINUTE
"""What set-up of the original refuses (reference 1.3)."""

OLD = DAY
"""Age of facts by which nothing should be judged any more."""

LEAST_DISK = 256 * MiB
"""A machine that was just started writes its logs, its overlay's header and what the guest writes at boot."""

START = (Operation.TEST_FAILOVER, PLANNED_FAILOVER, Operation.FAILBACK)
"""A machine is started, and it can wait until there is room."""


@check(
    code="8038",
    title="Memory to start the machine",
    severity=Severity.WARNING,
    refuses=(*START, Operation.FAILOVER),
    causes=("Other machines run there.", "The host has too little memory for this machine."),
    remedy="Stop other machines at the site, give its host more memory, or give the machine less.",
)
def memory_at_target(facts: Facts) -> Found | Unknown | None:
    """A failover is refused only where the whole of the host's memory does not do: memory in use may be given up, and
    a guest takes its own bit by bit."""
    target, needed = facts.target, facts.machine.memory
    if facts.operation is None and not facts.replicates:
        return None
    if target.free_memory is None:
        return Unknown(f"how much memory is free at site {target.name!r}")
    if needed <= target.free_memory:
        return None
    found = f"{size(target.free_memory)} are free at site {target.name!r}"
    if target.total_memory is not None:
        found += f", of {size(target.total_memory)} in all"
    impossible = target.total_memory is not None and needed > target.total_memory
    return Found(found, f"{size(needed)} for {facts.machine.name}", impossible=impossible)


def _used(target: SiteFacts, facts: Facts) -> list[Machine]:
    """What runs at the target; without the machine itself, which is about to be started there."""
    running = [machine for machine in target.machines or () if machine.power in (Power.RUNNING, Power.PAUSED)]
    return [machine for machine in running if machine.name != facts.machine.name]


@check(
    code="28031",
    title="Quota, processors and disk for the machine",
    severity=Severity.WARNING,
    before=(Operation.FAILOVER, Operation.PROTECT),
    refuses=START,
    causes=("The quota of the site is used up.", "The site's disk is nearly full."),
    remedy="Raise the quota (`limits.toml` in the site's folder), stop other machines, or free space there.",
)
def quota_at_target(facts: Facts) -> Found | Unknown | None:
    target, machine, quota = facts.target, facts.machine, facts.target.quota
    running = _used(target, facts)
    short: list[tuple[str, str]] = []
    if quota.memory is not None and (used := sum(one.memory for one in running)) + machine.memory > quota.memory:
        short.append((f"{size(used)} of {size(quota.memory)} memory are used", f"{size(machine.memory)} more"))
    if quota.cpus is not None and (used := sum(one.cpus for one in running)) + machine.cpus > quota.cpus:
        short.append((f"{used} of {quota.cpus} processors are used", f"{machine.cpus} more"))
    if quota.machines is not None and len(running) + 1 > quota.machines:
        short.append((f"{len(running)} of {quota.machines} machines run", "1 more"))
    if target.free_disk is not None and target.free_disk < LEAST_DISK:
        short.append((f"{size(target.free_disk)} of disk are free", f"{size(LEAST_DISK)} at least"))
    if short:
        found, expected = ("; ".join(part) for part in zip(*short, strict=True))
        return Found(f"at site {target.name!r}: {found}", expected)
    if quota.wrong:
        return Unknown(f"the quota of site {target.name!r}; {quota.wrong}")
    if target.free_disk is None:
        return Unknown(f"how much disk is free at site {target.name!r}")
    return None


@check(
    code="check.disk-for-all-data",
    title="Disk for all of the machine's data",
    severity=Severity.WARNING,
    before=(PLANNED_FAILOVER, Operation.FAILOVER),
    causes=("The disk of the recovery site is smaller than the machine's disks together.",),
    remedy="Make room at that site: after a failover the machine's disks are copied there, all but zeroes.",
)
def disk_for_all_data(facts: Facts) -> Found | Unknown | None:
    target = facts.target
    if target is facts.home or target.free_disk is None or target.free_disk >= facts.disk_bytes:
        return None
    return Found(
        f"{size(target.free_disk)} of disk are free at site {target.name!r}",
        f"up to {size(facts.disk_bytes)} once the machine runs there",
    )


@check(
    code="check.fewer-processors",
    title="As many processors as the machine has",
    severity=Severity.WARNING,
    before=STARTS,
    causes=("The host of the recovery site is smaller.",),
    remedy="Nothing, if it may be slow there; else another host.",
)
def fewer_processors(facts: Facts) -> Found | Unknown | None:
    target = facts.target
    if target.cpus is None:
        return Unknown(f"how many processors site {target.name!r} has")
    if facts.machine.cpus <= target.cpus:
        return None
    return Found(f"site {target.name!r} has {target.cpus}", f"{facts.machine.cpus} for {facts.machine.name}")


@check(
    code="check.no-acceleration",
    title="The recovery site runs guests as fast as the machine's own",
    severity=Severity.WARNING,
    before=(Operation.TEST_FAILOVER, PLANNED_FAILOVER),
    causes=("KVM is not there, or not allowed, at the recovery site.",),
    remedy="Enable virtualization in the host's firmware, and let Homeport's user open /dev/kvm.",
)
def no_acceleration(facts: Facts) -> Found | Unknown | None:
    there, here = facts.target.accelerator, facts.active.accelerator
    if there is None:
        return Unknown(f"how site {facts.target.name!r} runs its guests")
    if there == "kvm" or here != "kvm":
        return None
    return Found(f"site {facts.target.name!r} emulates processors ({there})", "KVM, as where the machine runs")


def _silence(site: SiteFacts) -> str:
    return "was never heard of" if site.silence is None else f"was last heard of {span(site.silence)} ago"


@check(
    code="806",
    title="The process server's heartbeat",
    severity=Severity.ERROR,
    refuses=(Operation.REPROTECT, PLANNED_FAILOVER),
    causes=("Homeport does not run at that site.", "The network between it and the vault is broken."),
    remedy="Start Homeport at that site, or mend the network; changes stay tracked at the machine meanwhile.",
)
def process_server_heartbeat(facts: Facts) -> Found | Unknown | None:
    """In between it is 15 minutes, as in the original; the item's health tells of 30 seconds."""
    site, limit = facts.active, HEARTBEAT if facts.operation is None else SILENT
    if facts.operation is None and not facts.replicates:
        return None
    if site.silence is not None and site.silence <= limit:
        return None
    return Found(f"the process server of site {site.name!r} {_silence(site)}", f"a word within {span(limit)}")


@check(
    code="check.process-server-health",
    title="A process server in good health",
    severity=Severity.WARNING,
    before=(Operation.REPROTECT, PLANNED_FAILOVER),
    refuses=(Operation.PROTECT,),
    causes=("It has too much to do.", "Its cache fills up: the link is slow, limited or cut.", "It does not run."),
    remedy="`homeport server show NAME` says what it lacks, and which items another would better have: `homeport "
    "process-server switch ITEM --to NAME`.",
)
def process_server_health(facts: Facts) -> Found | Unknown | None:
    """One that is critical can't be picked for a new item; where another is not, that one is."""
    judged = [(server.name, *judge(server)) for server in facts.active.process_servers]
    worse = [(name, grade, why) for name, grade, why in judged if grade is not Grade.HEALTHY]
    if not worse:
        return None
    usable = any(grade is not Grade.CRITICAL for _, grade, _ in judged)
    found = "; ".join(f"{name} is {grade} ({', '.join(why)})" for name, grade, why in worse)
    return Found(found, "one that isn't critical", severity=Severity.WARNING if usable else None)


@check(
    code="check.target-silent",
    title="The recovery site's configuration server is there",
    severity=Severity.ERROR,
    before=(Operation.FAILOVER,),
    refuses=(Operation.PROTECT, Operation.TEST_FAILOVER, PLANNED_FAILOVER),
    causes=("Homeport does not run at that site.", "The network between it and the vault is broken."),
    remedy="Start Homeport at that site, or mend the network: without it the machine can't be started there.",
)
def target_silent(facts: Facts) -> Found | Unknown | None:
    site, limit = facts.target, HEARTBEAT if facts.operation is None else SILENT
    if site is facts.home or (site.silence is not None and site.silence <= limit):
        return None
    return Found(f"the configuration server of site {site.name!r} {_silence(site)}", f"a word within {span(limit)}")


@check(
    code="check.clock-skew",
    title="The clocks agree",
    severity=Severity.WARNING,
    before=(Operation.PROTECT, Operation.REPROTECT),
    causes=("Time synchronization (NTP) does not run at one of the sites, or at the vault.",),
    remedy="Synchronize the clocks: the times of recovery points, and the RPO, are those of the site's clock.",
)
def clock_skew(facts: Facts) -> Found | Unknown | None:
    wrong = []
    for site in (facts.home, facts.away):
        if site.clock is None or site.received is None:
            return Unknown(f"what the clock of site {site.name!r} shows")
        ahead = (site.clock - site.received).total_seconds()
        if abs(ahead) > CLOCK_SKEW:
            wrong.append(f"that of site {site.name!r} is {span(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}")
    if not wrong:
        return None
    return Found(f"against the vault's clock, {' and '.join(wrong)}", f"at most {span(CLOCK_SKEW)} apart")


PRIVILEGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "write-folder": (
        "write into the site's folder",
        ("protect", "test-failover", "failover", "failback"),
        ("replication", "reprotect"),
    ),
    "run-qemu": ("run qemu-system-x86_64", ("test-failover", "failover", "failback"), ()),
    "run-qemu-img": ("run qemu-img", ("test-failover", "failover"), ()),
    "user-network": ("give machines a network of user mode", ("test-failover", "failover", "failback"), ()),
    "open-kvm": ("open /dev/kvm", (), ()),
}
"""What a site's credentials are for: in words; what breaks without it where the machine is started, and where it
runs."""


@check(
    code="check.privilege-missing",
    title="Homeport may do its work at both sites",
    severity=Severity.ERROR,
    refuses=(Operation.PROTECT, *STARTS, Operation.REPROTECT, Operation.FAILBACK),
    causes=("Homeport runs as a user that may not do it.", "A program is not installed at that site."),
    remedy="Give Homeport's user the right that is named, or install the program; then `homeport check ITEM`.",
)
def privilege_missing(facts: Facts) -> Found | Unknown | None:
    occasion = None if facts.operation is None else str(facts.operation)
    missing: list[str] = []
    breaks: set[str] = set()
    for site in (facts.target, facts.active) if facts.target is not facts.active else (facts.target,):
        if site.privileges is None:
            return Unknown(f"what Homeport may do at site {site.name!r}")
        for name, privilege in site.privileges.items():
            words, at_target, at_active = PRIVILEGES.get(name, (name, (), ()))
            broken = at_target if site is facts.target else at_active
            if name == "user-network" and not facts.machine.nics:
                continue
            if privilege.held or not broken or (occasion is not None and occasion not in broken):
                continue
            breaks.update(broken)
            why = f" ({privilege.why})" if privilege.why else ""
            missing.append(f"at site {site.name!r} Homeport can't {words}{why}, which breaks {', '.join(broken)}")
    if not missing:
        return None
    return Found("; ".join(missing), f"all rights for {occasion or ', '.join(sorted(breaks))}", impossible=True)


@check(
    code="check.facts-old",
    title="What is known of the sites is recent",
    severity=Severity.INFO,
    causes=("The site was silent for long.",),
    remedy="Bring the site back, then `homeport check ITEM`: it asks both sites.",
)
def facts_old(facts: Facts) -> Found | Unknown | None:
    if facts.item.state is State.UNPROTECTED:
        return None
    old = []
    for site in (facts.home, facts.away):
        known = age(facts.now, site.received)
        if known is None or known > OLD:
            old.append(f"{site.name!r} told {'nothing yet' if known is None else f'its facts {span(known)} ago'}")
    return Found(f"site {', site '.join(old)}", f"within {span(OLD)}") if old else None


@check(
    code="check.cache-low",
    title="Room for points that wait to be shipped",
    severity=Severity.WARNING,
    before=(Operation.PROTECT, Operation.REPROTECT),
    causes=("The disk of the process server's cache is nearly full.",),
    remedy="Free space there: a full cache stops new recovery points until earlier ones are shipped.",
)
def cache_low(facts: Facts) -> Found | Unknown | None:
    cache = facts.active.cache
    if cache is None or cache.free is None:
        return Unknown(f"how much room the cache of site {facts.active.name!r} has")
    if cache.free >= GiB:
        return None
    return Found(f"{size(cache.free)} are free for the cache of site {facts.active.name!r}", f"{size(GiB)} at least")
