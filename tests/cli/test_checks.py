"""`homeport check`: what it asks, shows, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Homeport
from tests.cli.fake_vault import FakeVault, item


def finding(code: str, severity: str) -> dict[str, Any]:
    return {
        "code": code,
        "name": "memory-at-target",
        "severity": severity,
        "title": "Memory to start the machine",
        "found": "1.0 GiB are [free]",
        "expected": "2.0 GiB for web1",
        "causes": ["Other machines run there."],
        "remedy": "Stop other machines.",
        "unknown": False,
    }


def test_findings_are_shown_with_what_to_do(homeport: Homeport, vault: FakeVault) -> None:
    vault.findings = [finding("8038", "warning"), finding("check.facts-old", "info")]
    answer = homeport("check", "web1")
    assert answer.status == 0
    for part in ("web1", "8038", "warning", "note", "1.0 GiB are [free]", "2.0 GiB for web1", "Stop other machines."):
        assert part in answer.out
    assert ("POST", "/v1/items/web1/checks", None) in vault.asked


def test_an_error_ends_with_status_1(homeport: Homeport, vault: FakeVault) -> None:
    vault.findings = [finding("8038", "error")]
    assert homeport("check", "web1").status == 1
    answer = homeport("check", "web1", "--json")
    assert answer.status == 1
    assert answer.json["checks"][0]["findings"] == vault.findings


def test_all_items_are_checked(homeport: Homeport, vault: FakeVault) -> None:
    vault.items["db1"] = item(id="item-2", name="db1")
    assert [look["item_name"] for look in homeport("check", "--json").json["checks"]] == ["web1", "db1"]


def test_before_an_operation(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("check", "web1", "--before", "failover")
    assert answer.status == 0
    assert "web1 before failover" in answer.out
    assert "Nothing is in the way." in answer.out


def test_the_last_look_asks_no_site(homeport: Homeport, vault: FakeVault) -> None:
    assert "It was not looked at yet." in homeport("check", "web1", "--last").out
    assert "POST" not in [method for method, path, _ in vault.asked]


@pytest.mark.parametrize("wrong", [["--before", "nonsense"], ["--before", "failover", "--last"]])
def test_what_can_not_be_asked_is_wrong_use(homeport: Homeport, vault: FakeVault, wrong: list[str]) -> None:
    assert homeport("check", "web1", *wrong).status == 2
    assert vault.asked == []


def test_nothing_protected_means_nothing_to_check(homeport: Homeport, vault: FakeVault) -> None:
    vault.items.clear()
    assert "nothing to check" in homeport("check").out
