"""Servers join, and who is not what it says is refused and logged: real TLS on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.joining import join_vault
from tests.trust.world import Site, TlsVault


def test_a_configuration_server_joins_by_key(vault: TlsVault, tmp_path: Path) -> None:
    made = join_vault(vault.key(), tmp_path / "cs", name="cs-1")
    assert (made.vault, made.role, made.site, made.name) == (
        vault.core.secrets.vault_id,
        Role.CONFIGURATION_SERVER,
        "home",
        "cs-1",
    )
    assert vault.server("cs-1")["state"] == "joined"
    for file in (tmp_path / "cs" / "identity").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_process_server_joins_by_passphrase(home: Site, tmp_path: Path) -> None:
    made = home.join(tmp_path / "ps")
    assert (made.role, made.site, made.name) == (Role.PROCESS_SERVER, "home", "ps-1")
    assert home.vault.server("ps-1")["state"] == "joined"
    with made.http_client(home.url, Role.CONFIGURATION_SERVER, "home") as client:
        assert client.get("/v1/self").json()["peer"] == made.who.uri


def test_a_wrong_passphrase(home: Site, tmp_path: Path) -> None:
    with pytest.raises(HomeportError) as refused:
        home.join(tmp_path / "ps", passphrase="abcd-abcd-abcd-abcd-abcd-abcd")
    assert refused.value.code == "join.passphrase-wrong"
