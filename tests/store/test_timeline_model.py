"""Random histories against a model of plain bytes: whatever is written, forked, thinned, hidden or resized, every point
reads back byte for byte, and differences and digests are true."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, BLOCKS_PER_REGION
from homeport.store import MachineStore, MemoryObjects, Writer, block_digests, region_digests
from homeport.store.reader import PointReader
from tests.store.stores import KEYS, NOW, Crash, FaultyObjects, blocks, read_all

DISKS = ("disk0", "disk1")
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 70).map(lambda n: n * 8192 + (512 if n % 5 == 0 else 0))


P = ParamSpec("P")
steps: Counter[str] = Counter()
"""How often each rule ran to its end."""


def counted(step: Callable[Concatenate[Histories, P], None]) -> Callable[Concatenate[Histories, P], None]:
    steps[step.__name__] = 0

    @functools.wraps(step)
    def run(machine: Histories, /, *args: P.args, **kwargs: P.kwargs) -> None:
        step(machine, *args, **kwargs)
        steps[step.__name__] += 1

    return run


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.objects = MemoryObjects()
        self.store = MachineStore(self.objects, KEYS)
        self.spool = Path(tempfile.mkdtemp(prefix="hp"))
        self.content: dict[PointId, dict[str, bytes]] = {}
        self.heads: dict[str, PointId | None] = {}
        self.writers: dict[str, Writer] = {}
        self.readers: list[tuple[PointId, PointReader]] = []
        self.made = 0

    def teardown(self) -> None:
        try:
            for point in self.content:
                self.check_point(point)
            self.check_kept_readers()
            report = self.store.verify(deep=True)
            assert report.problems == []
        finally:
            shutil.rmtree(self.spool)

    # -- what happens ----------------------------------------------------------------------------------------------

    @initialize(data=st.data(), seed=seeds)
    def first_timeline(self, data: st.DataObject, seed: int) -> None:
        """With a point: a history of nothing proves nothing."""
        self.begin(None)
        self.write(data, seed, {}, False, 1)

    def begin(self, parent: PointId | None) -> None:
        self.made += 1
        timeline = f"{self.made:016x}"
        self.store.create_timeline(timeline, parent=parent)
        self.heads[timeline] = parent

    def writer(self, timeline: str) -> Writer:
        if timeline not in self.writers:
            self.writers[timeline] = self.store.writer(timeline, "test")
        return self.writers[timeline]

    @rule(data=st.data(), seed=seeds, grown=st.dictionaries(st.sampled_from(DISKS), sizes), maps=st.booleans(),
          together=st.integers(1, 2))  # fmt: skip
    @counted
    def commit(self, data: st.DataObject, seed: int, grown: dict[str, int], maps: bool, together: int) -> None:
        self.write(data, seed, grown, maps, together)

    def write(self, data: st.DataObject, seed: int, grown: dict[str, int], maps: bool, together: int) -> None:
        """One or two points, built before the first is published; written in any order, blocks twice, zeroes."""
        timeline = data.draw(st.sampled_from(sorted(self.heads)))
        writer = self.writer(timeline)
        waiting = []
        for step in range(together):
            head = self.heads[timeline]
            old = self.content[head] if head else {}
            now = {disk: bytearray(old.get(disk, b"")) for disk in DISKS}
            for disk in DISKS:
                size = grown.get(disk, len(now[disk]) or 40 * 8192)
                now[disk] = bytearray(now[disk][:size].ljust(size, b"\0"))
            number = head.number + 1 if head and head.timeline == timeline else 1
            builder = writer.builder(number, self.spool, head)
            for turn in range(data.draw(st.integers(0, 4))):
                disk = data.draw(st.sampled_from(DISKS))
                total = -(-len(now[disk]) // BLOCK)
                first = data.draw(st.integers(0, total - 1))
                count = data.draw(st.integers(1, min(total - first, 20)))
                start, end = first * BLOCK, min((first + count) * BLOCK, len(now[disk]))
                if data.draw(st.booleans()):
                    new = bytearray(blocks(seed + turn + step, count)[: end - start])
                    if turn % 2:
                        new[:BLOCK] = bytes(min(BLOCK, len(new)))
                    builder.write(disk, start, new)
                else:
                    new = bytearray(end - start)
                    builder.zero(disk, start, end - start)
                now[disk][start:end] = new
            disks = {disk: len(content) for disk, content in now.items()}
            found = {disk: block_digests(KEYS, content) for disk, content in now.items()} if maps else None
            waiting.append(builder.finish(instant=NOW, disks=disks, incarnation="", digest_maps=found))
            self.heads[timeline] = PointId(timeline, number)
            self.content[PointId(timeline, number)] = {disk: bytes(content) for disk, content in now.items()}
        for spooled in waiting:
            writer.publish(spooled)
            spooled.remove()

    @precondition(lambda self: self.content and len(self.heads) < 4)
    @rule(data=st.data())
    @counted
    def fork(self, data: st.DataObject) -> None:
        self.begin(data.draw(st.sampled_from(sorted(self.content))))

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    @counted
    def expire(self, data: st.DataObject) -> None:
        timeline = data.draw(st.sampled_from(sorted(self.heads)))
        mine = sorted(point.number for point in self.content if point.timeline == timeline)
        drop = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        forked = {info.parent for info in self.store.timelines()}
        leased = {lease.point for lease in self.store.leases()}
        result = self.store.expire(timeline, drop)
        for number in drop:
            point = PointId(timeline, number)
            keep = point in forked or point in leased or point == self.heads[timeline]
            assert (number in result.kept) or not keep
            if number in result.dropped:
                self.forget(point)
            else:
                assert number in result.kept

    @rule(data=st.data(), threshold=st.sampled_from([0.3, 0.99]), at=st.integers(0, 12), after=st.booleans())
    @counted
    def compact(self, data: st.DataObject, threshold: float, at: int, after: bool) -> None:
        """Perhaps dying at a put or delete (0: not)."""
        timeline = data.draw(st.sampled_from(sorted(self.heads)))
        faulty = FaultyObjects(self.objects, at, after=after)
        with contextlib.suppress(Crash):
            assert MachineStore(faulty, KEYS).compact(timeline, threshold=threshold).left == {}

    @precondition(lambda self: self.content)
    @rule(data=st.data(), at=st.integers(1, 12), after=st.booleans())
    @counted
    def expire_and_die(self, data: st.DataObject, at: int, after: bool) -> None:
        """What was asked for may be dropped or not, and the rest is as it was."""
        timeline = data.draw(st.sampled_from(sorted(self.heads)))
        mine = sorted(point.number for point in self.content if point.timeline == timeline)
        drop = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        with contextlib.suppress(Crash):
            MachineStore(FaultyObjects(self.objects, at, after=after), KEYS).expire(timeline, drop)
        self.store.expire(timeline, [])
        there = {info.id for info in self.store.points(timeline, hidden=True)}
        gone = {point for point in self.content if point.timeline == timeline} - there
        assert {point.number for point in gone} <= set(drop)
        for point in gone:
            assert point != self.heads[timeline]
            self.forget(point)

    def forget(self, point: PointId) -> None:
        del self.content[point]
        self.readers = [kept for kept in self.readers if kept[0] != point]

    @precondition(lambda self: self.content)
    @rule(data=st.data(), on=st.booleans())
    @counted
    def lease(self, data: st.DataObject, on: bool) -> None:
        point = data.draw(st.sampled_from(sorted(self.content)))
        if on:
            self.store.lease(point, "a test: 100 %", 1000)
            assert point in {lease.point for lease in self.store.leases()}
        else:
            self.store.release(point, "a test: 100 %")

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    @counted
    def hide(self, data: st.DataObject) -> None:
        point = data.draw(st.sampled_from(sorted(self.content)))
        self.store.hide(point.timeline, point.number)
        assert all(info.id.number > point.number for info in self.store.points(point.timeline))

    @rule()
    @counted
    def reopen(self) -> None:
        """Another process: nothing is remembered."""
        self.store = MachineStore(self.objects, KEYS, cache_bytes=1)
        self.writers.clear()

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    @counted
    def keep_a_reader(self, data: st.DataObject) -> None:
        """Opened now, asked later: of this store, also when others come after it. Perhaps it looked already."""
        point = data.draw(st.sampled_from(sorted(self.content)))
        reader = self.store.open(point)
        if data.draw(st.booleans()):
            disk = data.draw(st.sampled_from(DISKS))
            beginning = self.content[point][disk][:BLOCK]
            assert reader.read(disk, 0, len(beginning)) == beginning
        self.readers = [*self.readers[-3:], (point, reader)]

    # -- what must be true -----------------------------------------------------------------------------------------

    @invariant()
    def lists_are_right(self) -> None:
        for timeline, head in self.heads.items():
            expected = sorted(point for point in self.content if point.timeline == timeline)
            assert [info.id for info in self.store.points(timeline, hidden=True)] == expected
            assert self.store.head(timeline) == head

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    @counted
    def one_point_is_right(self, data: st.DataObject) -> None:
        self.check_point(data.draw(st.sampled_from(sorted(self.content))))

    @precondition(lambda self: self.readers)
    @rule()
    @counted
    def kept_readers_are_right(self) -> None:
        self.check_kept_readers()

    def check_kept_readers(self) -> None:
        for point, reader in self.readers:
            self.check_reader(point, reader)

    def check_point(self, point: PointId) -> None:
        assert read_all(self.store, point) == self.content[point]
        self.check_reader(point, self.store.open(point))

    def check_reader(self, point: PointId, reader: PointReader) -> None:
        assert reader.info.id == point
        for disk, content in self.content[point].items():
            assert reader.read(disk, 0, len(content)) == content
            digests = block_digests(KEYS, content)
            found = reader.digests(disk)
            assert np.array_equal(found.regions(), region_digests(KEYS, digests))
            assert np.array_equal(found.blocks(0), digests[:BLOCKS_PER_REGION])
            data = {n for n in range(len(digests)) if digests[n].any()}
            assert data <= set(reader.extents(disk).blocks(BLOCK).tolist())

    @precondition(lambda self: len(self.content) > 1)
    @rule(data=st.data())
    @counted
    def differences_are_found(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.content)))
        other = data.draw(st.sampled_from(sorted(self.content)))
        for disk, content in self.content[one].items():
            before = self.content[other][disk].ljust(len(content), b"\0")
            changed = set(self.store.open(one).changed_since(other, disk).blocks(BLOCK).tolist())
            for block in range(-(-len(content) // BLOCK)):
                place = slice(block * BLOCK, min((block + 1) * BLOCK, len(content)))
                assert block in changed or content[place] == before[place]
            if one == other:
                assert not changed

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    @counted
    def any_range_reads_right(self, data: st.DataObject) -> None:
        point = data.draw(st.sampled_from(sorted(self.content)))
        disk = data.draw(st.sampled_from(DISKS))
        content = self.content[point][disk]
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - start))
        assert self.store.open(point).read(disk, start, length) == content[start : start + length]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_steps_of_random_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones each time. No power cut among them: the spool needn't wait for its disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    gc.collect()
    gc.freeze()  # what earlier tests left needn't be gone through in each collection: it took most of the time
    steps.update({name: -ran for name, ran in steps.items()})
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=270,
            stateful_step_count=60,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert steps.total() >= 10_000
    assert min(steps.values()) >= 100, steps
