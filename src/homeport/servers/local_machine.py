"""A machine at this site as its process server sees it: where its changes come from, and how to stop it in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from homeport.disks.images import open_image
from homeport.domain.extents import Extents
from homeport.domain.machines import Machine, Power
from homeport.domain.units import GiB
from homeport.qemu.bitmaps import stop_tracking
from homeport.qemu.errors import QmpGone
from homeport.qemu.qmp import Qmp
from homeport.sites.qemu import QemuSite, description
from homeport.sources.hold import Hold, NothingRuns, QemuHold
from homeport.sources.interface import Changed, DiskView, Knowledge
from homeport.sources.qemu import QemuSource
from homeport.sources.scan import ImageView

SCRATCH_LIMIT = 8 * GiB
"""What the guest may overwrite while a view of it is read; beyond, the view breaks and is taken again."""


def without_disks(machine: Machine, exclude: Collection[str]) -> Machine:
    """``machine`` with what of it is replicated: its other disks (ids) are named in ``extra``, and left alone."""
    left_out = [disk.id for disk in machine.disks if disk.id in exclude]
    if not left_out:
        return machine
    return replace(
        machine,
        disks=tuple(disk for disk in machine.disks if disk.id not in exclude),
        extra={**machine.extra, "excluded_disks": left_out},
    )


class LocalMachine:
    """``scratch``: a folder for this machine's views; ``exclude``: ids of disks that are not replicated."""

    def __init__(self, site: QemuSite, vm: str, scratch: Path, *, exclude: Collection[str] = ()) -> None:
        self._site = site
        self._vm = vm
        self._scratch = scratch
        self._exclude = frozenset(exclude)

    def describe(self) -> dict[str, Any]:
        return without_disks(self._site.machine(self._vm), self._exclude).to_json()

    def source(self) -> QemuSource:
        server = self._site.nbd_server(self._vm)
        self._scratch.mkdir(parents=True, exist_ok=True)
        return QemuSource(
            self._site.qmp_socket(self._vm),
            agent_path=str(self._site.agent_socket(self._vm)),
            scratch=self._scratch,
            scratch_limit=SCRATCH_LIMIT,
            nbd_dir=self._site.folder(self._vm) / "run",  # QEMU keeps its first address for as long as it lives
            nbd_server=server,
            exclude=self._exclude,
            hold=self._hold(),
        )

    def _hold(self) -> Callable[[Qmp], Hold]:
        """By its description: its QEMU can't be asked while a view of it is taken."""
        disks_only = description.read(self._site.folder(self._vm)).description.runner == "storage-daemon"
        return (lambda qmp: NothingRuns()) if disks_only else QemuHold

    def quiesce(self, timeout: float) -> bool:
        """Shut the guest down; where it doesn't within ``timeout`` seconds, pause it. Nothing is written after."""
        if self._site.shut_down(self._vm, timeout):
            return True
        with Qmp.connect(self._site.qmp_socket(self._vm)) as qmp:
            qmp.execute("stop")
        return False

    def power_off(self) -> None:
        self._site.power_off(self._vm)

    def is_off(self) -> bool:
        return self._site.machine(self._vm).power is Power.OFF

    def stay_off(self, reason: str) -> None:
        """It is off, and is not started by anybody."""
        self._site.fence(self._vm, reason)
        self._site.power_off(self._vm)

    def forget_tracking(self) -> None:
        """Remove our bitmaps, where the machine runs; those of a machine that is off are void at its next start."""
        try:
            with Qmp.connect(self._site.qmp_socket(self._vm)) as qmp:
                stop_tracking(qmp)
        except QmpGone:
            return


class LocalMachines:
    """Those of ``site``, which is here."""

    def __init__(self, site: QemuSite) -> None:
        self._site = site

    def machine(self, vm: str, work: Path, exclude: Collection[str] = ()) -> LocalMachine:
        """``work``: the item's folder in the cache."""
        return LocalMachine(self._site, vm, work / "scratch", exclude=exclude)


@contextmanager
def disk_views(site: QemuSite, machine: Machine) -> Iterator[list[tuple[DiskView, Extents]]]:
    """The disks of a powered-off machine, each with what may differ from any base: everything."""
    folder = site.folder(machine.name)
    site.serve_origin(machine.name)
    with ExitStack() as stack:
        views: list[tuple[DiskView, Extents]] = []
        for disk in machine.disks:
            image = stack.enter_context(open_image(folder / disk.path, disk.format))
            view = ImageView(disk.id, image, Changed(Knowledge.UNKNOWN))
            views.append((view, Extents.whole(image.size)))
        yield views
