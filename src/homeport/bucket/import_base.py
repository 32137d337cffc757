"""What a store already holds of a disk, as an import compares with it: digests, and where data lies."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from homeport.domain.extents import Extents, distinct
from homeport.domain.units import BLOCK
from homeport.store.builder import gather
from homeport.store.digests import SIZE
from homeport.store.index import EMPTY, PAGE_BLOCKS, ZERO, Rows, between, overlay
from homeport.store.reader import PointReader
from homeport.store.records import Record, all_rows
from homeport.store.segment import read_directory
from homeport.store.timeline import MachineStore

_PAGES = 8
"""Pages kept, of 1 MiB of digests each: an import goes through a disk in order."""

Digests = NDArray[np.uint8]


class Base:
    """Digests by page of 1 GiB, made when first asked for. Thread-safe. ``extents``: bytes that aren't all zero."""

    def __init__(self, page: Callable[[int], Digests], extents: Extents) -> None:
        self.extents = extents
        self._page = page
        self._pages: OrderedDict[int, Digests] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of_point(cls, reader: PointReader, disk: str) -> Base:
        """The disk as of a point. Raises Corrupt, StoreUnavailable."""
        return cls(reader.digests(disk).page, reader.extents(disk))

    @classmethod
    def of_parts(cls, store: MachineStore, parts: Sequence[Record], disk: str) -> Base:
        """The disk as far as the parts of its first copy hold it. Raises Corrupt, StoreUnavailable."""
        pieces = []
        for number, part in enumerate(parts):
            if disk in part.index_disks():
                rows = all_rows(part, disk)
                rows["layer"] = number
                pieces.append(rows)
        rows = overlay(np.concatenate(pieces)) if pieces else EMPTY
        data = rows[rows["segment"] != ZERO]
        runs = Extents.of_runs(data["first"] * BLOCK, (data["first"] + data["count"]) * BLOCK)
        return cls(lambda page: _page_of_parts(store, parts, data, page), runs)

    def known(self, first: int, count: int) -> Digests:
        """Digests of blocks, within a page; zeroes for blocks of zeroes."""
        page = first // PAGE_BLOCKS
        with self._lock:
            found = self._pages.get(page)
            if found is None:
                found = self._pages[page] = self._page(page)
                if len(self._pages) > _PAGES:
                    self._pages.popitem(last=False)
        start = first - page * PAGE_BLOCKS
        return found[start : start + count]


def _page_of_parts(store: MachineStore, parts: Sequence[Record], data: Rows, page: int) -> Digests:
    start = page * PAGE_BLOCKS
    result = np.zeros((PAGE_BLOCKS, SIZE), np.uint8)
    rows = between(data, start, start + PAGE_BLOCKS)
    for number in distinct(rows["layer"]).tolist():
        segments = parts[number].segments
        of_part = rows[rows["layer"] == number]
        for place in distinct(of_part["segment"]).tolist():
            info = segments[place]
            directory = read_directory(store.objects, store.keys, info)
            mine = of_part[of_part["segment"] == place]
            directory.check(mine, info.segment.key(store.machine))
            blocks, digests = gather(mine, directory.starts, directory.digests)
            result[blocks - start] = digests
    return result
