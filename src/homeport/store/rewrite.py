"""Copying what lives in segments into fresh ones: opened, checked, laid side by side where they are neighbours on the
disk, and sealed anew (another segment has another key, so no nonce is used twice)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from homeport.domain.units import BLOCK, MiB
from homeport.store.digests import block_digests
from homeport.store.errors import Corrupt, NotFound
from homeport.store.index import EMPTY, FRAME_BLOCKS, Rows, ends, rows_of
from homeport.store.names import Segment
from homeport.store.ranges import get_ranges
from homeport.store.segment import Frame, SegmentCipher, SegmentFile, SegmentInfo, open_frame, pack_frame
from homeport.store.sweep import Swept, delete, unnamed

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

_BATCH = 64 * MiB
"""Bytes of blocks that are held in memory and laid in order at once."""


class Rewriter:
    """Writes segments of one fold. ``infos``: those that are in the store; ``damaged``: segments that couldn't be
    read, whose rows stay what they are."""

    def __init__(self, store: MachineStore, folder: Path, timeline: str, epoch: int) -> None:
        self.infos: list[SegmentInfo] = []
        self.damaged: dict[int, str] = {}
        self.read_bytes = 0
        self.written_bytes = 0
        self._store = store
        self._folder = folder
        self._timeline = timeline
        self._epoch = epoch
        self._file: SegmentFile | None = None

    def copy(self, table: list[SegmentInfo], rows: dict[str, Rows]) -> dict[str, Rows]:
        """Copy what data rows name (``segment``: a place in ``table``). Returns rows of the same blocks, disjoint and
        ascending, but of damaged segments; ``segment``: a place in :attr:`infos`. Raises StoreUnavailable."""
        result: dict[str, list[Rows]] = {disk: [] for disk in rows}
        for batch in self._batches(rows):
            data = self._fetch(table, batch)
            for disk, mine in batch.items():
                whole = mine[~np.isin(mine["segment"], list(self.damaged))]
                if len(whole):
                    result[disk].append(self._write(disk, whole, data))
        self._close()
        found = {disk: np.concatenate([EMPTY, *pieces]) for disk, pieces in result.items()}
        return {disk: pieces[np.argsort(pieces["first"], kind="stable")] for disk, pieces in found.items()}

    def _batches(self, rows: dict[str, Rows]) -> Iterator[dict[str, Rows]]:
        """By segment, so that each is read once."""
        sizes: dict[int, int] = {}
        for mine in rows.values():
            blocks = np.bincount(mine["segment"], weights=mine["count"]) if len(mine) else np.zeros(0)
            for segment in np.flatnonzero(blocks).tolist():
                sizes[segment] = sizes.get(segment, 0) + int(blocks[segment]) * BLOCK
        batch: list[int] = []
        total = 0
        for segment in sorted(sizes):
            if batch and total + sizes[segment] > _BATCH:
                yield {disk: mine[np.isin(mine["segment"], batch)] for disk, mine in rows.items()}
                batch, total = [], 0
            batch.append(segment)
            total += sizes[segment]
        if batch:
            yield {disk: mine[np.isin(mine["segment"], batch)] for disk, mine in rows.items()}

    def _fetch(self, table: list[SegmentInfo], batch: dict[str, Rows]) -> dict[tuple[int, int], bytes]:
        """Opened frames by segment and number."""
        wanted: dict[int, dict[int, tuple[str, int, int, int]]] = {}
        for disk, rows in batch.items():
            columns = (rows[name].tolist() for name in ("segment", "frame", "first", "skip", "offset", "length"))
            for segment, frame, first, skip, offset, length in zip(*columns, strict=True):
                wanted.setdefault(segment, {})[frame] = (disk, first - skip, offset, length)
        result: dict[tuple[int, int], bytes] = {}
        keys = self._store.keys
        for place, frames in wanted.items():
            info = table[place]
            key = info.segment.key(self._store.machine)
            cipher = SegmentCipher(keys, info.segment, info.random)
            try:
                sealed = get_ranges(
                    self._store.objects, key, [(offset, size) for _, _, offset, size in frames.values()]
                )
                for (number, (disk, first, _, size)), data in zip(frames.items(), sealed, strict=True):
                    result[place, number] = open_frame(keys, cipher, info.segment, disk, number, first, data)
                    self.read_bytes += size
            except NotFound:
                self.damaged[place] = f"{key} is missing"
            except Corrupt as error:
                self.damaged[place] = error.cause
        return result

    def _write(self, disk: str, rows: Rows, data: dict[tuple[int, int], bytes]) -> Rows:
        """Neighbours become one frame, up to the next multiple of sixteen blocks."""
        rows = rows[np.argsort(rows["first"], kind="stable")]
        cell = rows["first"] // FRAME_BLOCKS
        fresh = np.ones(len(rows), np.bool_)
        fresh[1:] = (rows["first"][1:] != ends(rows)[:-1]) | (np.diff(cell) != 0)
        heads = np.flatnonzero(fresh).tolist()
        pieces = []
        for start, stop in zip(heads, [*heads[1:], len(rows)], strict=True):
            mine = rows[start:stop]
            pieces.append(self._append(disk, int(mine["first"][0]), _blocks(mine, data)))
        return np.concatenate(pieces)

    def _append(self, disk: str, first: int, blocks: bytes) -> Rows:
        view = memoryview(blocks)
        frame: Frame = pack_frame(first, view, block_digests(self._store.keys, view).tobytes())
        if self._file is None or self._file.full:
            self._close()
            segment = Segment(self._timeline, self._epoch, len(self.infos) + 1)
            self._file = SegmentFile(self._folder, self._store.keys, segment)
        (place,) = self._file.append(disk, [frame])
        return rows_of(
            {
                "first": first,
                "count": frame.count,
                "segment": len(self.infos),
                "offset": place.offset,
                "length": place.length,
                "frame": place.number,
            },
            1,
        )

    def _close(self) -> None:
        """Finish the segment and bring it into the store."""
        if self._file is None:
            return
        file, self._file = self._file, None
        file.finish()
        self._store.objects.put_file(file.segment.key(self._store.machine), file.path)
        self.infos.append(SegmentInfo(file.segment, file.size, file.directory_offset, file.random))
        self.written_bytes += file.size
        file.let_go()

    def discard(self, swept: Swept) -> None:
        """Delete what was brought into the store: nothing names it, and nothing will. (Where that isn't so after all,
        it stays for a sweep to judge.)"""
        if self._file is not None:
            self._file.close()
        segments = {info.segment for info in self.infos}
        if not segments or not unnamed(self._store, self._timeline, segments):
            return
        for info in self.infos:
            delete(self._store, info.segment.key(self._store.machine), info.size, swept)


def _blocks(rows: Rows, data: dict[tuple[int, int], bytes]) -> bytes:
    """Of rows that follow each other on the disk. Only the last block may be short."""
    pieces = []
    columns = (rows[name].tolist() for name in ("segment", "frame", "skip", "count"))
    for segment, frame, skip, count in zip(*columns, strict=True):
        piece = data[segment, frame][skip * BLOCK : (skip + count) * BLOCK]
        pieces.append(piece.ljust(count * BLOCK, b"\0"))
    last = data[int(rows["segment"][-1]), int(rows["frame"][-1])]
    short = max(int(rows["skip"][-1] + rows["count"][-1]) * BLOCK - len(last), 0)
    whole = b"".join(pieces)
    return whole[: len(whole) - short]
