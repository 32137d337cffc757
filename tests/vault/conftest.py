from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sites import World
from vault_process import LocalVault


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[LocalVault]:
    served = LocalVault(tmp_path / "state")
    served.start()
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def world(vault: LocalVault) -> Iterator[World]:
    """Two sites whose servers are connected to the vault."""
    made = World(vault.url, vault.vault.token)
    try:
        made.set_up()
        yield made
    finally:
        made.close()
