"""Each command against a vault: what it asks, what it answers, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Homeport
from tests.cli.fake_vault import TIMELINE, TOKEN, FakeVault, item

POINT = f"{TIMELINE}/2"

LOOKS: list[tuple[list[str], set[str]]] = [
    (["site", "list"], {"sites"}),
    (["site", "add", "home", "--provider", "qemu", "--path", "/srv/home"], {"site"}),
    (["machine", "list", "home"], {"machines", "discovery"}),
    (["site", "refresh", "home"], {"refreshed"}),
    (["server", "remove", "ps-1", "--yes"], {"removed", "left"}),
    (["configuration-server", "backups"], {"backups", "schedules", "keep"}),
    (["machine", "start", "home", "web1"], {"machine"}),
    (["site", "show", "home"], {"site"}),
    (["site", "set", "home", "--store", "file:///srv/points"], {"site"}),
    (["site", "remove", "home", "--yes"], {"site"}),
    (["item", "list"], {"items"}),
    (["item", "list", "--deleted"], {"items"}),
    (["item", "show", "web1"], {"item"}),
    (["item", "set", "web1", "--cpus", "2"], {"item"}),
    (["item", "purge", "old1", "--yes"], {"item"}),
    (["policy", "list"], {"policies"}),
    (
        ["policy", "create", "gold", "--rpo-threshold", "15m", "--retention", "24h", "--app-consistent", "1h"],
        {"policy"},
    ),
    (["status"], {"vault", "items", "jobs"}),
    (["status", "web1"], {"vault", "item", "job"}),
    (["points", "web1"], {"points"}),
    (["check"], {"checks"}),
    (["check", "web1", "--last"], {"checks"}),
    (["job", "list"], {"jobs"}),
    (["job", "limits"], {"limits"}),
    (["vault", "passphrase"], {"passphrase_confirmed"}),
    (["vault", "backup"], {"backup"}),
    (["vault", "backups"], {"backups", "keep", "sites"}),
]

OPERATIONS: list[tuple[list[str], str, Any]] = [
    (["test-failover", "web1"], "test-failover", {}),
    (
        ["test-failover", "web1", "--point", POINT, "--network", "lab", "--forward", "8080:80", "--forward", "2222:22"],
        "test-failover",
        {"point": POINT, "network": "lab", "forward": ["8080:80", "2222:22"]},
    ),
    (["cleanup", "web1", "--notes", "fine", "--yes"], "cleanup", {"notes": "fine"}),
    (["failover", "web1", "--yes"], "failover", {"point": "latest", "shutdown": True}),
    (
        ["failover", "web1", "--point", "latest-processed", "--no-shutdown", "--yes"],
        "failover",
        {"point": "latest-processed", "shutdown": False},
    ),
    (["change-point", "web1", "--point", POINT, "-y"], "change-point", {"point": POINT}),
    (
        ["failover", "web1", "--planned", "--commit-policy", "auto-rollback", "--commit-after", "90m", "--yes"],
        "failover",
        {
            "point": "latest",
            "shutdown": True,
            "planned": True,
            "commit_policy": "auto-rollback",
            "commit_after": 5400,
        },
    ),
    (
        ["failover", "web1", "--commit-policy", "auto-commit", "--yes"],
        "failover",
        {"point": "latest", "shutdown": True, "commit_policy": "auto-commit", "commit_after": 14400},
    ),
    (["commit", "web1", "--yes"], "commit", {}),
    (["commit", "web1", "--erase-points", "--yes"], "commit", {"erase_points": True}),
    (["undo", "web1", "--yes"], "undo", {}),
    (["complete-migration", "web1", "--yes"], "complete-migration", {}),
    (["pause", "web1"], "pause", {}),
    (["resume", "web1"], "resume", {}),
    (["reprotect", "web1"], "reprotect", {}),
    (["failback", "web1", "--yes"], "failback", {"point": "latest"}),
    (["resync", "web1"], "resync", {}),
    (["disable", "web1", "--yes"], "disable", {}),
    (["point", "web1", "--app-consistent", "--tag", "x"], "point", {"app_consistent": True, "tag": "x"}),
    (["point", "web1"], "point", {"app_consistent": False, "tag": None}),
]
ASKING = [arguments for arguments, _, _ in OPERATIONS if "--yes" in arguments or "-y" in arguments]


def allow_everything(vault: FakeVault) -> None:
    vault.items["web1"]["allowed_operations"] = sorted({operation for _, operation, _ in OPERATIONS})


def _words(value: list[str] | set[str]) -> str:
    """The same in every process that collects this test: a set has another order in each."""
    return " ".join(sorted(value) if isinstance(value, set) else value)


@pytest.mark.parametrize(("arguments", "keys"), LOOKS, ids=_words)
def test_json_is_one_object_with_stable_keys(
    homeport: Homeport, vault: FakeVault, arguments: list[str], keys: set[str]
) -> None:
    answer = homeport(*arguments, "--json")
    assert answer.status == 0
    assert set(answer.json) == keys
    assert answer.err == ""


@pytest.mark.parametrize(("arguments", "keys"), LOOKS, ids=_words)
def test_people_get_words(homeport: Homeport, vault: FakeVault, arguments: list[str], keys: set[str]) -> None:
    answer = homeport(*arguments)
    assert answer.status == 0
    assert answer.out.strip()
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.out)


@pytest.mark.parametrize(("arguments", "operation", "inputs"), OPERATIONS, ids=lambda value: str(value))
def test_an_operation_is_asked_for_and_its_job_waited_for(
    homeport: Homeport, vault: FakeVault, arguments: list[str], operation: str, inputs: Any
) -> None:
    allow_everything(vault)
    answer = homeport(*arguments, "--json")
    assert answer.status == 0
    assert vault.operations == [(operation, inputs)]
    assert set(answer.json) == {"job"}
    assert answer.json["job"]["state"] == "succeeded"


@pytest.mark.parametrize(("arguments", "operation", "inputs"), OPERATIONS, ids=lambda value: str(value))
def test_an_operation_can_be_left_to_run(
    homeport: Homeport, vault: FakeVault, arguments: list[str], operation: str, inputs: Any
) -> None:
    allow_everything(vault)
    vault.held.clear()
    answer = homeport(*arguments, "--no-wait")
    assert answer.status == 0
    assert answer.out == "job1\n"
    assert "homeport job show job1" in answer.err
    assert homeport(*arguments, "--no-wait", "--json").json["job"]["state"] == "running"


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
@pytest.mark.parametrize("json_wanted", [False, True], ids=["words", "json"])
def test_what_loses_or_ends_something_is_not_begun_where_nobody_can_be_asked(
    homeport: Homeport, vault: FakeVault, arguments: list[str], json_wanted: bool
) -> None:
    allow_everything(vault)
    meek = [one for one in arguments if one not in ("--yes", "-y")] + ["--json"] * json_wanted
    answer = homeport(*meek)
    assert answer.status == 2
    assert vault.operations == []
    if json_wanted:
        assert answer.json["error"]["code"] == "cli.confirmation-needed"
    else:
        assert "cli.confirmation-needed" in answer.err
        assert "--yes" in answer.err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--planned", "--no-shutdown"],
        ["--planned", "--point", "latest-processed"],
        ["--commit-after", "4h"],
        ["--commit-policy", "auto-commit", "--commit-after", "59s"],
        ["--commit-policy", "auto-commit", "--commit-after", "8d"],
        ["--commit-policy", "never"],
    ],
    ids=" ".join,
)
def test_a_failover_at_odds_with_itself_is_wrong_use(homeport: Homeport, vault: FakeVault, wrong: list[str]) -> None:
    allow_everything(vault)
    answer = homeport("failover", "web1", *wrong, "--yes")
    assert answer.status == 2
    assert vault.operations == []


def test_protect_names_machine_sites_and_policy(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("protect", "web1", "--from", "home", "--to", "away", "--policy", "gold", "--json")
    assert answer.status == 0
    assert answer.json["job"]["kind"] == "protect"
    assert ("POST", "/v1/items", {"machine": "web1", "from": "home", "to": "away", "policy": "gold"}) in vault.asked


def test_after_an_operation_people_read_what_it_led_to(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("resync", "web1")
    assert "web1 is in step again" in answer.out
    assert "web1 is Protected, runs at home. You can now: test-failover, failover" in answer.out
    assert "Send the last changes" in answer.err


def test_a_job_that_fails_ends_with_its_reason(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome = "failed"
    vault.error = {"code": "site.no-space", "cause": "away is full", "remedy": "Make room.", "details": {"free": 0}}
    answer = homeport("resync", "web1", "--json")
    assert answer.status == 1
    error = answer.json["error"]
    assert (error["code"], error["cause"]) == ("site.no-space", "away is full")
    assert error["details"] == {"free": 0, "job": "job1"}
    assert "Make room." in error["remedy"]
    assert "homeport job restart job1" in error["remedy"]
    assert answer.json["job"]["state"] == "failed"
    words = homeport("resync", "web1")
    assert words.status == 1
    for expected in ("site.no-space", "away is full", "What to do: Make room."):
        assert expected in words.err


def test_a_cancelled_job_is_no_success(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome = "cancelled"
    answer = homeport("resync", "web1", "--json")
    assert answer.status == 1
    assert answer.json["error"]["code"] == "job.cancelled"


def test_a_wrong_state_is_refused_with_the_operations_allowed_now(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("failback", "web1", "--yes", "--json")
    assert answer.status == 1
    assert answer.json["error"]["code"] == "item.operation-not-allowed"
    assert "failover" in answer.json["error"]["details"]["allowed_operations"]
    words = homeport("failback", "web1", "--yes")
    assert "item.operation-not-allowed" in words.err
    assert "Allowed now: test-failover, failover, resync, point, disable" in words.err


def test_an_unknown_item_is_named(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("status", "nobody/../x", "--json")
    assert answer.status == 1
    assert answer.json["error"]["code"] in ("item.not-found", "cli.bad-answer")
    assert homeport("points", "nobody", "--json").json["error"]["code"] == "item.not-found"


WRONG = [
    [],
    ["no-such-command"],
    ["site"],
    ["failover"],
    ["failover", "web1", "--point", "yesterday", "--yes"],
    ["failover", "web1", "--no-such-option"],
    ["change-point", "web1", "--yes"],
    ["test-failover", "web1", "--forward", "80"],
    ["test-failover", "web1", "--forward", "0:80"],
    ["policy", "create", "gold", "--rpo-threshold", "15", "--retention", "24h", "--app-consistent", "1h"],
    ["policy", "create", "g", "--rpo-threshold", "1m", "--retention", "1h", "--app-consistent", "0", "--interval", "0"],
    ["status", "--vault", "http://127.0.0.1:1"],
    ["status", "--token-file", "/nowhere"],
    ["store", "points"],
    ["store", "points", "--store", "/nowhere"],
    ["store", "restore", "--store", "/nowhere", "--to", "x"],
    ["store", "verify", "--store", "/nowhere", "--point", "latest"],
    ["vault", "passphrase", "--confirm"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_use_ends_with_two_and_says_why(homeport: Homeport, vault: FakeVault, arguments: list[str]) -> None:
    answer = homeport(*arguments)
    assert answer.status == 2
    assert answer.err.strip() or "Usage" in answer.out
    assert vault.operations == []


@pytest.mark.parametrize("arguments", WRONG[3:], ids=" ".join)
def test_wrong_use_is_an_object_too_under_json(homeport: Homeport, vault: FakeVault, arguments: list[str]) -> None:
    answer = homeport(*arguments, "--json")
    assert answer.status == 2
    assert set(answer.json["error"]) == {"code", "cause", "remedy", "details"}


def test_durations_reach_the_vault_in_seconds(homeport: Homeport, vault: FakeVault) -> None:
    durations = ["--rpo-threshold", "15m", "--retention", "24h", "--app-consistent", "off", "--interval", "15s"]
    assert homeport("policy", "create", "gold", *durations).status == 0
    wanted = {"name": "gold", "rpo_threshold": 900, "retention": 86400, "app_consistent": 0, "interval": 15}
    assert ("POST", "/v1/policies", wanted) in vault.asked


def test_a_site_is_added_with_an_absolute_path(
    homeport: Homeport, vault: FakeVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    homeport("site", "add", "home", "--provider", "qemu", "--path", "machines")
    wanted = {"name": "home", "provider": "qemu", "path": str(tmp_path / "machines")}
    assert ("POST", "/v1/sites", wanted) in vault.asked


def test_machines_say_why_they_cannot_be_protected(homeport: Homeport, vault: FakeVault) -> None:
    out = homeport("machine", "list", "home").out
    assert "no: it is off" in out
    assert "disk0 1.0 GiB raw" in out


def test_status_shows_what_matters(homeport: Homeport, vault: FakeVault) -> None:
    vault.held.clear()
    vault.items["web1"] = item(job=vault.begin("resync", "web1"), allowed_operations=[], health="warning")
    out = homeport("status").out
    for expected in ("web1", "Protected", "warning", "home → away", "12 s", "1.0 MiB of 4.0 MiB", "resync"):
        assert expected in out
    one = homeport("status", "web1").out
    for expected in (f"{TIMELINE}/3", "1.0 MiB out, 2.0 KiB in", "Send the last changes", "wait for the running job"):
        assert expected in one


def test_the_way_home_is_shown_from_the_other_side(homeport: Homeport, vault: FakeVault) -> None:
    vault.items["web1"] = item(direction="reverse", active_site="away", state="ReverseProtected")
    assert "away → home" in homeport("status").out


def test_status_reminds_until_the_passphrase_is_confirmed(homeport: Homeport, vault: FakeVault, tmp_path: Path) -> None:
    assert "homeport vault passphrase --confirm" in homeport("status").out
    kept = tmp_path / "kept"
    kept.write_text("wrong horse\n")
    wrong = homeport("vault", "passphrase", "--confirm", "--passphrase-file", str(kept), "--json")
    assert (wrong.status, wrong.json["error"]["code"]) == (1, "vault.wrong-passphrase")
    kept.write_text("right horse\n")
    right = homeport("vault", "passphrase", "--confirm", "--passphrase-file", str(kept), "--json")
    assert (right.status, right.json) == (0, {"passphrase_confirmed": True})
    assert "passphrase" not in homeport("status").out


def test_points_are_listed_newest_first_with_the_names_they_go_by(homeport: Homeport, vault: FakeVault) -> None:
    lines = [line for line in homeport("points", "web1").out.splitlines() if TIMELINE in line]
    assert [line.split()[0] for line in lines] == [f"{TIMELINE}/{number}" for number in (3, 2, 1)]
    assert "latest, latest-processed" in lines[0]
    assert "before [upgrade]" in lines[1]


def test_jobs_are_shown_cancelled_and_run_again(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome = "failed"
    vault.error = {"code": "x.y", "cause": "it broke", "remedy": "mend it", "details": {}}
    homeport("resync", "web1")
    shown = homeport("job", "show", "job1").out
    for expected in ("resync of web1", "failed", "x.y: it broke", "mend it", "homeport job restart job1"):
        assert expected in shown
    assert homeport("job", "show", "job1", "--json").json["job"]["error"]["code"] == "x.y"
    assert homeport("job", "show", "job1", "--wait").status == 1
    vault.outcome = "succeeded"
    assert homeport("job", "restart", "job1", "--json").json["job"]["id"] == "job2"
    vault.held.clear()
    running = homeport("resync", "web1", "--no-wait").out.strip()
    assert [job["id"] for job in homeport("job", "list", "--only", "running", "--json").json["jobs"]] == [running]
    vault.held.set()
    cancelled = homeport("job", "cancel", running, "--json")
    assert (cancelled.status, cancelled.json["job"]["state"]) == (0, "cancelled")
    assert homeport("job", "show", "none", "--json").json["error"]["code"] == "job.not-found"


def test_a_vault_elsewhere_is_reached_with_its_token(homeport: Homeport, vault: FakeVault, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    elsewhere = ["--vault", vault.url, "--token-file", str(token), "--json"]
    assert homeport("status", *elsewhere).status == 0
    token.write_text("another")
    refused = homeport("status", *elsewhere)
    assert (refused.status, refused.json["error"]["code"]) == (1, "api.unauthorized")


def test_without_a_vault_the_error_says_how_to_start_one(homeport: Homeport, state: Path) -> None:
    never = homeport("status", "--json")
    assert (never.status, never.json["error"]["code"]) == (1, "cli.vault-not-running")
    assert "homeport up" in never.json["error"]["remedy"]
    state.mkdir()
    (state / "endpoint").write_text("http://127.0.0.1:1")
    (state / "token").write_text(TOKEN)
    gone = homeport("status")
    assert gone.status == 1
    assert "doesn't answer" in gone.err
    assert "homeport up" in gone.err
