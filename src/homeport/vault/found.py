"""What was found in recovery stores, for a vault that is restored or rebuilt, told by who can open them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from homeport.domain.points import PointId, PointInfo
from homeport.vault.database import Json

IMPORTED = "import"
"""The tag of a point that holds a machine's powered-off disks."""


@dataclass(frozen=True)
class FoundTimeline:
    """``points``: all of them, oldest first, hidden ones too."""

    id: str
    parent: PointId | None
    origin: PointId | None
    created: datetime
    ended: bool
    points: list[PointInfo] = field(default_factory=list)

    @property
    def imported(self) -> PointId | None:
        """The point of powered-off disks that it begins with, if it does."""
        return next((point.id for point in self.points if IMPORTED in point.tags), None)

    @property
    def grown(self) -> bool:
        """A machine replicated into it."""
        return any(IMPORTED not in point.tags for point in self.points)

    @property
    def hidden(self) -> bool:
        """A commit took its points out of the list."""
        return bool(self.points) and all(point.hidden for point in self.points)


@dataclass(frozen=True)
class FoundMachine:
    """One machine in one store. ``descriptions``: newest first. ``leases``: point by owner; a machine that runs on a
    point holds one under its name."""

    machine: str
    key: str
    descriptions: list[Json]
    timelines: dict[str, FoundTimeline]
    leases: dict[str, PointId]


@dataclass(frozen=True)
class FoundStore:
    """``folder``: the site's, where the store's address tells it."""

    url: str
    folder: str | None
    machines: dict[str, FoundMachine]
