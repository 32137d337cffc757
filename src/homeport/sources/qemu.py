"""Changes of a running machine, tracked by its QEMU (or, without a guest, by a qemu-storage-daemon).

    dirty bitmaps                 which blocks changed since a point        generations.py, qemu/bitmaps.py
    copy-before-write nodes       a view of one instant over all disks      qemu/graph.py, scratch.py
    NBD server inside QEMU        reading view and bitmaps                  exports.py, qemu_view.py

Every step leaves a state from which :meth:`QemuSource.recover` or the next :meth:`QemuSource.begin_point` goes on:
knowledge lies in QEMU (names of bitmaps, nodes and exports), never in this process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from homeport.disks.nbd.errors import NbdError
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.qemu import bitmaps as tracker
from homeport.qemu import graph
from homeport.qemu.errors import FilterMissing
from homeport.qemu.qmp import Qmp, QmpError, QmpGone, QmpSilent
from homeport.sources import exports, scratch
from homeport.sources.errors import FreezeFailed, SourceError, SourceGone, ViewBroken
from homeport.sources.freeze import Freeze
from homeport.sources.generations import Generations, actions_of
from homeport.sources.hold import Hold, QemuHold, let_go
from homeport.sources.interface import Changed, Cut, Knowledge, PointView
from homeport.sources.qemu_view import InstantView, QemuDiskView

log = structlog.get_logger(__name__)

CBW_SECONDS = 30
"""A guest's write waits this long at most for what it overwrites to be saved; then the view breaks."""

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class _Prepared:
    """``bases``: per disk the bitmap that marks everything since the base, where that is known."""

    disks: list[graph.DiskNode]
    known: graph.Nodes
    bases: dict[str, tracker.Bitmap | None]
    incarnation: str


