"""`homeport group …` and `--group`: what is sent, what is told, and what is refused before anything is asked."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Homeport
from tests.cli.fake_vault import FakeVault

SITES = ("--from", "home", "--to", "away", "--policy", "gold")


def test_machines_are_protected_as_a_group(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("protect", "web1", "db1", *SITES, "--group", "shop").status == 0
    bodies = [body for method, path, body in vault.asked if (method, path) == ("POST", "/v1/items")]
    assert [(body["machine"], body["group"]) for body in bodies] == [("web1", "shop"), ("db1", "shop")]


def test_a_group_is_shown_with_its_members_and_what_they_share(homeport: Homeport, vault: FakeVault) -> None:
    listed = homeport("group", "list")
    assert "shop" in listed.out
    assert "web1, db1" in listed.out
    shown = homeport("group", "show", "shop")
    assert "web1: Protected, at home" in shown.out
    assert f"{15:016x}" in shown.out
    assert "3 older" in shown.out
    assert homeport("group", "show", "shop", "--json").json["group"] == vault.group
    assert homeport("group", "list", "--json").json["groups"] == [vault.group]
    assert homeport("group", "set", "shop", "--policy", "silver", "--json").json["group"]["policy"] == "silver"
    vault.group = {}
    assert "--group NAME" in homeport("group", "list").out


@pytest.mark.parametrize(
    ("arguments", "operation", "sent"),
    [
        (("failover",), "failover", {"point": "latest-multi-vm", "shutdown": True}),
        (
            ("failover", "--no-shutdown", "--point", "latest-multi-vm-app-consistent"),
            "failover",
            {"point": "latest-multi-vm-app-consistent", "shutdown": False},
        ),
        (
            ("failover", "--commit-policy", "auto-commit"),
            "failover",
            {"point": "latest-multi-vm", "shutdown": True, "commit_policy": "auto-commit", "commit_after": 14400},
        ),
        (("failback",), "failback", {"point": "latest-multi-vm"}),
        (("change-point", "--point", f"{7:016x}"), "change-point", {"point": f"{7:016x}"}),
    ],
)
def test_an_operation_on_a_group_is_asked_for_once_and_told_by_member(
    homeport: Homeport, vault: FakeVault, arguments: tuple[str, ...], operation: str, sent: dict[str, object]
) -> None:
    answer = homeport(*arguments, "--group", "shop", "--yes")
    assert answer.status == 0, answer.err
    assert vault.operations == [(operation, sent)]
    assert f"web1: {operation} succeeded" in answer.out
    assert f"db1: {operation} succeeded" in answer.out
    accepted = homeport(*arguments, "--group", "shop", "--yes", "--no-wait", "--json").json
    assert [job["item_name"] for job in accepted["jobs"]] == ["web1", "db1"]


def test_one_member_that_fails_makes_the_exit_status_one(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome = "failed"
    vault.error = {"code": "x.y", "cause": "it broke", "remedy": "Mend it.", "details": {}}
    answer = homeport("failover", "--group", "shop", "--yes")
    assert answer.status == 1
    assert "web1: failed: it broke (x.y)" in answer.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("failover", "--yes"),
        ("failover", "web1", "--group", "shop", "--yes"),
        ("failover", "--group", "shop", "--alone", "--yes"),
        ("failover", "--group", "shop", "--planned", "--yes"),
        ("failover", "--group", "shop", "--point", "latest-processed", "--yes"),
        ("failover", "--group", "shop", "--point", "5f0c2d9a7b31e846/41", "--yes"),
        ("failover", "web1", "--point", "latest-multi-vm", "--yes"),
        ("failover", "web1", "--point", f"{7:016x}", "--yes"),
        ("failback", "--yes"),
        ("change-point", "--point", "latest", "--yes"),
    ],
)
def test_what_makes_no_sense_is_refused_here(homeport: Homeport, vault: FakeVault, arguments: tuple[str, ...]) -> None:
    assert homeport(*arguments).status == 2
    assert vault.operations == []


def test_alone_goes_with_the_operation(homeport: Homeport, vault: FakeVault) -> None:
    vault.items["web1"]["allowed_operations"] += ["change-point", "failback"]
    assert homeport("failover", "web1", "--alone", "--yes").status == 0
    assert homeport("failback", "web1", "--alone", "--yes").status == 0
    assert homeport("change-point", "web1", "--alone", "--yes", "--point", "latest").status == 0
    assert [body.get("alone") for _, body in vault.operations] == [True, True, True]


def test_a_group_is_not_moved_without_consent(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("failover", "--group", "shop").status != 0
    assert vault.operations == []
