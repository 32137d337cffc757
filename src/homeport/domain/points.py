"""Recovery points: their names, kinds and what is known of them without opening their data."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple


class Consistency(StrEnum):
    CRASH = "crash-consistent"
    APP = "app-consistent"


_FORM = re.compile(r"^([0-9a-f]{16})/(\d{1,16})$")


class PointId(NamedTuple):
    """``<timeline>/<number>``: no epoch in it, so that two writers of one number collide (design: promise 3)."""

    timeline: str
    number: int

    def __str__(self) -> str:
        return f"{self.timeline}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> PointId:
        """Raises ValueError unless ``text`` is sixteen hex digits, a slash and a number."""
        match = _FORM.match(text)
        if not match:
            raise ValueError(f"not a recovery point: {text!r} (expected <timeline>/<number>)")
        return cls(match[1], int(match[2]))

    def next(self) -> PointId:
        return PointId(self.timeline, self.number + 1)


def new_timeline() -> str:
    """A fresh timeline's id: sixteen hex digits."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class PointInfo:
    """What a list of points shows.

    ``time``: the instant, UTC; ``logical_bytes``: bytes changed since the parent; ``stored_bytes``: bytes in segments.
    ``group``: "<group>/<round>", where it is of one instant with other machines' points of that round (groups.py).
    """

    id: PointId
    time: datetime
    consistency: Consistency
    parent: PointId | None = None
    tags: tuple[str, ...] = ()
    logical_bytes: int = 0
    stored_bytes: int = 0
    hidden: bool = False
    disks: dict[str, int] = field(default_factory=dict)
    group: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "time": self.time.astimezone(UTC).isoformat(),
            "consistency": str(self.consistency),
            "parent": str(self.parent) if self.parent else None,
            "tags": list(self.tags),
            "logical_bytes": self.logical_bytes,
            "stored_bytes": self.stored_bytes,
            "hidden": self.hidden,
            "disks": dict(self.disks),
            "group": self.group,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PointInfo:
        return cls(
            id=PointId.parse(data["id"]),
            time=datetime.fromisoformat(data["time"]),
            consistency=Consistency(data["consistency"]),
            parent=PointId.parse(data["parent"]) if data.get("parent") else None,
            tags=tuple(data.get("tags", ())),
            logical_bytes=data.get("logical_bytes", 0),
            stored_bytes=data.get("stored_bytes", 0),
            hidden=data.get("hidden", False),
            disks=dict(data.get("disks", {})),
            group=data.get("group"),
        )
