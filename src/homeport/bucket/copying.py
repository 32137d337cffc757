"""A store brought to another: for a second place, or to carry a first copy there on a disk.

All objects go over as they are; they are sealed for their keys, not for their bucket. The target is consistent at every
instant, and what is there already is not sent again, so that a copy can be interrupted, repeated and kept up to date:

    vault's file → machine's key → timeline → its epochs → for each point, oldest first, what it stands on and the
    target lacks: segments → digest maps → record → … → end mark, hidings, boundary

Epochs go before segments, so that who writes to the target later writes with newer ones. Writers and retention at the
source go on meanwhile: a large point is held by a lease while it is copied, and where a record was replaced by a
thinning record, the point is looked up anew. Points that were dropped at the target aren't brought back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from homeport.bucket.holding import holding
from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.store import layout, names, sealed, vaultfile
from homeport.store.errors import AlreadyExists, BrokenChain, Corrupt, NotFound, PointNotFound, StoreError
from homeport.store.keys import Opener, VaultKey, machine_key, open_vault, place_header
from homeport.store.objects import Objects
from homeport.store.records import Record
from homeport.store.segment import (
    FOOTER_SIZE,
    HEADER_SIZE,
    SegmentCipher,
    SegmentInfo,
    open_frame,
    parse_footer,
    parse_header,
    read_directory,
)
from homeport.store.timeline import MachineStore

log = get_logger(__name__)

_AT_ONCE = 4
"""Segments on their way at once: with 32 MiB each, what a copy takes of memory."""

_TRIES = 6

_WORTH_A_LEASE = 64 * MiB
"""What takes longer to bring is held; what is quickly brought is tried again."""

Advance = Callable[[int], None]


@dataclass
class Copied:
    """``points``: now at the target by this copy; ``present``: were there already; ``skipped``: dropped there, or
    dropped here meanwhile; ``problems``: what is damaged at the source, in words: it was copied as it is, or (where
    something is missing) left out with the points that need it."""

    points: list[str] = field(default_factory=list)
    present: int = 0
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


class Diverged(StoreError):
    """The target holds something else under a key than the source: both were written to."""

    code = "store.copy-diverged"
    remedy = "The target was written to by somebody else. Copy to another store; look at both with `store points`."


def prepare(source: Objects, vault: VaultKey, target: Objects, secret: Callable[[], Opener]) -> VaultKey:
    """Make the target a store of the source's vault, if it is none yet; the vault's key as the target has it (its own
    after a rotation there or here, for which ``secret`` is asked). Raises StoreError (``store.other-vault``,
    ``store.rotation-unfinished``), WrongKey."""
    here = vaultfile.load(source)
    if here.pending is not None:
        raise StoreError(
            "a key rotation of the source was interrupted, or runs now",
            code="store.rotation-unfinished",
            remedy="Complete it first: `homeport store key rotate` with the same key files and passphrase.",
        )
    try:
        there = vaultfile.load(target)
    except NotFound:
        if any(True for _ in target.list("machines/")):
            raise StoreError(
                "the target holds machines, but nothing that unlocks them",
                code="store.other-vault",
                remedy="Choose an empty target, or a store of the same vault.",
            ) from None
        place_header(target, here.to_bytes().decode())
        there = here
    if there.vault != vault.id:
        raise StoreError(
            f"the target belongs to vault {there.vault}, not to {vault.id}",
            code="store.other-vault",
            remedy="Choose an empty target, or a store of the same vault.",
        )
    if there.generations[there.generation] == vault.key_id:
        return VaultKey(vault.id, vault.key, there.generation)
    return open_vault(target, secret())


def to_copy(store: MachineStore, target: Objects) -> int:
    """Bytes of segments that a copy of this machine may have to move, at most."""
    total = 0
    for timeline in store.timeline_ids():
        prefix = names.timeline(store.machine, timeline) + "segment/"
        there = {key for key, _ in target.list(prefix)}
        total += sum(size for key, size in store.objects.list(prefix) if key not in there)
    return total


def copy_machine(
    store: MachineStore, target: Objects, vault: VaultKey, *, advance: Advance = lambda count: None
) -> Copied:
    """Bring a machine's points to ``target`` (see :func:`prepare`, which gives ``vault``). ``advance``: bytes of
    segments, as they arrive. Raises Diverged, StoreError (``store.other-key``), StoreUnavailable."""
    machine_key(target, vault, store.machine, create=store.keys)
    return _Copy(store, target, advance).run()


class _InHand:
    """A segment's bytes in the place of the bucket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


