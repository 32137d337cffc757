from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "qemu"))

from storage_daemon import StorageDaemon, storage_daemon


@pytest.fixture
def daemon() -> Iterator[StorageDaemon]:
    with storage_daemon() as running:
        yield running
