from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from tests.trust.world import Site, TlsVault


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[TlsVault]:
    """One with the sites home and away, served over TLS."""
    served = TlsVault(tmp_path / "vault")
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.fixture
def home(vault: TlsVault, tmp_path: Path) -> Iterator[Site]:
    """The site home with a configuration server that has joined and listens."""
    site = Site(vault, "home", tmp_path / "home")
    try:
        yield site
    finally:
        site.stop()
