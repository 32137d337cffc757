"""Layers: merged indexes of aligned runs of points, so that a point is opened with tens of reads, not thousands.

    t/<timeline>/layer/<first>-<last>     runs of 16, 256 and 4096 numbers

A layer says what its run changed, as one record. It is derived from the records and never needed: whoever reads falls
back to what it stands for. The first two numbers of a timeline are in none, so that no layer holds what a disk held
when its timeline began: it costs what changed. Each row is written once per level at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from homeport.domain.logs import get_logger
from homeport.domain.units import BLOCK
from homeport.store import names, sealed
from homeport.store.errors import AlreadyExists, Corrupt, NotFound
from homeport.store.index import ZERO, Rows
from homeport.store.layout import Layout, Range
from homeport.store.names import Segment
from homeport.store.records import Index, MemoryIndex, Record, caps, disks_list, merge, pack
from homeport.store.table import SegmentTable

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)

LEVELS = (16, 256, 4096)
"""Numbers in the run of a layer, aligned to multiples."""

_FIRST = 2
_WORTH = 4
"""Fewer links than this are read as fast without a layer."""


def build_layers(store: MachineStore, timeline: str, limit: int, newest: int | None = None) -> int:
    """Build up to ``limit`` of the layers that the timeline lacks, oldest first, and return how many. Safe beside
    writers, readers, those who expire and others who do the same: what vanishes meanwhile is left for the next call.
    ``newest``: the number of the newest point, where the caller knows it: nothing is asked of the storage then unless
    points enough have come. Raises StoreUnavailable."""
    if newest is not None and store.layered.get(timeline) == (newest + 1) // LEVELS[0]:
        return 0
    found = store.scan(timeline)
    stop = found.records[-1] + 1 if found.records else 0
    built = 0
    for reach in _wanted(stop):
        if (timeline, *reach) in store.unlayered or reach in found.layers or found.crossed(reach):
            continue
        if built >= limit:
            return built
        try:
            size = _build(store, found, reach)
        except NotFound:
            return built  # thinned meanwhile: the next call sees what is there then
        if size:
            found.add_layer(reach, size)
            built += 1
        else:
            store.unlayered.add((timeline, *reach))
    store.layered[timeline] = stop // LEVELS[0]
    return built


def _wanted(newest: int) -> Iterator[Range]:
    """The runs of all numbers below: by their ends, and short ones before those that are made of them."""
    for stop in range(LEVELS[0], newest + 1, LEVELS[0]):
        for size in LEVELS:
            if stop % size == 0:
                yield max(stop - size, _FIRST), stop - 1


def _build(store: MachineStore, found: Layout, reach: Range) -> int:
    """The layer's bytes. 0: this run can't have a layer, or none that is worth it. Raises NotFound."""
    if not all(number in found.known or found.covered(number) for number in range(reach[0], reach[1] + 1)):
        return 0
    key = names.layer(store.machine, found.timeline, *reach)
    try:
        links = _links(store, found, reach, shorter=True)
        if len(links) < _WORTH or any(record.ended for record in links) or _uneven(links):
            return 0
        fields, sections = pack(_merged(links))
    except Corrupt as error:
        log.warning("no layer is built over damage", key=key, cause=error.cause)
        return 0
    data = store.seal(key, sealed.LAYER, {**_head(found.timeline, reach, links), **fields}, sections)
    try:
        store.objects.put(key, data)
    except AlreadyExists:
        log.info("built by another", key=key)
    return len(data)


def _links(store: MachineStore, found: Layout, reach: Range, *, shorter: bool) -> list[Record]:
    """What a run (that nothing crosses) consists of, oldest first: with ``shorter`` layers, thinning records, points.
    Raises NotFound (gone meanwhile), Corrupt."""
    result: list[Record] = []
    number = reach[1]
    while number >= reach[0]:
        record, first = _layer(store, found, reach, number) if shorter else (None, number)
        if record is None:
            link = found.link(number)
            if link is None:
                raise NotFound(f"point {found.timeline}/{number} was dropped", key=f"{found.timeline}/{number}")
            (first, _), key = link
            record = store.layer(key)
        result.append(record)
        number = first - 1
    return result[::-1]


def _layer(store: MachineStore, found: Layout, reach: Range, number: int) -> tuple[Record | None, int]:
    """The longest shorter layer within a run that ends at ``number``."""
    for first, last in found.layers_ending_at(number):
        if first >= reach[0] and (first, last) != reach:
            try:
                record = store.layer(names.layer(store.machine, found.timeline, first, last))
            except (NotFound, Corrupt):
                continue
            if store.trusts(record):
                return record, first
    return None, number


def _uneven(links: list[Record]) -> bool:
    """A disk shrank within the run to a size that isn't a multiple of the block: rows can't say that."""
    return any(
        size % BLOCK and size < below.disks.get(disk, 0)
        for below, record in pairwise(links)
        for disk, size in record.floor.items()
    )


def _merged(links: list[Record]) -> MemoryIndex:
    return merge(list(zip(links, caps(links), strict=True)), keep_zeros=True)


def _head(timeline: str, reach: Range, links: list[Record]) -> dict[str, Any]:
    oldest, newest = links[0], links[-1]
    floor = dict(oldest.floor)
    for record in links[1:]:
        floor = {disk: min(size, record.floor.get(disk, 0)) for disk, size in floor.items()}
    return {
        "kind": "layer",
        "timeline": timeline,
        "first": reach[0],
        "last": reach[1],
        "parent": str(oldest.parent),
        "parent_sha256": oldest.parent_sha256,
        "disks": disks_list(newest.disks),
        "floor": disks_list({disk: floor.get(disk, 0) for disk in newest.disks}),
        "instant": newest.head["instant"],
    }


# -- care --------------------------------------------------------------------------------------------------------------


def useless_layers(
    store: MachineStore, found: Layout, live: Collection[Segment] | None = None
) -> list[tuple[str, int]]:
    """Layers of a timeline that no reader can use any more, ``(key, bytes)``: a thinning record crosses them or is as
    good, or (given ``live``: the timeline's segments that are there and stay) they name a segment that goes or went.
    Deleting any layer is safe at any time; those of the last kind have to go before their segments do, or readers
    stumble once."""
    result = []
    for reach, size in sorted(found.layers.items()):
        key = names.layer(store.machine, found.timeline, *reach)
        unused = found.crossed(reach) or found.thin_over(reach[0]) == reach
        if unused or (live is not None and _stale(store, key, live)):
            result.append((key, size))
    return result


def _stale(store: MachineStore, key: str, live: Collection[Segment]) -> bool:
    try:
        record = store.layer(key)
        own = record.head["timeline"]
        return any(segment not in live for segment in store.segments_of(record).names() if segment.timeline == own)
    except NotFound:
        return False
    except Corrupt:
        return True


def check_layer(store: MachineStore, found: Layout, reach: Range) -> str | None:
    """Compare a layer with the records that it stands for: None, or what is wrong. One that can't be used any more
    (see :func:`useless_layers`) isn't wrong. Raises NotFound (it or a record went meanwhile), Corrupt."""
    if found.crossed(reach):
        return None
    key = names.layer(store.machine, found.timeline, *reach)
    layer = store.layer(key)
    links = _links(store, found, reach, shorter=False)
    table = layer.segments
    named = {segment for record in links for segment in store.segments_of(record).names()}
    if any(segment not in named for segment in table.names()):
        return None
    head = _head(found.timeline, reach, links)
    wrong = [name for name, value in head.items() if layer.head.get(name) != value]
    if wrong or not _same(layer, table, _merged(links)):
        return f"{key} is not what the records that it stands for say ({', '.join(wrong) or 'rows'})"
    return None


def _same(layer: Record, table: SegmentTable, expected: Index) -> bool:
    disks = sorted({*layer.index_disks(), *expected.index_disks()})
    for disk in disks:
        if not np.array_equal(layer.zeros(disk), expected.zeros(disk)):
            return False
        if layer.shards(disk) != expected.shards(disk):
            return False
        for shard in layer.shards(disk):
            if not _same_rows(layer.data(disk, shard), table, expected.data(disk, shard), expected.segments):
                return False
    return True


def _same_rows(mine: Rows, my_table: SegmentTable, theirs: Rows, their_table: SegmentTable) -> bool:
    if len(mine) != len(theirs):
        return False
    if any(not np.array_equal(mine[name], theirs[name]) for name in ("first", "count", "skip", "offset", "length")):
        return False
    pairs = np.unique(np.stack((mine["segment"], theirs["segment"]), axis=1), axis=0)
    return all(
        my_table[one] == their_table[other] for one, other in pairs.tolist() if ZERO not in (one, other)
    ) and np.array_equal(mine["frame"], theirs["frame"])
