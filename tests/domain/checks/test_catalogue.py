"""All checks together: their order, what refuses what, health, and the document."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homeport.domain.checks.catalogue import CATALOGUE, health_reasons, judge
from homeport.domain.checks.check import Severity
from homeport.domain.checks.facts import PLANNED_FAILOVER, Facts, Store
from homeport.domain.health import Condition, Health, health
from homeport.domain.machines import Power
from homeport.domain.operations import Operation
from homeport.domain.states import State
from tests.checks_document import PAGE, with_table
from tests.domain.checks.factory import WEB, coming_home, failed_over, forward, site

OF_THE_ORIGINAL = {
    *("95226", "78052", "78093", "8061", "8038", "28031", "28092", "806", "78022", "78174"),
    *("78144", "78253", "70038", "78188"),
}


@pytest.mark.parametrize(
    "facts",
    [
        forward(),
        *(forward(operation) for operation in (Operation.PROTECT, Operation.TEST_FAILOVER, Operation.FAILOVER)),
        forward(Operation.FAILOVER, planned=True),
        failed_over(),
        failed_over(Operation.REPROTECT),
        coming_home(),
        coming_home(Operation.FAILBACK),
    ],
    ids=lambda facts: f"{facts.item.state}-{facts.occasion}",
)
def test_where_all_is_well_nothing_is_found(facts: Facts) -> None:
    assert judge(facts) == []


def test_names_and_codes_are_unique_and_the_originals_codes_are_kept() -> None:
    codes = [check.code for check in CATALOGUE]
    assert len(codes) == len(set(codes)) >= 25
    assert len({check.name for check in CATALOGUE}) == len(CATALOGUE)
    assert set(codes) >= OF_THE_ORIGINAL
    assert all(code.isdigit() or code.startswith("check.") for code in codes)


def test_occasions_are_operations_or_a_planned_failover() -> None:
    known = {*map(str, Operation), PLANNED_FAILOVER}
    assert {occasion for check in CATALOGUE for occasion in check.before} <= known


def test_the_worst_is_told_first() -> None:
    away = site("west", store=Store(False), free_memory=1, accelerator=None)
    severities = [finding.severity for finding in judge(forward(away=away))]
    assert severities == sorted(severities, key=list(Severity).index)
    assert {Severity.ERROR, Severity.WARNING, Severity.INFO} == set(severities)


def test_only_checks_for_the_occasion_are_made() -> None:
    off = replace(WEB, power=Power.OFF)
    assert [finding.code for finding in judge(forward(home=site("east", off)))] == ["78093"]
    assert judge(forward(Operation.FAILOVER, home=site("east", off))) == []


def test_findings_but_notes_make_the_health() -> None:
    away = site("west", store=Store(False, "not mounted"), free_memory=1, accelerator=None)
    reasons = health_reasons([finding.to_json() for finding in judge(forward(away=away))])
    assert reasons[0] == (
        Health.CRITICAL,
        "configuration: the store of site 'west' can't be read: not mounted (check.store-unreachable)",
    )
    assert [grade for grade, _ in reasons[1:]] == [Health.WARNING]
    condition = Condition(State.PROTECTED, 1.0, 900.0, 1.0, configuration=reasons)
    assert health(condition) == (Health.CRITICAL, [text for _, text in reasons])


def test_the_document_has_the_table_of_the_code() -> None:
    page = PAGE.read_text()
    assert with_table(page) == page, "run `.venv/bin/python -m tests.checks_document`"


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="checks: begin"):
        with_table("# Errors\n")
