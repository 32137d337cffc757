"""Building a point (or a part of a first copy) in a local folder: the hot path of replication.

    write → zeroes out → digests → frames: zstd → AES-GCM → segment file → fsync (→ upload)

All heavy steps let go of the interpreter's lock; threads that write side by side share nothing but a segment's end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.points import Consistency, PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import manifest, names, sealed, spool
from homeport.store.digests import SIZE, ZERO_DIGEST, hash_blocks, seal_map
from homeport.store.errors import StoreError
from homeport.store.finishing import Finishing, Upload
from homeport.store.index import EMPTY, FRAME_BLOCKS, ZERO, Rows, overlay, rows_of
from homeport.store.keys import MachineKey
from homeport.store.local import unavailable
from homeport.store.names import Segment
from homeport.store.records import (
    MemoryIndex,
    Record,
    blocks_of,
    disks_list,
    logical_bytes,
    merge,
    pack,
)
from homeport.store.segment import Frame, SegmentFile, SegmentInfo, pack_frame
from homeport.store.spool import BuiltPoint, SpooledPoint, write_durably

_BATCH = MiB
_COLUMNS = ("first", "count", "segment", "skip", "offset", "length", "frame")
"""Of a row while it is collected; ``segment`` is then the segment's ``seq``."""

Run = tuple[int, memoryview, bytes]
"""Byte offset on the disk, data, and the digests of its blocks one after another."""


