"""Reference 6.3: what a retention drive must not be, and that the reason is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homeport.domain.retention_drives import Volume, why_not

GOOD = Volume("/mnt/retention", "8:17", "ext4", 1 << 40, 1 << 39, True)


def test_a_drive_of_its_own_is_eligible() -> None:
    assert why_not(GOOD, {"8:1": "the process server's cache"}) is None


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (replace(GOOD, device="8:1"), "in use: the process server's cache"),
        (replace(GOOD, writable=False), "locked"),
        (replace(GOOD, filesystem="vfat"), "vfat"),
        (replace(GOOD, filesystem="tmpfs"), "memory"),
        (replace(GOOD, total=0, free=0), "no capacity"),
        (replace(GOOD, free=0), "no room"),
    ],
)
def test_any_other_is_listed_with_the_reason(volume: Volume, reason: str) -> None:
    found = why_not(volume, {"8:1": "the process server's cache"})
    assert found is not None
    assert reason in found
