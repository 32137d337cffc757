"""What keeping history costs: bytes that cleaning copies against bytes that the store takes, and requests with their
price, over days of simulated time.

    python -m tests.bench.store_retention [--hours 120] [--scale 64]

A database of 100 GiB on a 1 TiB disk: 500 writes per second of 8 KiB, Zipf over the database, beside a log written in
order; 1 % of the disk changes per hour. A point each 15 s, 72 h of retention in the tiers of
:mod:`homeport.domain.retention`, thinned every quarter of an hour and compacted every hour. All sizes are divided by
``scale``. What never changes is left out of space and live bytes alike: it would only make the ratio better.

The rules (what is absorbed, what is live, which segments are cleaned) are the store's own, of
:mod:`homeport.store.worth`; ``tests/store/test_retention_model.py`` compares a simulated history with a real one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.domain.retention import points_to_prune
from homeport.domain.units import BLOCK, HOUR, GiB, MiB
from homeport.store import worth
from homeport.store.index import FRAME_BLOCKS, ROW, Rows

FRAME_COST = 44
"""Bytes of a frame beside its payload: header and tag."""
SEGMENT_COST = 48 + 32
ROW_COST = 5
"""Bytes of a row in a record, about (measured: 4 to 6)."""
RECORD_COST = 700
TABLE_COST = 45

PUT_PRICE = 0.005 / 1000  # also LIST
GET_PRICE = 0.0004 / 1000
START = datetime(2026, 1, 1, tzinfo=UTC)
T = "0" * 16

Blocks = NDArray[np.int64]


@dataclass
class Held:
    """A record: its rows, one for each block, ascending; ``segment``: a number in the store's list."""

    first: int
    last: int
    rows: Rows
    point: bool

    @property
    def bytes(self) -> int:
        segments = len(np.unique(self.rows["segment"]))
        return RECORD_COST + ROW_COST * len(self.rows) + TABLE_COST * segments


