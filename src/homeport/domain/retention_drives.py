"""Which drive may be the retention drive of a master target: one of its own, that can be written and holds large files
(reference 6.3, rows 26 to 30). The others are listed with the reason, not hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FAT = frozenset({"vfat", "msdos", "fat", "exfat"})
"""FAT32 ends a file at 4 GiB; exFAT keeps no journal: a power cut may cost what was kept."""
IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class Volume:
    """A mounted file system. ``device``: equal for two folders on one volume. Sizes in bytes."""

    path: str
    device: str
    filesystem: str
    total: int
    free: int
    writable: bool


def why_not(volume: Volume, used_for: Mapping[str, str]) -> str | None:
    """The reason why ``volume`` can't be a retention drive; None: it can. ``used_for``: by device what lies there."""
    if volume.device in used_for:
        return f"in use: {used_for[volume.device]}"
    if not volume.writable:
        return "locked: it can't be written"
    if volume.filesystem in FAT:
        return f"its file system is {volume.filesystem}, which does not hold large files safely"
    if volume.filesystem in IN_MEMORY:
        return "it lies in memory: a restart would empty it"
    if volume.total <= 0 or volume.free <= 0:
        return "it has no capacity" if volume.total <= 0 else "it has no room left"
    return None
