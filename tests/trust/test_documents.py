"""docs/security.md names every event of the security log, and none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from homeport.trust.security import Event

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def test_every_event_is_documented() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `security.")]
    named = [name for row in rows for name in re.findall(r"`(security\.[a-z-]+)`", row.split(" | ", 1)[0])]
    assert sorted(named) == sorted(Event)
