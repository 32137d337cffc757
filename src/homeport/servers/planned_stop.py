"""What a planned stop of replication came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homeport.domain.points import PointId


@dataclass
class Final:
    """The end of a planned stop. ``complete``: every change up to the stop is in the store as ``point``."""

    point: PointId | None
    complete: bool
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "point": str(self.point) if self.point else None,
            "complete": self.complete,
            "notes": self.notes,
        }
