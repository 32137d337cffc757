"""Every check: facts by which it passes, facts that provoke it, and facts that it misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from homeport.domain.checks.catalogue import CATALOGUE
from homeport.domain.checks.check import Check, Finding, Severity
from homeport.domain.checks.facts import Facts, Privilege, Quota, Store
from homeport.domain.churn import Rates, Traffic
from homeport.domain.machines import Nic, Power
from homeport.domain.operations import Operation
from homeport.domain.policy import Policy
from homeport.domain.process_servers import Room, Vitals
from homeport.domain.states import State
from homeport.domain.units import GiB, MiB
from tests.domain.checks.factory import (
    NOW,
    OTHER,
    WEB,
    ago,
    coming_home,
    drive,
    failed_over,
    forward,
    made_here,
    point,
    site,
)

CHECKS = {check.name: check for check in CATALOGUE}
O = Operation  # noqa: E741


BUSY = Traffic({"disk0": Rates(hour=25e6)}, observed=3600)


def at_home(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, home=replace(facts.home, **changes))


def away(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, away=replace(facts.away, **changes))


def item(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, item=replace(facts.item, **changes))


def also(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: replace(facts, **changes)


ERROR, WARNING, INFO = Severity

PROVOKED: list[tuple[str, Facts, Callable[[Facts], Facts], Severity, str]] = [
    # check, facts by which it passes, what provokes it, how bad that is, a part of what was found
    ("machine-running", failed_over(O.REPROTECT), away(machines=(made_here(replace(WEB, power=Power.OFF)),)), ERROR,
     "web at site 'west' is off"),
    ("machine-running", forward(), at_home(machines=(replace(WEB, power=Power.PAUSED),)), WARNING, "is paused"),
    ("machine-in-reach", failed_over(O.REPROTECT), away(machines=()), ERROR, "sees no machine web"),
    ("machine-in-reach", coming_home(O.FAILBACK), away(machines=(made_here(replace(WEB, power=Power.UNKNOWN)),)),
     ERROR, "does not answer"),
    ("machine-obstacles", forward(), at_home(machines=(replace(WEB, obstacles=("disk0: shared",)),)), WARNING,
     "disk0: shared"),
    ("guest-agent-missing", forward(), at_home(machines=(replace(WEB, guest_agent=False),)), WARNING,
     "is not connected"),
    ("name-taken", forward(O.PROTECT), away(machines=(replace(OTHER, name="web-test"),)), WARNING, "web-test"),
    ("name-taken", forward(O.TEST_FAILOVER), away(machines=(replace(OTHER, name="web-test"),)), ERROR, "web-test"),
    ("name-taken", forward(O.FAILOVER), away(machines=(replace(OTHER, name="web"),)), ERROR, "a machine web"),
    ("name-taken", forward(), away(machines=(replace(OTHER, name="web"),)), ERROR, "a machine web"),
    ("source-heartbeat", forward(), item(replication_error=("source.gone", "no process")), ERROR, "no process"),
    ("source-heartbeat", forward(O.FAILOVER), item(replication_error=("source.gone", "no process")), WARNING,
     "source.gone"),
    ("source-heartbeat", forward(O.FAILOVER, planned=True), item(replication_error=("source.silent", "hangs")), ERROR,
     "hangs"),
    ("memory-at-target", forward(O.TEST_FAILOVER), away(free_memory=GiB), ERROR,
     "1.0 GiB are free at site 'west', of 16.0 GiB in all"),
    ("memory-at-target", forward(O.FAILOVER), away(free_memory=GiB), WARNING, "1.0 GiB are free"),
    ("memory-at-target", forward(O.FAILOVER), away(free_memory=GiB, total_memory=GiB), ERROR, "of 1.0 GiB in all"),
    ("memory-at-target", coming_home(O.FAILBACK), at_home(free_memory=GiB), ERROR, "at site 'east'"),
    ("memory-at-target", forward(), away(free_memory=GiB), WARNING, "1.0 GiB are free"),
    ("quota-at-target", forward(O.TEST_FAILOVER), away(machines=(OTHER,), quota=Quota(memory=3 * GiB)), ERROR,
     "2.0 GiB of 3.0 GiB memory are used"),
    ("quota-at-target", forward(O.FAILOVER, planned=True), away(machines=(OTHER,), quota=Quota(cpus=3)), ERROR,
     "2 of 3 processors are used"),
    ("quota-at-target", forward(O.FAILOVER), away(machines=(OTHER,), quota=Quota(machines=1)), WARNING,
     "1 of 1 machines run"),
    ("quota-at-target", coming_home(O.FAILBACK), at_home(free_disk=MiB), ERROR, "1.0 MiB of disk are free"),
    ("disk-for-all-data", forward(O.FAILOVER), away(free_disk=GiB), WARNING, "1.0 GiB of disk"),
    ("fewer-processors", forward(O.TEST_FAILOVER), away(cpus=1), WARNING, "has 1"),
    ("no-acceleration", forward(O.TEST_FAILOVER), away(accelerator="tcg"), WARNING, "emulates"),
    ("process-server-heartbeat", failed_over(O.REPROTECT), away(silence=31.0), ERROR, "last heard of 31 s ago"),
    ("process-server-heartbeat", forward(), at_home(silence=901.0), ERROR, "15 min ago"),
    ("process-server-heartbeat", forward(), at_home(silence=None), ERROR, "never heard of"),
    ("target-silent", forward(O.TEST_FAILOVER), away(silence=31.0), ERROR, "31 s ago"),
    ("target-silent", forward(O.FAILOVER), away(silence=31.0), WARNING, "31 s ago"),
    ("target-silent", forward(O.FAILOVER, planned=True), away(silence=None), ERROR, "never heard of"),
    ("clock-skew", forward(), away(clock=NOW + timedelta(minutes=6)), WARNING, "6 min ahead"),
    ("clock-skew", forward(O.PROTECT), at_home(clock=ago(minutes=9)), WARNING, "site 'east' is 9 min behind"),
    ("privilege-missing", forward(O.TEST_FAILOVER), away(privileges={"run-qemu": Privilege(False, "not installed")}),
     ERROR, "can't run qemu-system-x86_64 (not installed), which breaks test-failover"),
    ("privilege-missing", forward(O.FAILOVER), away(privileges={"write-folder": Privilege(False)}), ERROR,
     "can't write into the site's folder"),
    ("privilege-missing", forward(), at_home(privileges={"write-folder": Privilege(False)}), ERROR,
     "which breaks replication, reprotect"),
    ("facts-old", forward(), away(received=ago(days=3)), INFO, "'west' told its facts 3 days ago"),
    ("cache-low", forward(), at_home(cache=replace(drive("8:1"), free=MiB)), WARNING, "1.0 MiB are free"),
    ("process-server-health", forward(O.PROTECT),
     at_home(process_servers=(Vitals("ps", 1.0, cache=Room(24, 100)),)), ERROR, "ps is critical (cache: 24% free"),
    ("process-server-health", forward(O.PROTECT),
     at_home(process_servers=(Vitals("ps", None), Vitals("ps2", 1.0, cpu=0.9))), WARNING, "ps2 is warning (CPU: 90%"),
    ("process-server-health", forward(), at_home(process_servers=(Vitals("ps", 901.0),)), WARNING, "(806)"),
    ("churn-over-limit", forward(), item(traffic=BUSY), WARNING, "disk0 changes 25 MB/s over 60 min"),
    ("networks-exist", forward(O.TEST_FAILOVER, network="isolated"), away(networks=("default",)), ERROR,
     "no network isolated; it has default"),
    ("networks-exist", forward(O.FAILOVER), away(networks=()), WARNING, "no network default; it has none"),
    ("ports-free", forward(O.FAILOVER), away(machines=(replace(OTHER, nics=WEB.nics),)), ERROR, "8080 by db"),
    ("ports-free", forward(O.TEST_FAILOVER, forward=("127.0.0.1:9090:80",)),
     away(machines=(replace(OTHER, nics=(Nic("52:54:00:00:00:09", forward=("9090:22",)),)),)), ERROR, "9090 by db"),
    ("app-consistent-points", forward(), also(points=(point(1, ago(seconds=9)),)), WARNING, "in the last 30 days"),
    ("points-old", forward(), also(points=(point(1, ago(days=3)),)), ERROR, "of 3 days ago"),
    ("points-old", forward(O.FAILOVER), also(points=(point(1, ago(minutes=31)),)), WARNING, "of 31 min ago"),
    ("first-point", forward(), also(points=()), ERROR, "no recovery point 30 days after"),
    ("drill-overdue", forward(), item(tested=ago(days=91)), WARNING, "the last one was 91 days ago"),
    ("drill-overdue", forward(), item(tested=None, created=ago(days=100)), WARNING,
     "no test failover since the machine was protected 100 days ago"),
    ("test-left", forward(item=replace(forward().item, state=State.TEST_FAILOVER_CLEANUP_PENDING,
                                       test_began=ago(days=1))),
     item(test_began=ago(days=8)), WARNING, "since 8 days"),
    ("policy-valid", forward(O.PROTECT), also(policy=None), ERROR, "there is no such policy"),
    ("policy-valid", forward(), also(policy=Policy("gold", rpo_threshold=1)), WARNING, "RPO threshold"),
    ("rpo-below-interval", forward(), also(policy=Policy("gold", rpo_threshold=60, interval=50)), WARNING,
     "with a point every 50 s"),
    ("passphrase-unconfirmed", forward(), also(passphrase_confirmed=False), WARNING, "beside the vault only"),
    ("store-unreachable", forward(), away(store=Store(False, "not mounted")), ERROR, "not mounted"),
    ("store-unreachable", forward(O.FAILOVER), away(store=Store(False)), ERROR, "can't be read"),
    ("store-unreachable", failed_over(O.REPROTECT), at_home(store=Store(False)), ERROR, "site 'east'"),
    ("store-full", forward(), away(store=Store(True, "", MiB)), ERROR, "1.0 MiB are free"),
    ("store-full", forward(O.PROTECT), away(store=Store(True, "", MiB)), ERROR, "1.0 MiB are free"),
    ("store-full", forward(O.PROTECT), away(store=Store(True, "", GiB)), WARNING, "1.0 GiB are free"),
    ("store-at-own-site", forward(), item(store="east"), ERROR, "machine and points are at site 'east'"),
    ("store-at-own-site", forward(), away(host="host of east"), INFO, "on one host"),
    ("store-at-own-site", forward(),
     away(host="host of east", store=Store(True, "", GiB, "/srv/backup")), ERROR,
     "the store of site 'west' lies in the folder of site 'east'"),
    ("store-at-own-site", forward(),
     away(host="host of east", store=Store(True, "", GiB, "/srv2")), INFO, "on one host"),
    ("vault-at-source", forward(), also(vault_host="host of east"), ERROR, "the host of site 'east'"),
    ("vault-at-source", coming_home(), also(vault_host="host of west"), ERROR, "the host of site 'west'"),
    ("master-target-heartbeat", failed_over(O.REPROTECT), at_home(silence=31.0), ERROR, "31 s ago"),
    ("master-target-heartbeat", failed_over(), at_home(silence=None), WARNING, "never heard of"),
    ("original-storage", failed_over(O.REPROTECT),
     at_home(machines=(replace(WEB, power=Power.OFF, obstacles=("disk0: there is no file",)),)), ERROR,
     "disk0: there is no file"),
    ("original-storage", coming_home(O.FAILBACK), at_home(folder=replace(drive("8:1"), writable=False)), ERROR,
     "can't be written"),
    ("original-missing", failed_over(O.REPROTECT), at_home(machines=()), ERROR, "has no machine web"),
    ("original-runs", coming_home(O.FAILBACK), at_home(machines=(WEB,)), ERROR, "and at site 'west'"),
    ("original-runs", failed_over(O.REPROTECT), at_home(machines=(WEB,)), WARNING, "web runs at site 'east'"),
    ("retention-filesystem", failed_over(O.REPROTECT), at_home(retention=replace(drive("8:1"), filesystem="vfat")),
     ERROR, "has vfat"),
    ("retention-capacity", failed_over(O.REPROTECT), at_home(retention=replace(drive("8:1"), total=0, free=0)), ERROR,
     "0 B of 0 B"),
    ("retention-capacity", coming_home(O.FAILBACK), at_home(retention=replace(drive("8:1"), free=MiB)), WARNING,
     "1.0 MiB of 1.0 TiB"),
    ("retention-locked", coming_home(O.FAILBACK), at_home(retention=replace(drive("8:1"), writable=False)), ERROR,
     "locked"),
    ("retention-shared", failed_over(O.REPROTECT), at_home(retention=drive("8:2")), INFO, "share a volume"),
]  # fmt: skip


def judge(check: str, facts: Facts) -> Finding | None:
    return CHECKS[check].judge(facts)


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("check", "passes", "provoke", "severity", "found"), PROVOKED, ids=name_of)
def test_a_check_passes_and_is_provoked(
    check: str, passes: Facts, provoke: Callable[[Facts], Facts], severity: Severity, found: str
) -> None:
    assert judge(check, passes) is None
    finding = judge(check, provoke(passes))
    assert finding is not None
    assert (finding.severity, finding.unknown) == (severity, False)
    assert found in finding.found
    assert finding.expected
    assert finding.code == CHECKS[check].code


def test_no_check_is_without_its_tests() -> None:
    assert {name for name, *_ in PROVOKED} == set(CHECKS)


UNKNOWN: list[tuple[str, Facts]] = [
    ("machine-running", failed_over(O.REPROTECT, away=site("west", machines=None))),
    ("machine-in-reach", forward(home=site("east", machines=None))),
    ("name-taken", forward(O.FAILOVER, away=site("west", machines=None))),
    ("memory-at-target", forward(O.FAILOVER, away=site("west", free_memory=None))),
    ("quota-at-target", forward(O.TEST_FAILOVER, away=site("west", free_disk=None))),
    ("quota-at-target", forward(O.TEST_FAILOVER, away=site("west", quota=Quota(wrong="limits.toml can't be read")))),
    ("fewer-processors", forward(away=site("west", cpus=None))),
    ("no-acceleration", forward(away=site("west", accelerator=None))),
    ("clock-skew", forward(away=site("west", clock=None))),
    ("privilege-missing", forward(O.FAILOVER, away=site("west", privileges=None))),
    ("cache-low", forward(home=site("east", cache=None))),
    ("networks-exist", forward(O.TEST_FAILOVER, away=site("west", networks=None))),
    ("ports-free", forward(O.FAILOVER, away=site("west", machines=None))),
    ("test-left", forward(item=replace(forward().item, state=State.TEST_FAILOVER_CLEANUP_PENDING))),
    ("store-unreachable", forward(O.FAILOVER, away=site("west", store=Store()))),
    ("vault-at-source", forward(home=site("east", WEB, host=None), vault_host="a host")),
    ("original-storage", failed_over(O.REPROTECT, home=site("east", WEB, folder=None))),
    ("original-missing", failed_over(O.REPROTECT, home=site("east", machines=None))),
    ("retention-filesystem", failed_over(O.REPROTECT, home=site("east", WEB, retention=None))),
    ("retention-capacity", failed_over(O.REPROTECT, home=site("east", WEB, retention=None))),
    ("retention-locked", failed_over(O.REPROTECT, home=site("east", WEB, retention=None))),
    ("retention-shared", failed_over(O.REPROTECT, home=site("east", WEB, cache=None))),
]


@pytest.mark.parametrize(("check", "facts"), UNKNOWN, ids=name_of)
def test_what_is_not_known_is_told_and_refuses_nothing(check: str, facts: Facts) -> None:
    finding = judge(check, facts)
    assert finding is not None
    assert finding.unknown
    assert finding.severity is Severity.INFO
    assert finding.found.startswith("Not known: ")


# ── particulars ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stale", [{"received": ago(minutes=2)}, {"inventoried": ago(minutes=2)}])
@pytest.mark.parametrize(
    ("check", "provoke"),
    [
        ("name-taken", away(machines=(replace(OTHER, name="web"),))),
        ("store-unreachable", away(store=Store(False))),
        ("memory-at-target", away(free_memory=GiB, total_memory=GiB)),
        ("ports-free", away(machines=(replace(OTHER, nics=WEB.nics),))),
        ("privilege-missing", away(privileges={"run-qemu": Privilege(False)})),
    ],
    ids=name_of,
)
def test_a_failover_is_not_refused_by_what_may_have_changed_since(
    check: str, provoke: Callable[[Facts], Facts], stale: dict[str, Any]
) -> None:
    fresh = provoke(forward(O.FAILOVER))
    assert (finding := judge(check, fresh)) is not None
    assert finding.severity is Severity.ERROR
    assert (finding := judge(check, replace(fresh, away=replace(fresh.away, **stale)))) is not None
    assert finding.severity is Severity.WARNING


def test_a_failover_tried_again_is_not_refused_by_its_own_machine() -> None:
    there = forward(O.FAILOVER, away=site("west", made_here()))
    assert judge("name-taken", there) is None
    assert judge("ports-free", there) is None


def test_a_test_machine_of_this_item_is_no_stranger() -> None:
    assert judge("name-taken", forward(away=site("west", made_here(name="web-test")))) is None


def test_a_quota_counts_what_runs_and_not_what_is_off() -> None:
    off = replace(OTHER, power=Power.OFF)
    assert judge("quota-at-target", forward(O.TEST_FAILOVER, away=site("west", off, quota=Quota(machines=1)))) is None


def test_the_passphrase_is_a_note_on_the_first_day() -> None:
    facts = forward(passphrase_confirmed=False, item=replace(forward().item, created=ago(hours=2)))
    assert (finding := judge("passphrase-unconfirmed", facts)) is not None
    assert finding.severity is Severity.INFO


def test_without_kvm_at_either_site_nothing_is_slower_than_it_was() -> None:
    slow = forward(home=site("east", WEB, accelerator="tcg"), away=site("west", accelerator="tcg"))
    assert judge("no-acceleration", slow) is None


def test_a_machine_without_a_network_card_needs_no_network() -> None:
    away = site("west", privileges={"user-network": Privilege(False)})
    assert judge("privilege-missing", forward(O.FAILOVER, away=away)) is not None
    assert judge("privilege-missing", forward(O.FAILOVER, away=away, recovered=replace(WEB, nics=()))) is None


def test_kvm_that_can_not_be_opened_breaks_no_operation() -> None:
    assert judge("privilege-missing", forward(away=site("west", privileges={"open-kvm": Privilege(False)}))) is None


def test_obstacles_other_than_disks_are_not_about_storage() -> None:
    doubled = replace(WEB, power=Power.OFF, obstacles=("uuid: other has the same one",))
    assert judge("original-storage", failed_over(O.REPROTECT, home=site("east", doubled))) is None


@pytest.mark.parametrize("check", CATALOGUE, ids=lambda check: check.name)
def test_a_check_says_why_and_what_to_do(check: Check) -> None:
    assert check.title
    assert check.causes
    assert check.remedy.endswith(".")
    assert check.refuses <= check.before


def test_a_vault_at_the_other_site_or_of_a_trial_on_one_host_is_no_trouble() -> None:
    assert judge("vault-at-source", forward(vault_host="host of west")) is None
    assert judge("vault-at-source", failed_over(vault_host="host of west")) is None, "nothing is replicated"
    trial = forward(vault_host="host of east", away=site("west", host="host of east"))
    assert judge("vault-at-source", trial) is None