@dataclass
class Store:
    """Points in, points out: what the store does, with numbers in place of bytes."""

    ratio: float = 0.5
    """Bytes of a compressed block to those of a plain one."""
    target: int = 32 * MiB
    records: list[Held] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    doomed: list[int] = field(default_factory=list)
    written: int = 0
    cleaned: int = 0
    cleaned_from: int = 0
    requests: dict[str, int] = field(default_factory=lambda: {"put": 0, "get": 0, "list": 0, "delete": 0})

    def count(self, **what: int) -> None:
        for name, number in what.items():
            self.requests[name] += number

    # -- writing ---

    def _segments(self, blocks: Blocks) -> tuple[Rows, int]:
        """New segments of ascending blocks, neighbours in one frame."""
        rows = np.zeros(len(blocks), ROW)
        fresh = np.ones(len(blocks), np.bool_)
        fresh[1:] = (np.diff(blocks) != 1) | (np.diff(blocks // FRAME_BLOCKS) != 0)
        frame = np.cumsum(fresh) - 1
        heads = np.flatnonzero(fresh)
        counts = np.diff(np.append(heads, len(blocks)))
        lengths = (counts * BLOCK * self.ratio).astype(np.int64) + FRAME_COST
        starts = np.cumsum(lengths) - lengths
        # A segment is full when it has reached its target.
        number = starts // max(self.target, 1)
        base = len(self.sizes)
        rows["first"], rows["count"], rows["skip"] = blocks, 1, np.arange(len(blocks)) - heads[frame]
        rows["segment"], rows["frame"], rows["length"] = base + number[frame], frame, lengths[frame]
        total = 0
        for one in range(int(number[-1]) + 1 if len(number) else 0):
            size = int(lengths[number == one].sum()) + SEGMENT_COST + 24 * int((number == one).sum())
            self.sizes.append(size)
            self.present.append(True)
            total += size
        self.count(put=len(self.sizes) - base)
        return rows, total

    def publish(self, number: int, blocks: Blocks) -> None:
        rows, total = self._segments(np.unique(blocks))
        self.written += total
        self.records.append(Held(number, number, rows, True))
        # The record; epochs before and after it, the boundary, the layers that are due now and then.
        self.count(put=1, list=4)

    # -- thinning ---

    def expire(self, drop: set[int]) -> None:
        if not drop:
            return
        self._clear()
        self.count(put=3, list=32, get=4, delete=2 + len(drop))  # counted: tests/store/test_expire_cost.py
        runs: list[list[Held]] = []
        for place, record in enumerate(self.records):
            if record.point and record.first in drop:
                if runs and self.records[place - 1] is runs[-1][-1]:
                    runs[-1].append(record)
                else:
                    runs.append([record])
        for run in runs:
            self._thin(run)
            self.count(put=1, get=len(run))

    def _thin(self, run: list[Held]) -> None:
        start = self.records.index(run[0])
        stop = start + len(run)
        weight = sum(record.bytes for record in run)
        grown = True
        while grown:
            grown = False
            for place in (start - 1, stop):
                if 0 <= place < len(self.records):
                    other = self.records[place]
                    if not other.point and worth.absorbs(weight, other.bytes):
                        start, stop = min(start, place), max(stop, place + 1)
                        weight += other.bytes
                        grown = True
        layers = self.records[start:stop]
        before = {int(one) for layer in layers for one in np.unique(layer.rows["segment"])}
        rows = laid(layer.rows for layer in layers)
        self.records[start:stop] = [Held(layers[0].first, layers[-1].last, rows, False)]
        for segment in before - set(np.unique(rows["segment"]).tolist()):
            self._delete(segment)

    def _delete(self, segment: int) -> None:
        self.present[segment] = False
        self.count(delete=1)

    def _clear(self) -> None:
        for segment in self.doomed:
            self._delete(segment)
        self.doomed = []

    # -- compaction ---

    def alive(self, place: int) -> Rows:
        """Of a thinning record: the rows that a retained point sees."""
        rows = self.records[place].rows
        for other in self.records[place + 1 :]:
            rows = rows[~np.isin(rows["first"], other.rows["first"], assume_unique=True)]
            if other.point:
                break
        return rows

    def compact(self, threshold: float) -> tuple[int, int, int]:
        """Returns segments of thinning records, bytes that live in them, segments chosen."""
        self._clear()
        self.count(list=14, get=5)
        seen = alive = cleaned = 0
        for place, record in enumerate(self.records):
            if record.point:
                continue
            rows = self.alive(place)
            table = np.unique(record.rows["segment"])
            mine = rows.copy()
            mine["segment"] = np.searchsorted(table, rows["segment"])
            sizes = np.array(self.sizes, np.int64)[table]
            live = worth.live_bytes(mine, len(table))
            seen, alive = seen + len(table), alive + int(live.sum())
            chosen = worth.victims(sizes, live, threshold)
            if not chosen.any() or not worth.pays(int((sizes - live)[chosen].sum()), record.bytes):
                continue
            cleaned += int(chosen.sum())
            leaving = chosen[mine["segment"]]
            fresh, total = self._segments(rows["first"][leaving])
            self.cleaned += total
            self.cleaned_from += int(sizes[chosen].sum())
            both = np.concatenate([rows[~leaving], fresh])
            record.rows = both[np.argsort(both["first"], kind="stable")]
            self.doomed += table[chosen].tolist()
            unnamed = np.setdiff1d(table[~chosen], record.rows["segment"])
            self.doomed += unnamed.tolist()
            self.count(put=3, list=8, get=2 + 2 * int((chosen & (live > 0)).sum()), delete=1)
        return seen, alive, cleaned

    # -- measures ---

    @property
    def space(self) -> int:
        return int(np.array(self.sizes, np.int64)[np.array(self.present, np.bool_)].sum())

    def live(self) -> int:
        """Bytes of frames that any retained point sees, each block by its share."""
        total = 0
        for place, record in enumerate(self.records):
            rows = record.rows if record.point else self.alive(place)
            total += int(worth.live_bytes(rows, len(self.sizes)).sum())
        return total


def laid(layers: Iterator[Rows]) -> Rows:
    """Rows of single blocks laid over each other, the later over the earlier."""
    rows = np.concatenate(list(layers))[::-1]
    _, first = np.unique(rows["first"], return_index=True)
    result: Rows = rows[first]
    return result


# -- the workload ------------------------------------------------------------------------------------------------------


def oltp(scale: int, seed: int = 1) -> tuple[Blocks, Callable[[], Blocks]]:
    """The blocks that are there at the beginning, and what each 15 s change."""
    rng = np.random.default_rng(seed)
    database = 100 * GiB // BLOCK // scale
    log = 8 * GiB // BLOCK // scale
    places = rng.permutation(database)
    # With this exponent and log 1 % of the disk changes per hour, and an hour folds to 0.6 of its points of 5 minutes.
    shares = np.cumsum(np.arange(1, database + 1, dtype=np.float64) ** -1.1)
    shares /= shares[-1]
    writes = 500 * 15 / scale
    log_blocks = 15 * 0.75 * MiB / BLOCK / scale
    at = 0.0

    def step() -> Blocks:
        nonlocal at
        ranks = np.searchsorted(shares, rng.random(rng.poisson(writes)))
        tail = np.arange(int(at), int(at + log_blocks) + 1) % log + database
        at += log_blocks
        found: Blocks = np.unique(np.concatenate((places[np.minimum(ranks, database - 1)], tail)))
        return found

    return np.arange(database + log, dtype=np.int64), step


def run(
    threshold: float, *, hours: int = 120, scale: int = 64, retention: int = 72, interval: int = 15
) -> dict[str, Any]:
    """One history. Figures are of the time after the retention was first reached."""
    store = Store(target=32 * MiB // scale)
    base, step = oltp(scale)
    store.publish(1, base)
    first_copy = store.written
    infos = {1: _info(1, 0)}
    per_hour = HOUR // interval
    spaces: list[tuple[int, int]] = []
    marks: dict[str, int] = {}
    changed = []
    for number in range(2, hours * per_hour + 1):
        store.publish(number, step())
        seconds = number * interval
        infos[number] = _info(number, seconds)
        if seconds % (HOUR // 4) == 0:
            now = START + timedelta(seconds=seconds)
            drop = {point.number for point in points_to_prune(list(infos.values()), now, retention * HOUR)}
            store.expire(drop)
            for gone in drop:
                del infos[gone]
        if seconds % HOUR == 0 and threshold > 0:
            store.compact(threshold)
        if seconds % HOUR == 0:
            recent = store.records[-min(per_hour, 400) :]
            changed.append(len(np.unique(np.concatenate([held.rows["first"] for held in recent if held.point]))))
        if seconds == (retention + 12) * HOUR:
            marks = {"written": store.written, "cleaned": store.cleaned, **store.requests}
        if marks and seconds % (6 * HOUR) == 0:
            spaces.append((store.space, store.live()))
    written = store.written - marks["written"]
    days = (hours - retention - 12) / 24
    requests = {name: round((store.requests[name] - marks[name]) / days) for name in store.requests}
    price = (requests["put"] + requests["list"]) * PUT_PRICE + requests["get"] * GET_PRICE
    return {
        "threshold": threshold,
        "cleaning": round((store.cleaned - marks["cleaned"]) / written, 3),
        "space": round(float(np.mean([space / live for space, live in spaces])), 3),
        "space_worst": round(max(space / live for space, live in spaces), 3),
        "live_bytes": int(np.mean([live for _, live in spaces])) * scale,
        "written_per_day": int(written / days) * scale,
        "changed_per_hour": round(float(np.mean(changed)) * BLOCK * scale / (1024 * GiB), 4),
        "first_copy": first_copy * scale,
        "points": len(infos),
        "requests_per_day": requests,
        "dollars_per_month": round(price * 30, 2),
    }


def _info(number: int, seconds: float) -> PointInfo:
    return PointInfo(PointId(T, number), START + timedelta(seconds=seconds), Consistency.CRASH)


THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def rows(
    rounds: int = 1, *, thresholds: Sequence[float] = THRESHOLDS, hours: int = 120, scale: int = 64
) -> list[dict[str, Any]]:
    """The curve. (Nothing is timed: one round says it all.)"""
    return [run(threshold, hours=hours, scale=scale) for threshold in thresholds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=120)
    parser.add_argument("--scale", type=int, default=64)
    parser.add_argument("--threshold", type=float, nargs="*", default=list(THRESHOLDS))
    options = parser.parse_args()
    for threshold in options.threshold:
        print(json.dumps(run(threshold, hours=options.hours, scale=options.scale)), flush=True)


if __name__ == "__main__":
    main()
