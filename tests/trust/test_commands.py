"""The commands that set servers up, against a vault over TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from homeport.cli import joining, main
from tests.trust.world import InBetween, Site, TlsVault

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(
    vault: TlsVault,
    log: list[EventDict],  # or the vault's would stand in the command's answers
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """`homeport ARGUMENTS --json`, on another machine than the vault's: with its address, a token and its authority."""
    monkeypatch.setenv("HOMEPORT_CA", str(vault.state / "authority.pem"))
    monkeypatch.delenv("HOMEPORT_STATE", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, vault_at: str | None = vault.url) -> tuple[int, Any]:
        capfd.readouterr()
        where = ["--vault", vault_at, "--token-file", str(vault.state / "token")] if vault_at else []
        status = main([*arguments, *where, "--json"])
        out, _ = capfd.readouterr()
        return status, json.loads(out)

    monkeypatch.setattr(joining, "log_to_standard_error", lambda: None)
    return run


def test_from_a_key_to_a_revocation(run: Run, vault: TlsVault, tmp_path: Path) -> None:
    status, made = run("vault", "key", "new", "--site", "home")
    assert status == 0
    assert made["registration_key"]["file"] == "home.key"
    assert "key" not in made["registration_key"]
    assert (tmp_path / "home.key").stat().st_mode & 0o777 == 0o600
    assert run("vault", "key", "new", "--site", "home")[0] == 2, "it overwrites none"
    join = ("configuration-server", "join", "--key", "home.key", "--state", "cs", "--name", "cs-1")
    status, joined = run(*join, vault_at=None)
    assert (status, joined["joined"]["role"], joined["joined"]["site"]) == (0, "configuration-server", "home")
    status, found = run("server", "list")
    assert (status, [each["name"] for each in found["servers"]]) == (0, ["vault-1", "cs-1"])
    status, refused = run("server", "revoke", "cs-1")
    assert (status, refused["error"]["code"]) == (2, "cli.confirmation-needed")
    assert run("server", "revoke", "cs-1", "--yes")[1]["server"]["state"] == "revoked"
    assert run("server", "remove", "cs-1", "--yes")[1]["removed"][0]["name"] == "cs-1"


def test_joining_by_passphrase(run: Run, home: Site, tmp_path: Path) -> None:
    status, shown = run("configuration-server", "passphrase", "--state", str(home.state), vault_at=None)
    assert (status, shown["join_passphrase"]) == (0, home.passphrase.text)
    (tmp_path / "secret").write_text(shown["join_passphrase"] + "\n")
    for role in ("process-server", "master-target"):
        join = (role, "join", "--url", home.url, "--passphrase-file", "secret", "--state", role, "--name", f"a-{role}")
        status, joined = run(*join, vault_at=None)
        assert (status, joined["joined"]["role"]) == (0, role)
    status, other = run("configuration-server", "passphrase", "--rotate", "--state", str(home.state), vault_at=None)
    assert (status, other["rotated"]) == (0, True)
    status, refused = run(*join[:-2], "--state", "b", "--name", "x", vault_at=None)
    assert (status, refused["error"]["code"]) == (1, "join.passphrase-wrong")
    status, refused = run("configuration-server", "passphrase", "--state", "nowhere", vault_at=None)
    assert (status, refused["error"]["code"]) == (1, "identity.missing")


def test_trusting_a_vault(run: Run, vault: TlsVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = run("vault", "authority")[1]["authority"]["fingerprint"]
    assert fingerprint == vault.core.authority.fingerprint
    trust = ("vault", "trust", vault.url, "--out", "trusted.pem", "--fingerprint")
    status, refused = run(*trust, "00" * 32, vault_at=None)
    assert (status, refused["error"]["code"]) == (1, "cli.fingerprint-differs")
    assert not (tmp_path / "trusted.pem").exists()
    spelled = ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    assert run(*trust, spelled, vault_at=None)[0] == 0
    monkeypatch.setenv("HOMEPORT_CA", "trusted.pem")
    assert run("server", "list")[0] == 0
    monkeypatch.setenv("HOMEPORT_CA", "missing.pem")
    assert run("server", "list")[1]["error"]["code"] == "cli.authority-unreadable"


def test_the_token_goes_to_nobody_in_between(run: Run, vault: TlsVault, tmp_path: Path, home: Site) -> None:
    between = InBetween(vault.url, vault.identity.who, tmp_path)
    try:
        status, refused = run("server", "list", vault_at=between.url)
        assert (status, refused["error"]["code"]) == (1, "tls.peer-unknown")
        assert bytes(between.seen) == b""
    finally:
        between.stop()
    status, refused = run("server", "list", vault_at=home.url)
    assert (status, refused["error"]["code"]) == (1, "tls.wrong-peer"), "another server of the vault is not the vault"


def test_a_configuration_server_is_backed_up_and_restored(run: Run, vault: TlsVault, home: Site) -> None:
    backup = ("configuration-server", "backup", "--state", str(home.state))
    status, made = run(*backup, "--to", "cs.backup", vault_at=None)
    assert (status, made["backup"]["server"], made["backup"]["file"]) == (0, "cs-home", "cs.backup")
    assert Path("cs.backup").stat().st_mode & 0o777 == 0o600
    Path("home.key").write_text(vault.key(replace=True))
    restore = ("configuration-server", "restore", "--key", "home.key", "--state", "again")
    assert run(*restore, "--from-vault", vault_at=None)[1]["error"]["code"] == "configuration-server.still-there"
    vault.core.liveness._since -= 60  # a vault that began just now knows nobody to be gone
    assert run(*restore, vault_at=None)[0] == 2, "from where?"
    assert run(*restore, "--from-vault", "--from", "cs.backup", vault_at=None)[0] == 2
    status, told = run(*restore, "--from", "cs.backup", vault_at=None)
    assert (status, told["restored"]["name"], told["restored"]["site"]) == (0, "cs-home", "home")
    assert told["restored"]["backup"]["created"] == made["backup"]["created"]
