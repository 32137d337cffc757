"""Checks of what the machine is connected to where it would be recovered."""

from __future__ import annotations

from homeport.domain.checks.check import STARTS, Found, Severity, Unknown, check
from homeport.domain.checks.facts import Facts
from homeport.domain.machines import Power
from homeport.domain.operations import Operation


@check(
    code="70038",
    title="The networks that the machine needs exist",
    severity=Severity.WARNING,
    before=(*STARTS, Operation.PROTECT),
    refuses=(Operation.TEST_FAILOVER,),
    causes=("The network was removed or renamed at the recovery site.", "It was never made there."),
    remedy="Make the network at that site, or choose one that is there: `homeport item set ITEM --network NAME`.",
)
def networks_exist(facts: Facts) -> Found | Unknown | None:
    """A test runs on a network of its own; only that one has to be there."""
    target = facts.target
    if facts.operation is Operation.TEST_FAILOVER:
        wanted = {facts.network or "isolated"}
    else:
        wanted = {nic.network for nic in facts.machine.nics}
    if not wanted:
        return None
    if target.networks is None:
        return Unknown(f"which networks site {target.name!r} has")
    missing = sorted(wanted - set(target.networks))
    if not missing:
        return None
    return Found(
        f"site {target.name!r} has no network {', '.join(missing)}; it has {', '.join(target.networks) or 'none'}",
        f"{', '.join(sorted(wanted))} for {facts.machine.name}",
    )


@check(
    code="28092",
    title="The machine's network card can be made",
    severity=Severity.WARNING,
    refuses=STARTS,
    causes=("Another machine that runs there forwards the same port.",),
    remedy="Stop that machine, or forward other ports.",
)
def ports_free(facts: Facts) -> Found | Unknown | None:
    """QEMU does not start a machine whose forwarded port is taken."""
    target = facts.target
    if facts.operation is Operation.TEST_FAILOVER:
        wanted = {_local(pair) for pair in facts.forward}
    else:
        wanted = {_local(pair) for nic in facts.machine.nics for pair in nic.forward}
    if not wanted:
        return None
    if target.machines is None:
        return Unknown(f"which ports machines at site {target.name!r} forward")
    taken = sorted(
        f"{port} by {machine.name}"
        for machine in target.machines
        if machine.power is not Power.OFF and machine.name != facts.machine.name
        for port in {_local(pair) for nic in machine.nics for pair in nic.forward} & wanted
    )
    if not taken:
        return None
    return Found(f"at site {target.name!r} these ports are taken: {', '.join(taken)}", "they are free", impossible=True)


def _local(pair: str) -> str:
    """The local end of "8080:80" or "127.0.0.1:8080:80": the port; two loopback addresses seldom mean two hosts."""
    _, local, _ = ("", "", *pair.rsplit(":", 2))[-3:]
    return local
