from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "qemu"))

from storage_daemon import MiB, StorageDaemon, storage_daemon


@pytest.fixture
def daemon() -> Iterator[StorageDaemon]:
    """A machine without a guest: disk0 raw, disk1 qcow2, of 2 MiB each."""
    with storage_daemon(2 * MiB) as running:
        yield running
