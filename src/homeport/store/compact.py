"""Compaction: giving back the space of blocks that no retained point can see.

    begin a fold → copy what lives in segments that are mostly dead → the thinning record once more, its rows moved
    → settle → delete the old record; the old segments go with the next run, so that readers hardly notice

One thinning record at a time, the one that gives back most first. A crash leaves leftovers, never a gap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.logs import get_logger
from homeport.store import folds, names, sealed, worth
from homeport.store.errors import AlreadyExists, Corrupt, NotFound
from homeport.store.expire import missing, segments_there
from homeport.store.index import EMPTY, SHARD_BLOCKS
from homeport.store.liveness import Live, live
from homeport.store.names import FOLD_EPOCHS, Segment
from homeport.store.records import MemoryIndex, pack
from homeport.store.rewrite import Rewriter
from homeport.store.sweep import Swept, delete, sweep
from homeport.store.table import SegmentTable, join

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)

Progress = Callable[[int, int], None]


@dataclass
class Compacted(Swept):
    """Of one run: bytes of all segments and of what lives in them; segments chosen, bytes copied out of and written to
    segments, bytes that the next run gives back; ``left``: chosen segments that could not be cleaned, and why."""

    segments: int = 0
    segment_bytes: int = 0
    live_bytes: int = 0
    chosen: int = 0
    copied_bytes: int = 0
    written_bytes: int = 0
    freed_bytes: int = 0
    records: int = 0
    left: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass
class _Plan:
    live: Live
    victims: NDArray[np.bool_]

    @property
    def copied(self) -> int:
        return int(self.live.live[self.victims].sum())

    @property
    def reclaimed(self) -> int:
        return int((self.live.sizes - self.live.live)[self.victims].sum())


def compact(
    store: MachineStore,
    timeline: str,
    *,
    threshold: float = worth.THRESHOLD,
    budget: int | None = None,
    dry_run: bool = False,
    spool: Path | None = None,
    progress: Progress | None = None,
) -> Compacted:
    """Clean segments of a timeline whose share of live bytes is below ``threshold`` (0 to 1), copying about ``budget``
    bytes at most (None: whatever it takes). ``spool``: a folder with room for a segment. ``dry_run``: only say what
    would be done. Safe beside writers, readers, and others who expire or compact: of two, one gives up. Can be called
    again after a crash, and again for what a budget left. Raises StoreUnavailable; segments that are damaged are left
    as they are."""
    result = Compacted()
    if not dry_run:
        sweep(store, timeline, result)
    plans = _plans(store, timeline, threshold, budget, result)
    total = sum(plan.copied for plan in plans)
    done = 0
    for plan in plans:
        result.chosen += int(plan.victims.sum())
        if dry_run:
            result.copied_bytes += plan.copied
            result.freed_bytes += int(plan.live.sizes[plan.victims].sum())
            result.records += 1
            continue
        with tempfile.TemporaryDirectory(prefix="homeport-fold-", dir=spool) as folder:
            _fold(store, timeline, plan, Path(folder), result)
        done += plan.copied
        if progress is not None:
            progress(done, total)
    return result


def _plans(store: MachineStore, timeline: str, threshold: float, budget: int | None, result: Compacted) -> list[_Plan]:
    """What is worth cleaning within the budget; what gives back most comes first."""
    found, held = folds.survey(store, timeline)
    plans = []
    prefix = names.timeline(store.machine, timeline)
    bytes_ = dict(store.objects.list(prefix + "thin/"))
    for reach in found.thins:
        if reach in held:
            continue
        try:
            seen = live(store, found, reach)
        except (NotFound, Corrupt) as error:
            result.left[found.thin_key(reach)] = error.cause
            continue
        if seen is None:
            continue
        result.segments += len(seen.sizes)
        result.segment_bytes += int(seen.sizes.sum())
        result.live_bytes += int(seen.live.sum())
        plan = _Plan(seen, worth.victims(seen.sizes, seen.live, threshold, budget))
        if plan.victims.any() and worth.pays(plan.reclaimed, bytes_.get(seen.record.key, 0)):
            plans.append(plan)
    plans.sort(key=lambda plan: plan.reclaimed, reverse=True)
    if budget is None:
        return plans
    chosen: list[_Plan] = []
    for plan in plans:
        if not chosen or sum(other.copied for other in chosen) + plan.copied <= budget:
            chosen.append(plan)
    return chosen


def _fold(store: MachineStore, timeline: str, plan: _Plan, folder: Path, result: Compacted) -> None:
    record, reach = plan.live.record, plan.live.reach
    number = folds.begin(store, timeline, reach)
    rewriter = Rewriter(store, folder, timeline, FOLD_EPOCHS + number)
    try:
        found = store.scan(timeline)
        if reach not in found.thins or found.thin_key(reach) != record.key:
            result.left[record.key] = "it was replaced meanwhile"
            return
        index, freed = _moved(plan, rewriter)
        there = segments_there(store, timeline)
        missing(store, set(index.segments.names()), there)
        freed |= {Segment(timeline, epoch, seq) for epoch, seq in record.head["freed"]}
        if folds.newest(store, timeline) != number:
            result.left[record.key] = "someone else folds here"
            rewriter.discard(result)
            return
    except Exception as error:
        rewriter.discard(result)
        if not isinstance(error, (Corrupt, NotFound)):
            raise
        result.left[record.key] = error.cause
        return
    for place, cause in rewriter.damaged.items():
        result.left[record.segment(place).segment.key(store.machine)] = cause
    fields, sections = pack(index)
    head = {**record.head, **fields, "freed": sorted((s.epoch, s.seq) for s in freed & there), "pruned": True}
    key = names.thin(store.machine, timeline, *reach, number)
    # The key is this fold's alone: what lies there is this very record, put once already by a repeated call.
    try:
        store.objects.put(key, store.seal(key, sealed.THIN, head, sections))
    except AlreadyExists:
        log.info("folded already", key=key)
    settled = folds.settle(store, timeline, number, [reach])
    if not settled:
        result.left[record.key] = "someone else folds here"
        if settled is False and delete(store, key, 0, result):
            rewriter.discard(result)
        return
    delete(store, record.key, 0, result)
    result.records += 1
    result.copied_bytes += rewriter.read_bytes
    result.written_bytes += rewriter.written_bytes
    sizes = {info.segment: info.size for info in record.segments}
    result.freed_bytes += sum(size for segment, size in sizes.items() if segment in freed)


def _moved(plan: _Plan, rewriter: Rewriter) -> tuple[MemoryIndex, set[Segment]]:
    """The record's live rows, those in chosen segments copied; and the segments that it names no longer."""
    record, rows = plan.live.record, plan.live.rows
    table = record.segments
    chosen = np.flatnonzero(plan.victims)
    leaving = {
        disk: np.concatenate([EMPTY, *(mine[np.isin(mine["segment"], chosen)] for mine in shards.values())])
        for disk, shards in rows.items()
    }
    fresh = rewriter.copy(list(table), leaving)
    moved = np.setdiff1d(chosen, list(rewriter.damaged))
    joined, (old_places, new_places) = join([table, SegmentTable.of(rewriter.infos)])
    index = MemoryIndex(joined)
    for disk in record.index_disks():
        for shard, mine in rows.get(disk, {}).items():
            stay = mine[~np.isin(mine["segment"], moved)]
            if len(stay):
                stay["segment"] = old_places[stay["segment"]]
            came = fresh[disk]
            came = came[came["first"] // SHARD_BLOCKS == shard]
            if len(came):
                came["segment"] = new_places[came["segment"]]
            both = np.concatenate([stay, came])
            index.add_data(disk, shard, both[np.argsort(both["first"], kind="stable")])
        index.add_zeros(disk, record.zeros(disk))
    index.drop_unnamed()
    return index, set(table.names()) - set(index.segments.names())