def check_segment(store: MachineStore, info: SegmentInfo, data: bytes) -> None:
    """Every byte of a segment that counts: header, footer, directory, and that each frame opens. Raises Corrupt."""
    key = info.segment.key(store.machine)
    if len(data) != info.size:
        raise Corrupt(f"{key} has {len(data)} bytes, {info.size} were written", object=key)
    if parse_header(key, data[:HEADER_SIZE]) != info.random:
        raise Corrupt(f"{key} is not the segment that the record names", object=key)
    parse_footer(key, data[-FOOTER_SIZE:])
    found = read_directory(_InHand(data), store.keys, info)  # type: ignore[arg-type]
    cipher = SegmentCipher(store.keys, info.segment, info.random)
    view = memoryview(data)
    rows = zip(found.disk.tolist(), found.first.tolist(), found.offset.tolist(), found.length.tolist(), strict=True)
    for number, (disk, first, offset, length) in enumerate(rows):
        frame = view[offset : offset + length]
        open_frame(store.keys, cipher, info.segment, found.disks[disk], number, first, frame)


class _Copy:
    def __init__(self, store: MachineStore, target: Objects, advance: Advance) -> None:
        self.store, self.source, self.target = store, store.objects, target
        self.there = MachineStore(target, store.keys)
        self.advance = advance
        self.result = Copied()
        self.segments: dict[str, set[str]] = {}
        self.ends: dict[str, set[int]] = {}
        self.layouts: dict[str, layout.Layout] = {}
        self.theirs: dict[str, layout.Layout] = {}
        self.begun: set[str] = set()
        self._lock = threading.Lock()

    def run(self) -> Copied:
        for info in self.store.timelines():
            if info.parent is not None and not self.ensure(info.parent):
                continue
            self.timeline(info.id)
        for key, _ in self.source.list(names.descriptions(self.store.machine)):
            self.put(key, must_match=False)
        return self.result

    # -- a timeline ----------------------------------------------------------------------------------------------------

    def begin(self, timeline: str) -> None:
        """The timeline itself and the claims of its writers, before anything of theirs."""
        if timeline in self.begun:
            return
        prefix = names.timeline(self.store.machine, timeline)
        self.put(prefix + "timeline")
        for key, _ in self.source.list(prefix + "epoch/"):
            self.put(key)
        # No folds: what stands at the source says nothing of a record of the same name that the target makes itself.
        # Where both gave a segment the same name, that one is told (Diverged).
        self.segments[timeline] = {key for key, _ in self.target.list(prefix + "segment/")}
        self.begun.add(timeline)

    def timeline(self, timeline: str) -> None:
        self.begin(timeline)
        for number in self.store.scan(timeline).live:
            self.ensure(PointId(timeline, number))
        if self.store.last_point(timeline) is None:
            self.parts(timeline)
        prefix = names.timeline(self.store.machine, timeline)
        for kind in ("hide/", "boundary/"):
            keys = [key for key, _ in self.source.list(prefix + kind)]
            if keys:
                self.put(keys[-1], must_match=False)

    def parts(self, timeline: str) -> None:
        """Pieces of a first copy that isn't complete yet."""
        for number in layout.part_numbers(self.source, self.store.machine, timeline):
            key = names.part(self.store.machine, timeline, number)
            try:
                self.bring(list(self.store.segments_of(self.store.record(key, sealed.PART))))
            except NotFound:
                return  # a point has taken them in meanwhile: the next copy brings it
            self.put(key)

    # -- points --------------------------------------------------------------------------------------------------------

    def have(self, timeline: str) -> set[int]:
        """Numbers at which the target has a record that says what they looked like."""
        if timeline not in self.ends:
            found = self.theirs[timeline] = self.there.scan(timeline)
            self.ends[timeline] = {*found.live, *(last for _, last in found.thins)}
        return self.ends[timeline]

    def ensure(self, point: PointId) -> bool:
        """The point, and all that it stands on, is at the target. False: it can't be, which is said."""
        there = point.number in self.have(point.timeline)
        if self.theirs[point.timeline].covered(point.number):
            self.result.skipped.append(str(point))
            return there
        if there:
            self.result.present += 1
            return True
        for attempt in range(_TRIES):
            try:
                self.bring_links(point, self.missing(point))
                return True
            except PointNotFound:
                self.result.skipped.append(str(point))
                return False
            except (NotFound, BrokenChain) as error:
                # Thinned while it was copied: what it holds lies elsewhere now.
                self.layouts.clear()
                self.store.forget(names.point(self.store.machine, point))
                if attempt == _TRIES - 1:
                    self.result.problems.append(f"{point} can't be copied: {error.cause}")
            except Corrupt as error:
                self.result.problems.append(f"{point} can't be copied: {error.cause}")
                return False
        return False

    def missing(self, point: PointId) -> list[tuple[PointId, Record]]:
        """What the target lacks of a point's chain, newest first."""
        missing: list[tuple[PointId, Record]] = []
        current: PointId | None = point
        while current is not None and current.number not in self.have(current.timeline):
            if current.timeline not in self.layouts:
                self.layouts[current.timeline] = self.store.scan(current.timeline)
            key = layout.layer_key(self.store.machine, self.layouts[current.timeline], current.number)
            if key is None or (not missing and "/thin/" in key):
                if not missing:
                    raise PointNotFound(f"there is no recovery point {point}", point=str(point))
                raise BrokenChain(f"{missing[-1][1].key} stands on {current}, which isn't there", object=key or "")
            record = self.store.layer(key)
            missing.append((current, record))
            current = record.parent
        return missing

    def bring_links(self, point: PointId, missing: list[tuple[PointId, Record]]) -> None:
        """Oldest first."""
        if missing[0][1].ended:
            self.bring_records(missing)
            return
        size = sum(int(self.store.segments_of(record).rows["size"].sum()) for _, record in missing)
        with holding(self.store, point, "copy") if size > _WORTH_A_LEASE else nullcontext():
            self.bring_records(missing)
        self.result.points.append(str(point))

    def bring_records(self, missing: list[tuple[PointId, Record]]) -> None:
        for at, record in reversed(missing):
            self.begin(at.timeline)
            if not record.ended:
                self.bring(list(self.store.segments_of(record)))
                maps = f"{names.timeline(self.store.machine, at.timeline)}digests/{at.number:016d}/"
                for key, _ in self.source.list(maps):
                    self.put(key, must_match=False)
            self.put(record.key)
            self.have(at.timeline).add(at.number)

    # -- objects -------------------------------------------------------------------------------------------------------

    def put(self, key: str, *, must_match: bool = True) -> None:
        """An object as it is, unless it is there. Raises NotFound (the source's), Diverged."""
        data = self.source.get(key)
        try:
            self.target.put(key, data)
        except AlreadyExists:
            if must_match and self.target.get(key) != data:
                raise Diverged(f"{key} is another object at the target", object=key) from None
            return
        self.result.objects += 1
        self.result.bytes += len(data)

    def bring(self, infos: list[SegmentInfo]) -> None:
        """Segments that the target lacks, several at once."""
        wanted = []
        for info in infos:
            self.begin(info.segment.timeline)
            if info.segment.key(self.store.machine) not in self.segments[info.segment.timeline]:
                wanted.append(info)
        if len(wanted) < 2:
            for info in wanted:
                self.segment(info)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in _cancelling(pool, self.segment, wanted):
                assert done is None

    def segment(self, info: SegmentInfo) -> None:
        key = info.segment.key(self.store.machine)
        data = self.source.get(key)
        try:
            check_segment(self.store, info, data)
        except Corrupt as error:
            with self._lock:
                self.result.problems.append(f"{key} is damaged, and was copied so: {error.cause}")
        try:
            self.target.put(key, data)
        except AlreadyExists:
            if self.target.get(key) != data:
                raise Diverged(f"{key} is another segment at the target", object=key) from None
        with self._lock:
            self.segments[info.segment.timeline].add(key)
            self.result.objects += 1
            self.result.bytes += len(data)
        self.advance(len(data))


def _cancelling(
    pool: ThreadPoolExecutor, work: Callable[[SegmentInfo], None], items: list[SegmentInfo]
) -> Iterator[None]:
    """Results in order; after a failure what hasn't begun isn't begun."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
