"""Generations of changes: one bitmap per point that is not yet in the store, on each disk.

    hp.…5 (disabled) ─ hp.…6 (disabled) ─ hp.…7 (recording)        changes since 5 = all three together

The rule that nothing is ever lost: a bitmap stops recording only after a newer one records, and a bitmap is removed
only after what it marks is in an older one, or after its changes are in the store. All disks change in one QMP
transaction, so a crash finds either the state before or the state after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from homeport.domain.points import PointId
from homeport.qemu.bitmaps import Action, Bitmap, enable, merge, remove

LIMIT = 16
"""Generations per disk beyond which the oldest are merged."""


class Generations:
    """One disk's bitmaps while a transaction is being put together: ``actions`` is what it will do."""

    def __init__(self, found: Sequence[Bitmap]) -> None:
        self._left = list(found)
        self._recording = {bitmap.name for bitmap in found if bitmap.recording}
        self.actions: list[Action] = []

    @property
    def left(self) -> list[Bitmap]:
        """What will be there afterwards."""
        return list(self._left)

    def recording(self, bitmap: Bitmap) -> bool:
        """Whether it will record afterwards."""
        return bitmap.name in self._recording

    def _newest_first(self) -> list[Bitmap]:
        now = {bitmap.point.timeline for bitmap in self._left if self.recording(bitmap)}
        return sorted(self._left, key=lambda bitmap: (bitmap.point.timeline in now, bitmap.point), reverse=True)

    def _remove(self, bitmap: Bitmap) -> None:
        self.actions.append(remove(bitmap))
        self._left.remove(bitmap)
        self._recording.discard(bitmap.name)

    def _older(self, bitmap: Bitmap, certain: Collection[PointId]) -> list[Bitmap]:
        """The generations that ``bitmap``'s changes belong to when it goes. ``certain``: known not to go themselves."""
        others = [other for other in self._left if other is not bitmap]
        same = [other for other in others if other.point.timeline == bitmap.point.timeline]
        before = [other for other in same if other.point.number < bitmap.point.number]
        if before:
            newest = max(other.point.number for other in before)
            return [other for other in before if other.point.number == newest]
        # The first point of a timeline follows a point of another one; that one stopped recording, or is named.
        elsewhere = [other for other in others if other.point.timeline != bitmap.point.timeline]
        named = [other for other in elsewhere if other.point in certain]
        return named or [other for other in elsewhere if not self.recording(other)]

    def _put_back(self, bitmap: Bitmap, older: Sequence[Bitmap]) -> None:
        for target in older:
            if bitmap.inconsistent:
                # What it marked is lost, so the older one would have a gap.
                self._remove(target)
            elif not target.inconsistent:
                if self.recording(bitmap) and not self.recording(target):
                    self.actions.append(enable(target))
                    self._recording.add(target.name)
                self.actions.append(merge(bitmap, target))
        self._remove(bitmap)

    def fold(self, base: PointId, point: PointId) -> None:
        """Make ``base`` the newest generation: put all newer ones back into it; ``point`` is about to be taken."""
        for bitmap in self._newest_first():
            later = bitmap.point.timeline == base.timeline and bitmap.point.number > base.number
            # The point's timeline follows the base's, so all that it has is later too.
            if later or bitmap.point.timeline == point.timeline != base.timeline:
                self._put_back(bitmap, self._older(bitmap, {base}))

    def put_back(self, point: PointId) -> None:
        """``point`` will not be: its changes go back to the generation before it. Without one they are forgotten with
        it: that disk's changes are unknown, as they were before."""
        for bitmap in self._newest_first():
            if bitmap.point == point:
                self._put_back(bitmap, self._older(bitmap, ()))

    def keep_only(self, handed: Collection[PointId]) -> None:
        """Put back every generation that is neither in ``handed`` nor the oldest (the base of what is in the store)."""
        for bitmap in self._newest_first():
            if bitmap.point not in handed and bitmap in self._left:
                older = self._older(bitmap, handed)
                if older:
                    self._put_back(bitmap, older)

    def forget_before(self, point: PointId) -> None:
        """``point`` is in the store: remove what is older. Nothing where this disk does not know ``point``."""
        own = [bitmap for bitmap in self._left if bitmap.point == point]
        if not own:
            return
        newest = any(self.recording(bitmap) for bitmap in own)
        for bitmap in self.left:
            if bitmap.point.timeline == point.timeline:
                older = bitmap.point.number < point.number
            else:
                # While `point` itself still records, nothing newer exists; later only what records may be newer.
                older = newest or not self.recording(bitmap)
            if older:
                self._remove(bitmap)

    def limit(self) -> None:
        """Merge the two oldest until there is room for one more. A point whose generation was merged into an older one
        can't be asked for as a base any more (its changes would be unknown); the oldest and the newest can."""
        while len(self._left) >= LIMIT:
            oldest, second = self._newest_first()[:-3:-1]
            self._put_back(second, [oldest])

    def base(self, point: PointId) -> Bitmap | None:
        """The bitmap that marks everything since ``point``, as it will be afterwards; None: unknown."""
        own = [bitmap for bitmap in self._left if bitmap.point == point]
        if len(own) != 1 or own[0].inconsistent or not self.recording(own[0]):
            return None
        return own[0]


def actions_of(generations: Iterable[Generations]) -> list[Action]:
    return [action for one in generations for action in one.actions]