class PointBuilder:
    """Made by :meth:`homeport.store.writer.Writer.builder`. Writes may come from several threads; of two writes to one
    block the later wins."""

    def __init__(
        self,
        keys: MachineKey,
        point: PointId,
        parent: PointId | None,
        epoch: int,
        folder: Path,
        *,
        next_seq: Callable[[], int],
        parent_sha256: Callable[[], str | None],
        parts: Callable[[], list[tuple[int, Record]]],
        upload: Upload | None = None,
        told: Upload | None = None,
    ) -> None:
        self.point = point
        self.parent = parent
        self.path = folder
        self._keys = keys
        self._epoch = epoch
        self._next_seq = next_seq
        self._parent_sha256 = parent_sha256
        self._parts = parts
        self._direct = upload is not None
        self._finishing = Finishing(upload, told=told)
        self._lock = threading.Lock()
        self._rows: dict[str, array[int]] = {}
        self._short: dict[str, set[int]] = {}
        self._stored: dict[str, int] = {}
        self._segments: list[SegmentFile] = []
        self._current: SegmentFile | None = None
        self._failed: BaseException | None = None
        """The first error of a write."""
        self._done = False
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise unavailable(error, f"can't make {folder}") from error

    # -- writing -------------------------------------------------------------------------------------------------------

    @property
    def stored_bytes(self) -> int:
        """Bytes in segments so far."""
        with self._lock:
            return sum(segment.size for segment in self._segments)

    def write(
        self, disk: str, offset: int, data: memoryview | bytes | bytearray, digests: NDArray[np.uint8] | None = None
    ) -> None:
        """``data`` at byte ``offset`` (a multiple of 16 KiB) of ``disk``; its length a multiple of 16 KiB too, unless
        it ends the disk. ``digests``: of its blocks, where known. Blocks of zeroes cost no data.
        Raises StoreUnavailable when the spool is full; the builder is then of no more use."""
        view = memoryview(data).cast("B")
        if digests is not None and digests.shape != (blocks_of(len(view)), SIZE):
            raise ValueError(f"{digests.shape} digests for {len(view)} bytes")
        for start in range(0, len(view), _BATCH):
            piece = view[start : start + _BATCH]
            if digests is None:
                known = hash_blocks(self._keys.digest_key, piece)
            else:
                known = digests[start // BLOCK :][: blocks_of(len(piece))].tobytes()
            self.write_runs(disk, [(offset + start, piece, known)])

    def write_runs(self, disk: str, runs: Sequence[Run]) -> None:
        """Several writes at once, with their digests (sixteen zero bytes: a block of zeroes); what they hold is about
        1 MiB together, since that is what one thread writes in one go. As :meth:`write`."""
        self._check()
        try:
            frames: list[Frame] = []
            zeros: list[tuple[int, int]] = []
            for offset, data, digests in runs:
                if offset % BLOCK or offset < 0:
                    raise ValueError(f"offset {offset} is not a multiple of {BLOCK}")
                _pack_run(offset // BLOCK, data, digests, frames, zeros)
            rows = array("q")
            if frames:
                segment = self._enter()
                try:
                    places = segment.append(disk, frames)
                finally:
                    segment.leave()
                for frame, place in zip(frames, places, strict=True):
                    rows.extend(
                        (frame.first, frame.count, place.segment.seq, 0, place.offset, place.length, place.number)
                    )
            for first, count in zeros:
                rows.extend((first, count, ZERO, 0, 0, 0, 0))
            with self._lock:
                self._rows.setdefault(disk, array("q")).extend(rows)
                self._stored[disk] = self._stored.get(disk, 0) + sum(rows[5 :: len(_COLUMNS)])
                for offset, data, _ in runs:
                    if len(data) % BLOCK:
                        self._short.setdefault(disk, set()).add(offset + len(data))
        except OSError as error:
            told = unavailable(error, f"can't write to {self.path}")
            self._failed = self._failed or told
            raise told from error
        except BaseException as error:
            self._failed = self._failed or error
            raise

    def zero(self, disk: str, offset: int, length: int) -> None:
        """``length`` bytes from ``offset`` are zeroes: an extent, no data. Both multiples of 16 KiB, unless the range
        ends the disk."""
        if offset % BLOCK or offset < 0 or length < 0:
            raise ValueError(f"{offset}+{length} is not aligned to {BLOCK}")
        self._check()
        if not length:
            return
        with self._lock:
            row = (offset // BLOCK, blocks_of(length), ZERO, 0, 0, 0, 0)
            self._rows.setdefault(disk, array("q")).extend(row)
            if length % BLOCK:
                self._short.setdefault(disk, set()).add(offset + length)

    def _check(self) -> None:
        if isinstance(self._failed, StoreError):  # met by another thread, perhaps: whoever hears of it hears why
            raise copy(self._failed) from self._failed
        if self._failed or self._done:
            raise StoreError(f"point {self.point} can't be written to any more", code="store.builder-closed")

    def _enter(self) -> SegmentFile:
        """The segment to append to, entered; a full one is finished in the background by who meets it first."""
        full = None
        with self._lock:
            if self._current is None or self._current.full:
                full = self._current
                place = Segment(self.point.timeline, self._epoch, self._next_seq())
                self._current = SegmentFile(self.path, self._keys, place)
                self._segments.append(self._current)
            current = self._current
            current.enter()
        if full is not None:
            try:
                self._finishing.begin(full)
            except BaseException:
                current.leave()
                raise
        return current

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(
        self,
        *,
        instant: datetime,
        consistency: Consistency | str = Consistency.CRASH,
        disks: dict[str, int],
        incarnation: str = "",
        tags: Sequence[str] = (),
        machine: dict[str, Any] | None = None,
        digest_maps: dict[str, NDArray[np.uint8]] | None = None,
        notes: Sequence[str] = (),
        group: str | None = None,
    ) -> SpooledPoint:
        """Everything is on the disk when this returns: the point counts as *handed*. ``instant``: UTC; ``disks``: sizes
        in bytes of all disks, in the machine's order; ``digest_maps``: digests of all blocks of a disk as of this
        point, to be kept beside it; ``group``: see :class:`PointInfo`. No write may be under way. Raises
        StoreUnavailable, ValueError."""
        head = _head(instant, consistency, disks, incarnation, tags, machine, notes)
        if group is not None:
            head["group"] = group
        with self._ending():
            built, rows = self._build(head, disks, digest_maps or {})
            return self._spool(built, rows)

    def finish_uploaded(
        self,
        *,
        instant: datetime,
        consistency: Consistency | str = Consistency.CRASH,
        disks: dict[str, int],
        incarnation: str = "",
        tags: Sequence[str] = (),
        machine: dict[str, Any] | None = None,
        digest_maps: dict[str, NDArray[np.uint8]] | None = None,
        notes: Sequence[str] = (),
    ) -> BuiltPoint:
        """As :meth:`finish`, for a builder that uploads: all segments are in the store when this returns, nothing is
        kept in the spool. Raises what went wrong with an upload, too."""
        head = _head(instant, consistency, disks, incarnation, tags, machine, notes)
        with self._ending():
            return self._build(head, disks, digest_maps or {})[0]

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        self._check()
        self._done = True
        try:
            yield
        except OSError as error:
            self._close()
            raise unavailable(error, f"can't write to {self.path}") from error
        except BaseException:
            self._close()
            raise

    def _build(
        self, head: dict[str, Any], disks: dict[str, int], digest_maps: dict[str, NDArray[np.uint8]]
    ) -> tuple[BuiltPoint, dict[str, Rows]]:
        seqs = np.array([segment.segment.seq for segment in self._segments], np.int64)
        rows = {disk: _painted(collected, seqs) for disk, collected in self._rows.items()}
        self._check_sizes(rows, disks)
        parts = self._parts()
        head |= {
            "kind": "point",
            "timeline": self.point.timeline,
            "number": self.point.number,
            "parent": str(self.parent) if self.parent else None,
            "parent_sha256": self._parent_sha256() if self.parent else None,
            "epoch": self._epoch,
            "folds": [number for number, _ in parts],
            "built": secrets.token_hex(16),
        }
        salt = os.urandom(32)
        if self._current is not None:
            randoms = [(segment.segment.seq, segment.random) for segment in self._segments]
            built_parts = [part.head["built"] for _, part in parts]
            again = {
                disk
                for disk, collected in self._rows.items()
                if int(np.frombuffer(collected, np.int64)[1 :: len(_COLUMNS)].sum()) != int(rows[disk]["count"].sum())
            }
            self._current.manifest = manifest.write(dict(head), salt, randoms, rows, again, built_parts)
            self._finishing.finish(self._current)
        self._finishing.wait()
        self._finishing.check()
        infos = [
            SegmentInfo(segment.segment, segment.size, segment.directory_offset, segment.random)
            for segment in self._segments
        ]
        own = MemoryIndex.of({disk: found.copy() for disk, found in rows.items()}, infos)
        # The first point of a timeline takes in the parts of its first copy; zeroes over nothing needn't be said.
        is_part = self.point.number == 0
        layers = [(part, disks) for _, part in parts]
        index = merge([*layers, (own, disks)], keep_zeros=self.parent is not None or is_part)
        kept = self._keep_files(index)
        logical = logical_bytes(own, disks)
        stored = sum(info.size for info in kept)
        fields, sections = pack(index)
        head |= {"logical_bytes": logical, "stored_bytes": stored, **fields}
        key = names.point(self._keys.machine, self.point)
        record = sealed.seal(self._keys.key, self._keys.vault, key, sealed.POINT, head, sections, salt=salt)
        maps = {}
        for disk, blocks in digest_maps.items():
            if len(blocks) != blocks_of(disks[disk]):
                raise ValueError(f"{len(blocks)} digests for {disk} of {disks[disk]} bytes")
            place = names.digests(self._keys.machine, self.point, disk)
            maps[disk] = seal_map(self._keys, place, disks[disk], blocks, head["built"])
        sizes = [(info.segment, info.size) for info in kept]
        return BuiltPoint(self.path, self.point, logical, stored, record, sizes, maps), rows

    def _spool(self, built: BuiltPoint, rows: dict[str, Rows]) -> SpooledPoint:
        write_durably(self.path / spool.RECORD, built.record())
        for number in range(len(built.digest_maps)):
            write_durably(self.path / f"digests-{number}", built.digest_map(number))
        self._save_changed(rows)
        facts = {
            "point": str(self.point),
            "epoch": self._epoch,
            "logical_bytes": built.logical_bytes,
            "stored_bytes": built.stored_bytes,
            "record_sha256": built.record_sha256,
            "segments": [(segment.epoch, segment.seq, size) for segment, size in built.segments],
            "digest_maps": built.digest_maps,
            "disks": list(rows),
            "stored": self._stored,
        }
        return spool.complete(self.path, facts)

    def _check_sizes(self, rows: dict[str, Rows], disks: dict[str, int]) -> None:
        for disk, found in rows.items():
            names.name(disk)
            if disk not in disks:
                raise ValueError(f"{disk} was written to, but is no disk of the point")
            if len(found) and int((found["first"] + found["count"])[-1]) > blocks_of(disks[disk]):
                raise ValueError(f"{disk} was written to beyond its {disks[disk]} bytes")
            if any(end != disks[disk] for end in self._short.get(disk, ())):
                raise ValueError(f"{disk}: a write of a broken block doesn't end the disk of {disks[disk]} bytes")

    def _keep_files(self, index: MemoryIndex) -> list[SegmentInfo]:
        """The segments of this builder that the index names; the files of all others are deleted."""
        own = {segment.segment: segment for segment in self._segments}
        kept = [info for info in index.segments if info.segment in own]
        for place in own.keys() - {info.segment for info in kept}:
            own[place].path.unlink(missing_ok=self._direct)
        return kept

    def _save_changed(self, rows: dict[str, Rows]) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        for number, found in enumerate(rows.values()):
            zeros = found[found["segment"] == ZERO]
            arrays[f"zeros{number}"] = np.stack((zeros["first"], zeros["count"]), axis=1)
            blocks, digests = [np.zeros(0, np.int64)], [np.zeros((0, 16), np.uint8)]
            for place, segment in enumerate(self._segments):
                mine = found[found["segment"] == place]
                if len(mine):
                    cells, taken = gather(mine, segment.starts, segment.digests)
                    blocks.append(cells)
                    digests.append(taken)
            arrays[f"blocks{number}"] = np.concatenate(blocks)
            arrays[f"digests{number}"] = np.concatenate(digests)
        path = self.path / spool.CHANGED
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        """Throw all of it away. After ``finish`` too, as long as the point isn't published."""
        self._done = True
        self._close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _close(self) -> None:
        self._finishing.wait()
        for segment in self._segments:
            segment.close()


def _head(
    instant: datetime,
    consistency: Consistency | str,
    disks: dict[str, int],
    incarnation: str,
    tags: Sequence[str],
    machine: dict[str, Any] | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What the record says that isn't found by building it."""
    if instant.tzinfo is None:
        raise ValueError("the instant needs a time zone (UTC)")
    return {
        "instant": instant.astimezone(UTC).isoformat(),
        "consistency": str(Consistency(consistency)),
        "tags": list(tags),
        "incarnation": incarnation,
        "disks": disks_list(disks),
        "machine": machine or {},
        "notes": list(notes),
    }


def _pack_run(first: int, data: memoryview, digests: bytes, frames: list[Frame], zeros: list[tuple[int, int]]) -> None:
    """The frames of ``data``, which begins at block ``first``, and its runs of zeroes (first block, blocks)."""
    blocks = len(digests) // SIZE
    pieces = _cuts(first, blocks)
    # Sixteen zero bytes in a row are mostly a whole digest, and hardly ever part of two.
    if ZERO_DIGEST in digests:
        live = np.empty(blocks, np.bool_)
        np.frombuffer(digests, np.uint64).reshape(blocks, 2).any(axis=1, out=live)
        zeros += [(first + start, stop - start) for start, stop in _runs(~live, first, 0)]
        pieces = _runs(live, first, FRAME_BLOCKS)
    for start, stop in pieces:
        frames.append(
            pack_frame(first + start, data[start * BLOCK : stop * BLOCK], digests[start * SIZE : stop * SIZE])
        )


def _cuts(first: int, blocks: int) -> Iterable[tuple[int, int]]:
    """A run of blocks, cut at multiples of a frame's largest size."""
    return itertools.pairwise([0, *range(FRAME_BLOCKS - first % FRAME_BLOCKS, blocks, FRAME_BLOCKS), blocks])


def _runs(mask: NDArray[np.bool_], first: int, cut: int) -> list[tuple[int, int]]:
    """Runs of True as ``(start, stop)``; with ``cut``, also cut at multiples of it (counted from the disk's start)."""
    blocks = np.flatnonzero(mask)
    if not len(blocks):
        return []
    breaks = np.diff(blocks) != 1
    if cut:
        breaks |= (blocks[1:] + first) % cut == 0
    at = np.flatnonzero(breaks)
    starts = blocks[np.concatenate(([0], at + 1))]
    stops = blocks[np.concatenate((at, [len(blocks) - 1]))] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _painted(collected: array[int], seqs: NDArray[np.int64]) -> Rows:
    """Rows that name segments by ``seq`` (ascending in ``seqs``) as disjoint rows that name them by place."""
    table = np.frombuffer(collected, np.int64).reshape(-1, len(_COLUMNS))
    rows = rows_of({name: table[:, place] for place, name in enumerate(_COLUMNS)}, len(table)) if len(table) else EMPTY
    data = rows["segment"] != ZERO
    rows["segment"][data] = np.searchsorted(seqs, rows["segment"][data])
    return overlay(rows)


def gather(
    rows: Rows, starts: NDArray[np.int64], digests: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """For data rows of one segment: all their block numbers, and the digests of these out of the segment's list
    (``starts[n]``: where frame n's begin)."""
    counts = rows["count"]
    steps = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    blocks = np.repeat(rows["first"], counts) + steps
    places = np.repeat(starts[rows["frame"]] + rows["skip"], counts) + steps
    return blocks, digests[places]
