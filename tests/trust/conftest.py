from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import delete
from structlog.typing import EventDict

from homeport.trust import proofs
from homeport.vault.app import create_vault
from homeport.vault.database import SettingRow
from tests.trust.world import Site, TlsVault


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State folder of a vault that has nothing but its database: making the schema takes longer than most tests."""
    state = tmp_path_factory.mktemp("vault") / "state"
    made = create_vault(state)
    with made.core.database.write() as session:
        session.execute(delete(SettingRow))
    made.close()
    for file in ("token", "vault-key.json", "passphrase", "authority.pem"):
        (state / file).unlink()
    return state


@pytest.fixture
def vault(tmp_path: Path, empty: Path) -> Iterator[TlsVault]:
    """One with the sites home and away, served over TLS."""
    shutil.copytree(empty, tmp_path / "vault")
    served = TlsVault(tmp_path / "vault")
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(autouse=True)
def cheap_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof's key takes a tenth of a second and 32 MiB, on both sides of each join: test_proofs_cost_what_they_should
    looks that it does."""
    monkeypatch.setattr(proofs, "N", 1 << 4)


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    kept = structlog.get_config()
    structlog.reset_defaults()  # a command line that ran in this process lets less through
    try:
        with structlog.testing.capture_logs() as found:
            yield found
    finally:
        structlog.configure(**kept)


@pytest.fixture
def home(vault: TlsVault, tmp_path: Path) -> Iterator[Site]:
    """The site home with a configuration server that has joined and listens."""
    site = Site(vault, "home", tmp_path / "home")
    try:
        yield site
    finally:
        site.stop()
