from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.servers import ACCOUNT_KEY, Azurite, Moto


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    server = Moto()
    yield server
    server.close()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    server = Azurite(tmp_path_factory.mktemp("azurite"))
    yield server
    server.close()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """A file that opens both."""
    path = tmp_path / "credentials.toml"
    path.touch(0o600)
    path.write_text(
        f'[s3]\naccess_key_id = "tester"\nsecret_access_key = "a-secret-key"\n[az]\naccount_key = "{ACCOUNT_KEY}"\n'
    )
    return path
