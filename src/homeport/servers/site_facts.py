"""What the servers of a site add to its host's facts: the recovery store, and the drives of cache and retention."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from homeport.domain.errors import HomeportError
from homeport.domain.retention_drives import Volume
from homeport.store.objects import Objects

_SECONDS = 5.0
"""A cloud's client tries for minutes; a check wants to know whether the store answers now."""


def drive(folder: Path) -> dict[str, Any]:
    """The volume under a folder, be it there yet or not; an empty answer where nothing can be told."""
    place = folder
    while not place.exists():
        place = place.parent
    try:
        usage, status = shutil.disk_usage(place), os.stat(place)
    except OSError:
        return {"path": str(folder)}
    return {
        "path": str(folder),
        "free": usage.free,
        "total": usage.total,
        "device": f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}",
        "filesystem": _filesystem(status.st_dev),
        "writable": os.access(place, os.W_OK) and not os.statvfs(place).f_flag & os.ST_RDONLY,
    }


def _filesystem(device: int) -> str | None:
    """Of /proc/self/mountinfo (proc(5)): the type stands behind the dash, the device is the third field."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0].lower()
    return None


_PSEUDO = frozenset(
    {
        *("proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "mqueue", "debugfs", "tracefs", "securityfs"),
        *("pstore", "bpf", "configfs", "fusectl", "hugetlbfs", "autofs", "binfmt_misc", "rpc_pipefs", "nsfs"),
        *("efivarfs", "squashfs", "iso9660"),
    }
)


def volumes() -> list[Volume]:
    """The mounted file systems that hold files, each once, at the shortest path."""
    found: dict[str, Volume] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        device, path, filesystem = fields[2], fields[4].encode().decode("unicode_escape"), after.split()[0].lower()
        known = found.get(device)
        if (
            filesystem in _PSEUDO
            or path.startswith("/sys/")
            or not os.path.isdir(path)
            or (known and len(known.path) <= len(path))
        ):
            continue
        try:
            usage, flags = shutil.disk_usage(path), os.statvfs(path).f_flag
        except OSError:
            continue  # not ours to look at, or gone
        writable = not flags & os.ST_RDONLY and os.access(path, os.W_OK)
        found[device] = Volume(path, device, filesystem, usage.total, usage.free, writable)
    return sorted(found.values(), key=lambda volume: volume.path)


def device_of(folder: Path) -> str | None:
    """Of the volume under a folder, be it there yet or not."""
    return drive(folder).get("device")


class StoreProbe:
    """Asks a store whether it answers, one question at a time, however long the last one takes."""

    def __init__(self, objects: Objects, url: str, seconds: float = _SECONDS) -> None:
        self._objects = objects
        self._url = url
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asked: threading.Thread | None = None
        self._answer: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """{"reachable", "why", "free", "path", "at"}; ``free`` and ``path`` only of a store in a local folder."""
        with self._lock:
            if self._asked is None or not self._asked.is_alive():
                self._answer = {}
                self._asked = threading.Thread(target=self._ask, name="store-probe", daemon=True)
                self._asked.start()
            asked = self._asked
        asked.join(self._seconds)
        silent = {"reachable": False, "why": f"it did not answer within {self._seconds:.0f} s"}
        return {
            **(self._answer or silent),
            "free": self._free(),
            "path": self._path(),
            "at": datetime.now(UTC).isoformat(),
        }

    def _ask(self) -> None:
        try:
            next(iter(self._objects.list("vault/")), None)
        except (HomeportError, OSError) as error:
            self._answer = {"reachable": False, "why": str(error)}
        else:
            self._answer = {"reachable": True, "why": ""}

    def _path(self) -> str | None:
        parts = urlsplit(self._url)
        return os.path.realpath(unquote(parts.path)) if parts.scheme == "file" else None

    def _free(self) -> int | None:
        path = self._path()
        if path is None:
            return None
        try:
            return shutil.disk_usage(path).free
        except OSError:
            return None
