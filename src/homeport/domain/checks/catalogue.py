"""All checks there are, in the order in which they are told; and what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeport.domain.checks import failback, machine, network, points, policy, site, store
from homeport.domain.checks.check import Check, Finding, Severity
from homeport.domain.checks.facts import Facts
from homeport.domain.health import Health

CATALOGUE: tuple[Check, ...] = (
    policy.policy_valid,
    site.target_silent,
    site.process_server_heartbeat,
    site.process_server_health,
    failback.master_target_heartbeat,
    machine.machine_in_reach,
    machine.machine_running,
    machine.source_heartbeat,
    machine.churn_over_limit,
    machine.name_taken,
    machine.machine_obstacles,
    machine.guest_agent_missing,
    store.store_unreachable,
    store.store_full,
    store.store_at_own_site,
    store.vault_at_source,
    site.privilege_missing,
    site.memory_at_target,
    site.quota_at_target,
    site.disk_for_all_data,
    site.fewer_processors,
    site.no_acceleration,
    network.networks_exist,
    network.ports_free,
    failback.original_missing,
    failback.original_storage,
    failback.original_runs,
    failback.retention_locked,
    failback.retention_filesystem,
    failback.retention_capacity,
    failback.retention_shared,
    points.first_point,
    points.points_old,
    points.app_consistent_points,
    points.drill_overdue,
    points.test_left,
    policy.rpo_below_interval,
    policy.passphrase_unconfirmed,
    site.clock_skew,
    site.cache_low,
    site.facts_old,
)

_ORDER = list(Severity)


def judge(facts: Facts) -> list[Finding]:
    """What the checks for the occasion find, the worst first."""
    found = (check.judge(facts) for check in CATALOGUE if check.applies(facts.occasion))
    return sorted((finding for finding in found if finding is not None), key=lambda one: _ORDER.index(one.severity))


def results(occasion: str, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What became of each check for ``occasion``, in the catalogue's order: what it found, or that all is well
    (``severity`` None)."""
    found = {finding.name: finding.to_json() for finding in findings}
    well = {"severity": None, "found": None, "expected": None, "unknown": False}
    return [
        {
            "code": check.code,
            "name": check.name,
            "title": check.title,
            **{key: found.get(check.name, well)[key] for key in well},
        }
        for check in CATALOGUE
        if check.applies(occasion)
    ]


_HEALTH = {Severity.ERROR: Health.CRITICAL, Severity.WARNING: Health.WARNING}


def health_reasons(findings: Sequence[Mapping[str, Any]]) -> tuple[tuple[Health, str], ...]:
    """Findings (as JSON) that an item's health tells of: "configuration: … (code)"; notes are none of these."""
    return tuple(
        (_HEALTH[Severity(str(finding["severity"]))], f"configuration: {finding['found']} ({finding['code']})")
        for finding in findings
        if finding.get("severity") in _HEALTH
    )
