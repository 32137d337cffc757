"""`homeport policy …`: what reaches the vault, and what is shown."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Homeport
from tests.cli.fake_vault import FakeVault


def sent(vault: FakeVault, method: str) -> list[tuple[str, object]]:
    return [(path, body) for asked, path, body in vault.asked if asked == method]


def test_only_what_is_given_is_changed(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("policy", "set", "gold", "--retention", "7d", "--app-consistent", "off", "--json")
    assert answer.status == 0
    assert sent(vault, "PATCH") == [("/v1/policies/gold", {"retention": 7 * 86400, "app_consistent": 0})]
    assert answer.json["policy"]["retention"] == 7 * 86400


def test_the_second_threshold_can_be_given_and_taken_back(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("policy", "set", "gold", "--rpo-critical", "20m").status == 0
    assert homeport("policy", "set", "gold", "--rpo-critical", "off").status == 0
    assert [body for _, body in sent(vault, "PATCH")] == [{"rpo_critical": 1200}, {"rpo_critical": None}]


@pytest.mark.parametrize(
    "wrong",
    [["set", "gold"], ["set", "gold", "--interval", "off"], ["set", "gold", "--interval", "15"], ["profile", "loose"]],
    ids=" ".join,
)
def test_what_changes_nothing_or_makes_no_sense_is_wrong_use(
    homeport: Homeport, vault: FakeVault, wrong: list[str]
) -> None:
    assert homeport("policy", *wrong).status == 2
    assert sent(vault, "PATCH") == sent(vault, "PUT") == []


def test_a_policy_is_shown_and_removed(homeport: Homeport, vault: FakeVault) -> None:
    shown = homeport("policy", "show", "gold")
    assert shown.status == 0
    for value in ("gold", "15 min", "30 min", "1 d"):
        assert value in shown.out
    assert homeport("policy", "show", "none", "--json").json["error"]["code"] == "policy.not-found"
    assert "Policy gold removed." in homeport("policy", "remove", "gold").out
    assert [path for path, _ in sent(vault, "DELETE")] == ["/v1/policies/gold"]


def test_the_profile_is_shown_and_chosen(homeport: Homeport, vault: FakeVault) -> None:
    assert "default" in homeport("policy", "profile").out
    assert homeport("policy", "profile", "strict", "--json").json == {"profile": "strict"}
    assert sent(vault, "PUT") == [("/v1/profile", {"profile": "strict"})]
