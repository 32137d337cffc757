"""The stamp beside a restored image: which point it holds, as long as nobody has written to it since.

It is trusted only while the file is the same one (inode), as large, and neither its data nor its inode was touched
(mtime, ctime), and only until the next boot: after a power cut data may be newer than the times that tell of it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport.domain.points import PointId
from homeport.store.local import fsync_path

VERSION = 1
SUFFIX = ".homeport.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TICK = 0.02
"""Seconds; the kernel's file times are coarser than a write: up to 10 ms (its longest tick) go by unnoticed."""


@dataclass(frozen=True)
class Held:
    """``point`` of ``disk``, whose record had this SHA-256; ``size`` of the file in bytes."""

    vault: str
    machine: str
    point: PointId
    record_sha256: str
    disk: str
    size: int

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "point": str(self.point)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Held:
        """Raises ValueError, KeyError, TypeError."""
        held = cls(**{**data, "point": PointId.parse(data["point"])})
        texts = (held.vault, held.machine, held.record_sha256, held.disk)
        if not all(type(text) is str for text in texts) or type(held.size) is not int or held.size < 0:
            raise ValueError("not what a restored image holds")
        return held


def path_of(target: Path) -> Path:
    return target.with_name(target.name + SUFFIX)


def write_held(target: Path, held: Held) -> None:
    """``target``, flushed, holds what ``held`` says. No one else may be writing to it. Raises OSError."""
    # What is written after this moment must have later times than what was written before.
    while (missing := _TICK - (time.time() - os.stat(target).st_ctime)) > 0:
        time.sleep(min(missing, _TICK))
    _write(target, {"state": "holds", "held": held.to_json(), "file": _facts(os.stat(target)), "boot": _boot()})


def write_changing(target: Path, toward: PointId) -> None:
    """``target`` is about to be written to: whatever it held, nobody knows what it holds until that ends."""
    _write(target, {"state": "changing", "toward": str(toward)})


def read(target: Path) -> tuple[Held | None, str]:
    """What ``target`` holds for certain, else None and why that isn't known, in words."""
    try:
        found = json.loads(path_of(target).read_bytes())
        if found["homeport"] != "restore stamp" or found["version"] != VERSION:
            return None, "its stamp is of another version"
        if found["state"] != "holds":
            return None, "an earlier restore to it was interrupted"
        if found["boot"] != _boot() or not found["boot"]:
            return None, "the machine was started anew since it was stamped"
        if found["file"] != _facts(os.stat(target)):
            return None, "it was written to, or touched, since it was stamped"
        return Held.from_json(found["held"]), ""
    except FileNotFoundError:
        return None, "it has no stamp"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, "its stamp can't be read"


def _facts(status: os.stat_result) -> dict[str, int]:
    return {
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _write(target: Path, data: dict[str, Any]) -> None:
    path = path_of(target)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        json.dump({"homeport": "restore stamp", "version": VERSION, **data}, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    fsync_path(path.absolute().parent)
