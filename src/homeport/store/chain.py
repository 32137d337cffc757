"""From a point down to where its timeline begins, and through forks further: the links that its map is made of.

At each number the longest layer that ends there stands for many links; without one, a thinning record or the point's
own record is the link. Layers are never needed: one that is damaged, gone or out of date is left aside.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.store import names
from homeport.store.errors import BrokenChain, Corrupt, NotFound, PointNotFound
from homeport.store.layout import Layout
from homeport.store.names import Segment
from homeport.store.records import Record

if TYPE_CHECKING:
    from homeport.store.timeline import MachineStore

log = get_logger(__name__)

_TRIES = 4
_AT_ONCE = 8
"""Records fetched at once."""

Link = tuple[PointId, Record]
"""A record, and the point that it tells of: the newest that it stands for."""


def chain(
    store: MachineStore,
    point: PointId,
    *,
    dropped: bool = False,
    layers: bool = True,
    cuts: Collection[PointId] = (),
    without: Collection[Segment] = (),
) -> list[Link]:
    """The links of a point, newest first; the first is its own record. ``dropped``: also where the point itself was
    dropped but is the last of a thinned run. ``layers``: use them, but none that stands across one of ``cuts`` or that
    names a segment of ``without``, which is gone. Raises PointNotFound, BrokenChain (a link is missing), Corrupt."""
    for attempt in range(_TRIES):
        walk = _Walk(store, point, dropped, layers, cuts, without)
        try:
            return walk.links()
        except NotFound as error:
            # Thinned between the list and the read: the new list tells.
            store.forget(error.details.get("key", ""))
            link = store.scan(walk.at.timeline).link(walk.at.number)
            if link == walk.wanted or attempt == _TRIES - 1:
                raise walk.missing() from None
    raise AssertionError


class _Walk:
    def __init__(
        self,
        store: MachineStore,
        point: PointId,
        dropped: bool,
        layers: bool,
        cuts: Collection[PointId],
        without: Collection[Segment],
    ) -> None:
        self.store = store
        self.point = point
        self.dropped = dropped
        self.layers = layers
        self.cuts = cuts
        self.without = frozenset(without)
        self.layouts: dict[str, Layout] = {}
        self.result: list[Link] = []
        self.ahead: dict[str, Record] = {}
        self.at = point
        self.wanted: object = None

    def missing(self) -> PointNotFound | BrokenChain:
        if not self.result:
            return PointNotFound(f"there is no recovery point {self.point}", point=str(self.point))
        above = self.result[-1][1].key
        return BrokenChain(f"{above} stands on {self.at}, which isn't there", object=above, point=str(self.point))

    def links(self) -> list[Link]:
        current: PointId | None = self.point
        seen: set[PointId] = set()
        while current is not None:
            self.at = current
            found = self.layouts.get(current.timeline)
            if found is None:
                found = self.layouts[current.timeline] = self.store.scan(current.timeline)
                self.look_ahead(found, current.number)
            record = self.layer(found, current.number) or self.record(found, current.number)
            if current in seen:
                raise BrokenChain(f"{record.key} stands on itself", object=record.key, point=str(current))
            seen.add(current)
            self.result.append((current, record))
            current = record.parent
        return self.result

    def record(self, found: Layout, number: int) -> Record:
        link = self.wanted = found.link(number)
        own = not self.result
        if link is None or (own and not self.dropped and "/thin/" in link[1]):
            raise self.missing()
        if own:
            self.store.objects.size(link[1])  # it may be remembered here, but gone
        record = self.open(link[1])
        if record.ended:
            raise PointNotFound(f"{self.at} is the end of its timeline, no point", point=str(self.at))
        return record

    def layer(self, found: Layout, number: int) -> Record | None:
        """The longest layer that ends here and can be used."""
        for first, last in self.candidates(found, number) if self.result else ():
            key = names.layer(self.store.machine, found.timeline, first, last)
            try:
                record = self.open(key)
                if self.without and not self.without.isdisjoint(self.store.segments_of(record).names()):
                    self.store.distrust(record)
            except NotFound:
                continue
            except Corrupt as error:
                log.warning("a layer is damaged and left aside", key=key, cause=error.cause)
                self.store.forget(key)
                continue
            if self.store.trusts(record) and record.parent == PointId(found.timeline, first - 1):
                return record
        return None

    def candidates(self, found: Layout, number: int) -> list[tuple[int, int]]:
        if not self.layers:
            return []
        cuts = [cut.number for cut in self.cuts if cut.timeline == found.timeline]
        return [
            (first, last)
            for first, last in found.layers_ending_at(number)
            if not any(first <= cut < last for cut in cuts)
        ]

    def open(self, key: str) -> Record:
        return self.ahead.get(key) or self.store.layer(key)

    def look_ahead(self, found: Layout, number: int) -> None:
        """Fetch at once what the walk through this timeline will come by, if nothing is in its way."""
        keys = []
        own = not self.result
        while number > 0:
            link = found.link(number)
            if link is None:
                break
            (first, _), key = link
            for reach in () if own else self.candidates(found, number)[:1]:
                first, key = reach[0], names.layer(self.store.machine, found.timeline, *reach)
            if not self.store.remembers(key):
                keys.append(key)
            own = False
            number = first - 1
        if len(keys) < _AT_ONCE:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for key, record in zip(keys, pool.map(self.try_open, keys), strict=True):
                if record is not None:
                    self.ahead[key] = record

    def try_open(self, key: str) -> Record | None:
        try:
            return self.store.layer(key)
        except (NotFound, Corrupt):
            return None  # the walk will see
