"""Where the bytes of a machine are, and what its retention costs: `homeport store stats`.

Counted in frames, the smallest piece that lies in a segment for itself: a frame is *live* while a record in force names
a block of it; the rest of its segment is *dead* until compaction. Sizes are those in the bucket, compressed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.bucket import inventory
from homeport.domain.points import PointId
from homeport.store import layout, names, sealed
from homeport.store.names import Segment
from homeport.store.records import Index, MemoryIndex, Record, caps, merge
from homeport.store.timeline import MachineStore

AGES = (
    ("hour", timedelta(hours=1)),
    ("day", timedelta(days=1)),
    ("week", timedelta(days=7)),
    ("month", timedelta(days=31)),
)
SHARES = (0, 25, 50, 75, 100)
"""Percent of a segment that is live: the edges of the classes told."""

Frames = NDArray[np.uint64]
"""Names of frames: number of the segment in a table of ours, and of the frame in it."""


@dataclass
class _Table:
    """Segments by number."""

    numbers: dict[Segment, int] = field(default_factory=dict)

    def frames(self, index: Index) -> tuple[Frames, NDArray[np.int64]]:
        """The frames that an index names, each once, ascending; and their lengths."""
        places = np.array(
            [self.numbers.setdefault(name, len(self.numbers)) for name in index.segments.names()], np.uint64
        )
        frames, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for disk in index.index_disks():
            for shard in index.shards(disk):
                rows = index.data(disk, shard)
                frames.append(places[rows["segment"]] << np.uint64(32) | rows["frame"].astype(np.uint64))
                lengths.append(rows["length"].astype(np.int64))
        found, first = np.unique(np.concatenate(frames), return_index=True)
        return found, np.concatenate(lengths)[first]


@dataclass(eq=False)
class _Layer:
    """A record in force: the point that it tells of (the last, for a thinning record), and the frames it names."""

    point: PointId
    record: Record
    frames: Frames
    lengths: NDArray[np.int64]

    @property
    def thinned(self) -> bool:
        return "/thin/" in self.record.key


def account(store: MachineStore, now: datetime | None = None) -> dict[str, Any]:
    """All figures of a machine. Raises Corrupt, StoreUnavailable."""
    table = _Table()
    held = inventory.take(store.objects, names.machine(store.machine))
    layers = {timeline: _layers(store, table, timeline) for timeline in store.timeline_ids()}
    parts = _parts(store, table)
    every = [layer for found in layers.values() for layer in found]
    frames, lengths = _union([(one.frames, one.lengths) for one in every] + parts)
    live = _by_segment(frames, lengths, len(table.numbers))
    sizes = {
        key: size
        for timeline in layers
        for key, size in store.objects.list(names.timeline(store.machine, timeline) + "segment/")
    }
    return {
        **held.all.to_json(),
        "timelines": [
            {
                "id": timeline,
                **held.timelines.get((store.machine, timeline), inventory.Holding()).to_json(),
                "points": sum(not layer.thinned for layer in found),
                "thinned": sum(layer.thinned for layer in found),
                "segments": _segments(store, timeline, table, live, sizes),
                "dropping": _dropping(store, timeline, table, found, every, parts),
            }
            for timeline, found in layers.items()
        ],
        "ages": _ages(every, now or datetime.now(UTC)),
    }


def _layers(store: MachineStore, table: _Table, timeline: str) -> list[_Layer]:
    """Oldest first."""
    found = store.scan(timeline)
    result = []
    for number in sorted({*found.live, *(last for _, last in found.thins)}):
        key = layout.layer_key(store.machine, found, number)
        if key is None:
            continue
        record = store.layer(key)
        if not record.ended:
            result.append(_Layer(PointId(timeline, number), record, *table.frames(record)))
    return result


def _parts(store: MachineStore, table: _Table) -> list[tuple[Frames, NDArray[np.int64]]]:
    result = []
    for timeline in store.timeline_ids():
        for number in layout.part_numbers(store.objects, store.machine, timeline):
            result.append(table.frames(store.record(names.part(store.machine, timeline, number), sealed.PART)))
    return result


def _union(named: list[tuple[Frames, NDArray[np.int64]]]) -> tuple[Frames, NDArray[np.int64]]:
    if not named:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    frames, first = np.unique(np.concatenate([one for one, _ in named]), return_index=True)
    return frames, np.concatenate([lengths for _, lengths in named])[first]


def _by_segment(frames: Frames, lengths: NDArray[np.int64], segments: int) -> NDArray[np.int64]:
    result = np.zeros(segments, np.int64)
    np.add.at(result, (frames >> np.uint64(32)).astype(np.int64), lengths)
    return result


def _segments(
    store: MachineStore, timeline: str, table: _Table, live: NDArray[np.int64], sizes: dict[str, int]
) -> dict[str, Any]:
    """Of one timeline: live, dead and unnamed bytes, and how many segments are how much alive."""
    prefix = names.timeline(store.machine, timeline) + "segment/"
    named = {segment.key(store.machine): number for segment, number in table.numbers.items()}
    total = alive = unnamed = unnamed_count = 0
    classes = [{"from": low, "to": high, "segments": 0, "bytes": 0} for low, high in pairwise(SHARES)]
    for key, size in sizes.items():
        if not key.startswith(prefix):
            continue
        number = named.get(key)
        if number is None:
            unnamed += size
            unnamed_count += 1
            continue
        count = int(live[number])
        total += size
        alive += count
        place = min(int(100 * count / size) // 25, len(classes) - 1) if size else 0
        classes[place]["segments"] += 1
        classes[place]["bytes"] += size
    return {
        "bytes": total + unnamed,
        "live_bytes": alive,
        "dead_bytes": total - alive,
        "unnamed": {"segments": unnamed_count, "bytes": unnamed},
        "by_live_share": classes,
    }


def _ages(layers: list[_Layer], now: datetime) -> list[dict[str, Any]]:
    """What the points of each age brought: bytes of frames that no older record names. ``base``: thinning records, what
    the oldest points stand on."""
    seen = np.zeros(0, np.uint64)
    points: dict[str, int] = {}
    brought: dict[str, int] = {}
    for layer in sorted(layers, key=lambda one: one.record.head["instant"]):
        fresh = ~np.isin(layer.frames, seen)
        seen = np.union1d(seen, layer.frames)
        age = now - datetime.fromisoformat(layer.record.head["instant"])
        name = "base" if layer.thinned else next((name for name, limit in AGES if age <= limit), "older")
        points[name] = points.get(name, 0) + (not layer.thinned)
        brought[name] = brought.get(name, 0) + int(layer.lengths[fresh].sum())
    order = (*(name for name, _ in AGES), "older", "base")
    return [{"age": name, "points": points.get(name, 0), "bytes": brought.get(name, 0)} for name in order]


def _dropping(
    store: MachineStore,
    timeline: str,
    table: _Table,
    own: list[_Layer],
    every: list[_Layer],
    parts: list[tuple[Frames, NDArray[np.int64]]],
) -> list[dict[str, Any]]:
    """What dropping the oldest 1, 2, 4, … points would free, once compacted: what they hold that later ones don't show.
    Ends where a point is leased or forked from, and before the newest."""
    held = {lease.point for lease in store.leases()}
    held |= {info.parent for info in store.timelines() if info.parent is not None}
    droppable: list[int] = []
    for place, layer in enumerate(own[:-1]):
        if layer.point in held and not layer.thinned:
            break
        if not layer.thinned:
            droppable.append(place)
    result = []
    count = 1
    while droppable and count <= len(droppable):
        upto = droppable[count - 1] + 1
        dropped = own[:upto]
        records = [layer.record for layer in dropped]
        keep_zeros = records[0].parent is not None
        merged: MemoryIndex = merge(list(zip(records, caps(records), strict=True)), keep_zeros=keep_zeros)
        kept = [table.frames(merged)[0], *(layer.frames for layer in every if layer not in dropped)]
        kept += [frames for frames, _ in parts]
        frames, lengths = _union([(layer.frames, layer.lengths) for layer in dropped])
        gone = ~np.isin(frames, np.concatenate(kept))
        result.append({"points": count, "upto": str(own[upto - 1].point), "frees_bytes": int(lengths[gone].sum())})
        if count == len(droppable):
            break
        count = min(count * 2, len(droppable))
    return result
