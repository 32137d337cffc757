"""What the items of one process server share when they ship: room in its cache, bandwidth, and how many threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from homeport.servers.cache_room import CacheRoom
from homeport.servers.throttle import Throttle
from homeport.store.writer import UPLOADS

MOST_THREADS = 32


@dataclass
class Shipping:
    """``threads``: that ship at once for a machine, 1 to :data:`MOST_THREADS`; another number counts from the next
    session on."""

    room: CacheRoom
    throttle: Throttle = field(default_factory=Throttle)
    threads: int = UPLOADS

    @classmethod
    def unlimited(cls, cache: Path) -> Shipping:
        return cls(CacheRoom(cache))