class QemuSource:
    """The source of one running machine whose block graph is as :mod:`homeport.qemu.graph` says.

    ``qmp_path``: its QMP socket; it is held during each call only. ``agent_path``: the guest agent's socket, if any.
    ``scratch``: a folder for this machine alone; ``scratch_limit``: bytes that an open view may take there, over all
    disks. ``nbd_dir``: where QEMU's NBD server gets its socket, unless QEMU has one already at ``nbd_server``.
    ``exclude``: ids of disks that are left out: not tracked, not in any view. ``hold``: how it is made to stand still
    for an instant that it shares with others.

    One thread drives it; the views it hands out are read by any number of threads.
    """

    def __init__(
        self,
        qmp_path: str | Path,
        *,
        agent_path: str | None,
        scratch: Path,
        scratch_limit: int,
        nbd_dir: Path,
        nbd_server: str | Path | None = None,
        exclude: Collection[str] = (),
        hold: Callable[[Qmp], Hold] = QemuHold,
    ) -> None:
        self._qmp_path = Path(qmp_path)
        self._agent_path = agent_path
        self._scratch = Path(scratch)
        self._scratch_limit = scratch_limit
        self._exclude = frozenset(exclude)
        self._hold = hold
        self._own_server = nbd_server is None
        self._address = (
            Path(nbd_server) if nbd_server else exports.nbd_address(Path(nbd_dir).absolute(), self._qmp_path)
        )
        self._open: list[QemuDiskView] = []
        self._live: list[QemuDiskView] = []

    # ── tracking ────────────────────────────────────────────────────────────────────────────────────────────────

    def track(self, base: PointId) -> None:
        """Track changes since ``base`` on all disks from now on, unless all do already; other knowledge is dropped."""
        with self._qmp() as qmp:
            self._drop_view(qmp)
            tracker.start_tracking(qmp, base, self._exclude)

    def tracked(self) -> dict[PointId, str]:
        with self._qmp() as qmp:
            return tracker.known_to_all(self._bitmaps(qmp).values())

    # ── views ───────────────────────────────────────────────────────────────────────────────────────────────────

    def live(self) -> PointView:
        """The disks as they are at each read. Its point is the newest that the tracker knows of all disks.

        It lasts till the next :meth:`live`, :meth:`begin_point`, :meth:`recover` or :meth:`close`. Raises SourceError
        where nothing is tracked: what the guest writes during the copy would be missed.
        """
        with self._qmp() as qmp:
            known = graph.nodes(qmp)
            tracked = tracker.known_to_all(self._bitmaps(qmp, known).values())
            if not tracked:
                raise SourceError("a live copy was asked for while changes are not tracked", code="source.not-tracked")
            point, incarnation = list(tracked.items())[-1]
            self._drop_live(qmp)
            if self._own_server:
                exports.start_server(qmp, self._address)
            instant = datetime.now(UTC)
            for disk in self._disks(qmp, known):
                view = self._reach(disk, exports.export_live(qmp, disk), None)
                view.changed = Changed(Knowledge.EVERYTHING)
                self._live.append(view)
        return PointView(point, None, Consistency.CRASH, instant, incarnation, tuple(self._live))

    def begin_point(
        self,
        point: PointId,
        base: PointId,
        consistency: Consistency = Consistency.CRASH,
        *,
        incarnation: str | None = None,
        cut: Cut | None = None,
        strict: bool = False,
    ) -> PointView:
        """A view of all disks at one instant, and what changed since ``base`` per disk (UNKNOWN where it isn't known).

        Generations newer than ``base`` are put back first: whoever asks for an older base has lost what was newer.
        ``incarnation``: what the tracker of ``base`` must have; another means UNKNOWN. Where the guest can't be
        frozen, an app-consistent point becomes a crash-consistent one with a note; if ``strict``: FreezeFailed.

        Raises SourceGone, SourceError; the changes are back with ``base`` then.
        """
        if point.timeline == base.timeline and point.number <= base.number:
            raise ValueError(f"{point} does not follow {base}")
        freeze: Freeze | None = None
        notes: list[str] = []
        try:
            with self._qmp() as qmp:
                self._drop_view(qmp)
                self._drop_live(qmp)
                prepared = self._prepare(qmp, point, base, incarnation)
                switch = partial(graph.switch, qmp, prepared.known, {disk.id: disk.cbw_node for disk in prepared.disks})
                hold = self._hold(qmp) if cut else None
                if cut:
                    cut.assemble()
                if consistency is Consistency.APP:
                    freeze = self._frozen(strict, notes)
                try:
                    if cut and hold:
                        instant = cut.take(hold, switch)
                    else:
                        instant = datetime.now(UTC)
                        switch()
                finally:
                    if freeze:
                        reason = freeze.thaw()
                if freeze and reason:
                    notes.append(f"crash-consistent instead of app-consistent: {reason}")
                    freeze = None
                # Only now: until the switch the old ones had to mark what belongs to this point.
                tracker.transact(qmp, [tracker.disable(bitmap) for bitmap in prepared.bases.values() if bitmap])
                disks = self._export(qmp, prepared, point)
        except BaseException as error:
            self._undo(point, error)
            raise
        reached = Consistency.APP if freeze else Consistency.CRASH
        log.info("view open", point=str(point), base=str(base), consistency=str(reached), notes=notes)
        return PointView(point, base, reached, instant, prepared.incarnation, disks, tuple(notes))

    def _prepare(self, qmp: Qmp, point: PointId, base: PointId, expected: str | None) -> _Prepared:
        """Everything that the instant needs: generations in order, new bitmaps recording, nodes made, none in use."""
        known = graph.nodes(qmp)
        disks = self._disks(qmp, known)
        generations = {disk: Generations(found) for disk, found in self._bitmaps(qmp, known).items()}
        for one in generations.values():
            one.fold(base, point)
            one.limit()
        bases = {disk: one.base(base) for disk, one in generations.items()}
        incarnations = {bitmap.incarnation for bitmap in bases.values() if bitmap}
        if len(incarnations) > 1 or (expected is not None and incarnations != {expected}):
            log.warning("the tracker is another one than the base's", base=str(base), found=sorted(incarnations))
            bases = dict.fromkeys(bases)
        incarnation = tracker.new_incarnation()
        actions = actions_of(generations.values())
        tracker.transact(qmp, [*actions, *(tracker.add(disk, point, incarnation) for disk in disks)])
        self._make_nodes(qmp, disks)
        return _Prepared(disks, known, bases, incarnation)

    def _make_nodes(self, qmp: Qmp, disks: list[graph.DiskNode]) -> None:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        shares = scratch.shares(self._scratch_limit, {disk.id: disk.size for disk in disks})
        for disk in disks:
            share = shares[disk.id]
            try:
                path = scratch.create(self._scratch, disk.id, disk.size, share)
            except OSError as error:
                raise SourceError(
                    f"no scratch space for {disk.id} in {self._scratch}: {error}",
                    code="source.scratch",
                    remedy="Make room in the scratch folder. Until then no point can be taken; changes stay tracked.",
                ) from error
            qmp.execute("blockdev-add", scratch.node_options(disk.scratch_node, path.absolute(), share))
            cbw = {"driver": "copy-before-write", "node-name": disk.cbw_node, "file": disk.format_node}
            broken = {"on-cbw-error": "break-snapshot", "cbw-timeout": CBW_SECONDS, "discard": "unmap"}
            qmp.execute("blockdev-add", {**cbw, "target": disk.scratch_node, **broken})

    def _frozen(self, strict: bool, notes: list[str]) -> Freeze | None:
        try:
            if self._agent_path is None:
                raise FreezeFailed("the machine has no guest agent channel")
            freeze = Freeze(self._agent_path)
            freeze.freeze()
        except FreezeFailed as error:
            if strict:
                raise
            log.warning("not frozen", reason=str(error))
            notes.append(f"crash-consistent instead of app-consistent: {error}")
            return None
        return freeze

    def _export(self, qmp: Qmp, prepared: _Prepared, point: PointId) -> tuple[QemuDiskView, ...]:
        if self._own_server:
            exports.start_server(qmp, self._address)
        for disk in prepared.disks:
            qmp.execute(
                "blockdev-add", {"driver": "snapshot-access", "node-name": disk.view_node, "file": disk.cbw_node}
            )
            base = prepared.bases[disk.id]
            name = exports.export_view(qmp, disk, point, base.name if base else None)
            view = self._reach(disk, name, base.name if base else None, partial(self._written, disk, point))
            self._open.append(view)
            view.changed = Changed(Knowledge.EXTENTS, view.marked()) if base else Changed(Knowledge.UNKNOWN)
        return tuple(self._open)

    def _written(self, disk: graph.DiskNode, point: PointId) -> Extents:
        """What the guest wrote to ``disk`` since ``point``, up to now."""
        with self._qmp() as qmp:
            self._drop_copies(qmp)
            own = [bitmap for bitmap in tracker.bitmaps(qmp)[disk.id] if bitmap.point == point]
            if not own:
                raise ViewBroken(f"{disk.id}: the view of {point} is gone", disk=disk.id)
            # A recording bitmap can't be exported, a copy can. The transaction first waits for writes under way.
            tracker.transact(qmp, tracker.copy_actions(own[0]))
            name = tracker.copy_name(disk.id)
            try:
                view = self._reach(disk, exports.export_bitmap(qmp, disk, name), name)
                try:
                    return view.marked()
                finally:
                    view.close()
            finally:
                self._drop_copies(qmp)

    def _reach(
        self,
        disk: graph.DiskNode,
        export: str,
        bitmap: str | None,
        written: Callable[[], Extents] | None = None,
    ) -> QemuDiskView:
        """``written``: for the view of an instant."""
        try:
            if written:
                return InstantView(disk.id, self._address, export, self._qmp_path, bitmap, written)
            return QemuDiskView(disk.id, self._address, export, self._qmp_path, bitmap)
        except NbdError as error:
            raise SourceError(
                f"the machine's NBD server can't be used at {self._address}: {error}",
                code="source.nbd-server",
                remedy="Another program started an NBD server in this QEMU: name its address (nbd_server), or stop it.",
            ) from error

    # ── what becomes of a point ─────────────────────────────────────────────────────────────────────────────────

    def handed(self, point: PointId) -> None:
        """Drop the view of ``point``; its generation stays. Nothing where another point's view is open."""

        def drop(qmp: Qmp) -> None:
            if not set(exports.views(qmp).values()) - {point}:
                self._drop_view(qmp)

        self._unless_gone("handed", point, drop)

    def commit(self, point: PointId) -> None:
        """Forget the generations older than ``point``."""

        def forget(qmp: Qmp) -> None:
            generations = [Generations(found) for found in self._bitmaps(qmp).values()]
            for one in generations:
                one.forget_before(point)
            tracker.transact(qmp, actions_of(generations))

        self._unless_gone("commit", point, forget)

    def abort(self, point: PointId) -> None:
        """Drop the view of ``point`` and put its changes back to the generation before."""

        def back(qmp: Qmp) -> None:
            if not set(exports.views(qmp).values()) - {point}:
                self._drop_view(qmp)
            generations = [Generations(found) for found in self._bitmaps(qmp).values()]
            for one in generations:
                one.put_back(point)
            tracker.transact(qmp, actions_of(generations))

        self._unless_gone("abort", point, back)

    def recover(self, handed: list[PointId]) -> None:
        """Drop views left open. Keep the oldest generation and those of ``handed``; put back all others."""
        with self._qmp() as qmp:
            let_go(qmp, graph.nodes(qmp))
            self._drop_view(qmp)
            self._drop_live(qmp)
            generations = [Generations(found) for found in self._bitmaps(qmp).values()]
            for one in generations:
                one.keep_only(handed)
            tracker.transact(qmp, actions_of(generations))

    def drop_views(self) -> None:
        """Drop whatever view is open, whoever opened it; changes stay tracked. Nothing where the machine is off."""

        def drop(qmp: Qmp) -> None:
            self._drop_view(qmp)
            self._drop_live(qmp)

        self._unless_gone("drop", None, drop)

    def close(self) -> None:
        """End the views that this object opened. Tracking goes on. Twice does no harm."""
        if not self._open and not self._live:
            return

        def end(qmp: Qmp) -> None:
            if self._open:
                self._drop_view(qmp)
            self._drop_live(qmp)

        self._unless_gone("close", None, end)

    # ── within ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _disks(self, qmp: Qmp, known: graph.Nodes) -> list[graph.DiskNode]:
        """The disks that are replicated."""
        return [disk for disk in graph.disks(qmp, known) if disk.id not in self._exclude]

    def _bitmaps(self, qmp: Qmp, known: graph.Nodes | None = None) -> dict[str, list[tracker.Bitmap]]:
        """Of the disks that are replicated."""
        return {disk: found for disk, found in tracker.bitmaps(qmp, known).items() if disk not in self._exclude}

    @contextmanager
    def _qmp(self) -> Iterator[Qmp]:
        """A connection to the machine; what goes wrong with it becomes a source's error."""
        try:
            with Qmp.connect(self._qmp_path, _CONNECT_SECONDS) as qmp:
                yield qmp
        except QmpSilent as error:
            raise SourceError(str(error), code="source.silent", remedy=error.remedy) from error
        except QmpGone as error:
            raise SourceGone(str(error)) from error
        except (QmpError, FilterMissing) as error:
            raise SourceError(str(error), code=error.code, remedy=error.remedy, **error.details) from error

    def _unless_gone(self, what: str, point: PointId | None, work: Callable[[Qmp], object]) -> None:
        """Do ``work``; where the machine's process is gone, its views are too and there is nothing left to do."""
        try:
            with self._qmp() as qmp:
                work(qmp)
        except SourceGone as error:
            log.info("the machine is gone", during=what, point=str(point), reason=str(error))
            self._close_views()
            scratch.sweep(self._scratch)

    def _drop_view(self, qmp: Qmp) -> None:
        """Take apart whatever is there of a view, in the order of what depends on what."""
        for view in self._open:
            view.close()
        self._open.clear()
        self._drop_copies(qmp)
        exports.remove_views(qmp)
        known = graph.nodes(qmp)
        disks = graph.disks(qmp, known)
        graph.delete_nodes(qmp, known, [disk.view_node for disk in disks])
        below = {disk.id: disk.format_node for disk in disks if disk.cbw_node in known}
        if below:
            graph.switch(qmp, known, below)
        graph.delete_nodes(qmp, known, [name for disk in disks for name in (disk.cbw_node, disk.scratch_node)])
        scratch.sweep(self._scratch)

    def _drop_copies(self, qmp: Qmp) -> None:
        exports.remove_bitmaps(qmp)
        tracker.remove_copies(qmp, graph.nodes(qmp))

    def _drop_live(self, qmp: Qmp) -> None:
        for view in self._live:
            view.close()
        self._live.clear()
        exports.remove_live(qmp)

    def _close_views(self) -> None:
        for view in (*self._open, *self._live):
            view.close()
        self._open.clear()
        self._live.clear()

    def _undo(self, point: PointId, reason: BaseException) -> None:
        """After a failed begin: as if it never began. What can't be undone now is undone at the next begin."""
        try:
            self.abort(point)
        except SourceError as error:
            log.warning("a failed point was not undone yet", point=str(point), reason=str(reason), error=str(error))
