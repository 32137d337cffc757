"""Points that lie finished in a local folder, on their way into the store.

Each has a folder of its own: its segments and its record as they will be uploaded, and ``complete``, written last:
a folder without it was never handed over and is deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.store.local import fsync_path, unavailable
from homeport.store.names import Segment
from homeport.store.records import sha256

RECORD = "record"
CHANGED = "changed.npz"
COMPLETE = "complete"
_FOLDER = re.compile(r"^[0-9a-f]{16}-\d{16}-\d{10}-\d{10}$")

log = get_logger(__name__)


def folder_name(point: PointId, epoch: int, count: int) -> str:
    """Sorted by name, points come in the order in which they were begun."""
    return f"{point.timeline}-{point.number:016d}-{epoch:010d}-{count:010d}"


def write_durably(path: Path, data: bytes) -> None:
    """Write and fsync a new file. Raises StoreUnavailable."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unavailable(error, f"can't write {path}") from error


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"not a number: {value!r}")
    return value


def _texts(value: Any) -> list[str]:
    if type(value) is not list or not all(type(text) is str for text in value):
        raise ValueError(f"not a list of texts: {value!r}")
    return value


class SpooledPoint:
    """A complete point in its folder. ``logical_bytes``: changed since the parent; ``stored_bytes``: in segments;
    ``stored``: what is in their frames, by disk (of a point that an earlier version made: not known)."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError where the folder isn't complete and whole."""
        self.path = path
        try:
            facts: dict[str, Any] = json.loads((path / COMPLETE).read_bytes())
            self.point = PointId.parse(facts["point"])
            self.logical_bytes, self.stored_bytes, self.epoch = (
                _number(facts[name]) for name in ("logical_bytes", "stored_bytes", "epoch")
            )
            self.record_sha256 = str(facts["record_sha256"])
            self.stored = {str(disk): _number(count) for disk, count in dict(facts.get("stored", {})).items()}
            self.digest_maps, self.disks = _texts(facts["digest_maps"]), _texts(facts["disks"])
            self.segments: list[tuple[Segment, int]] = [
                (Segment(self.point.timeline, _number(epoch), _number(seq)), _number(size))
                for epoch, seq, size in facts["segments"]
            ]
            for segment, size in self.segments:
                if self.file(segment.file).stat().st_size != size:
                    raise ValueError(f"{path}: {segment.file} doesn't have its {size} bytes")
            if sha256(self.record()) != self.record_sha256:
                raise ValueError(f"{path}: the record is damaged")
        except (OSError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a complete point: {error!r}") from error

    def __repr__(self) -> str:
        return f"SpooledPoint({self.point} at {str(self.path)!r})"

    def file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise ValueError(f"{self.path} lacks {name}")
        return path

    @property
    def handed(self) -> float:
        """When it was complete: seconds since the epoch."""
        return self.file(COMPLETE).stat().st_mtime

    @property
    def waiting(self) -> list[tuple[Segment, int]]:
        """Segments that aren't in the store yet."""
        return self.segments

    def record(self) -> bytes:
        return self.file(RECORD).read_bytes()

    def digest_map(self, number: int) -> bytes:
        """The sealed digest map of the disk ``digest_maps[number]``."""
        return self.file(f"digests-{number}").read_bytes()

    def changed_digests(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Per disk: the numbers of all blocks that the point writes or zeroes, ascending, and their digests (n, 16).
        Raises ValueError: the file is damaged."""
        try:
            return self._changed_digests()
        except Exception as error:  # what np.load raises at damage is any of a dozen, and no list of them is whole
            raise ValueError(f"{self.path}: {CHANGED} is damaged: {error!r}") from error

    def _changed_digests(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        result = {}
        with np.load(self.file(CHANGED)) as arrays:
            for number, disk in enumerate(self.disks):
                blocks, digests = arrays[f"blocks{number}"], arrays[f"digests{number}"]
                zeros = _expand(arrays[f"zeros{number}"])
                blocks = np.concatenate((blocks, zeros))
                digests = np.concatenate((digests, np.zeros((len(zeros), 16), np.uint8)))
                order = np.argsort(blocks, kind="stable")
                result[disk] = (blocks[order], digests[order])
        return result

    def remove(self) -> None:
        """Delete the folder. Absent: fine."""
        (self.path / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


class BuiltPoint:
    """A point whose segments were uploaded while it was built; only its record is missing in the store. It is lost with
    the process."""

    def __init__(
        self,
        path: Path,
        point: PointId,
        logical_bytes: int,
        stored_bytes: int,
        record: bytes,
        segments: list[tuple[Segment, int]],
        digest_maps: dict[str, bytes],
    ) -> None:
        self.path = path
        self.point = point
        self.logical_bytes = logical_bytes
        self.stored_bytes = stored_bytes
        self.segments = segments
        self.record_sha256 = sha256(record)
        self.digest_maps = list(digest_maps)
        self.waiting: list[tuple[Segment, int]] = []
        self._record = record
        self._maps = digest_maps

    def file(self, name: str) -> Path:
        return self.path / name

    def record(self) -> bytes:
        return self._record

    def digest_map(self, number: int) -> bytes:
        return self._maps[self.digest_maps[number]]

    def remove(self) -> None:
        """Delete the folder. Absent: fine."""
        shutil.rmtree(self.path, ignore_errors=True)


def _expand(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Block numbers of ``(first, count)`` runs."""
    counts = runs[:, 1]
    numbers: NDArray[np.int64] = np.repeat(runs[:, 0] - (np.cumsum(counts) - counts), counts) + np.arange(
        int(counts.sum()), dtype=np.int64
    )
    return numbers


def complete(path: Path, facts: dict[str, Any]) -> SpooledPoint:
    """Mark a folder whose files are all fsynced as complete: from now on it survives."""
    fsync_path(path)
    fresh = path / (COMPLETE + ".new")
    write_durably(fresh, json.dumps(facts).encode())
    fresh.rename(path / COMPLETE)
    fsync_path(path)
    fsync_path(path.parent)
    return SpooledPoint(path)


def spooled_points(spool: Path) -> list[SpooledPoint]:
    """The complete points in ``spool`` (the folder given to ``Writer.builder``), in the order they were begun.

    Leftovers that aren't complete are deleted, and so is what follows a damaged one on its timeline: its source still
    keeps those changes, since it was never told to forget them.
    """
    if not spool.is_dir():
        return []
    found: list[SpooledPoint] = []
    broken: set[str] = set()
    for path in sorted(path for path in spool.iterdir() if path.is_dir() and _FOLDER.match(path.name)):
        timeline = path.name[:16]
        try:
            if timeline in broken:
                raise ValueError(f"{path} follows a damaged point")
            found.append(SpooledPoint(path))
        except ValueError as error:
            if (path / COMPLETE).exists():
                broken.add(timeline)
                log.warning("spooled point is damaged and dropped", path=str(path), why=str(error))
            shutil.rmtree(path, ignore_errors=True)
    return found
