"""How much room a process server's cache has."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from homeport.domain import process_servers
from homeport.domain.errors import HomeportError
from homeport.domain.process_servers import FREE_THROTTLED, Room
from homeport.domain.units import GiB

LOOK_AFTER = 1.0
"""Seconds that a look may be old: with a quota, it goes through all of the cache's files."""


class CacheFull(HomeportError):
    """``details``: ``free``, ``total``: bytes."""

    code = "process-server.cache-full"
    remedy = (
        "Changes stay tracked at the machine, and points go on by themselves once there is room: have the recovery "
        "store take what waits, free space there, or give the cache more."
    )


class CacheRoom:
    """Of ``folder``, be it there yet or not. ``quota``: bytes that it may have at most; None: its volume's. Safe from
    several threads."""

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.folder = folder
        self.quota = quota
        self._lock = threading.Lock()
        self._seen: tuple[float, Room] | None = None

    def look(self) -> Room:
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > LOOK_AFTER:
                self._seen = (time.monotonic(), self._measure())
            return self._seen[1]

    def changed(self) -> None:
        """Something of it was removed: the next look is a fresh one."""
        with self._lock:
            self._seen = None

    def require(self, backlog: int = 0) -> None:
        """Raises :class:`CacheFull` where no point should be begun. ``backlog``: points that wait."""
        room = self.look()
        if not room.throttled:
            return
        waits = f", while {backlog} points wait in it for the recovery store" if backlog else ""
        raise CacheFull(
            f"the process server's cache has {room.free / GiB:.2f} of {room.total / GiB:.2f} GiB free "
            f"({room.share:.0%}), less than the {FREE_THROTTLED:.0%} from which on no point is begun{waits}",
            free=room.free,
            total=room.total,
        )

    def _measure(self) -> Room:
        place = self.folder
        while not place.exists():
            place = place.parent
        status = os.statvfs(place)
        used = status.f_blocks - status.f_bfree  # what is kept from us is no part of it, as df(1) counts
        volume = Room(status.f_bavail * status.f_frsize, (used + status.f_bavail) * status.f_frsize)
        return process_servers.room(volume, self.quota, _used(self.folder) if self.quota is not None else 0)


def _used(folder: Path) -> int:
    """Bytes on disk below a folder; what goes away meanwhile counts for nothing."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
