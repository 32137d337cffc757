"""NBD exports of a machine's disks by the NBD server inside its QEMU, under names that tell whose they are."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import time
from pathlib import Path

from homeport.disks.unixpath import LONGEST
from homeport.domain.points import PointId
from homeport.qemu.graph import DiskNode
from homeport.qemu.qmp import Qmp, QmpError
from homeport.sources.errors import SourceError

_VIEW = re.compile(r"^hp\.view\.([0-9a-f]{16})\.(\d+)\.(disk\d+)$")
_LIVE = "hp.live."
_WRITTEN = "hp.written."
_GONE_WITHIN = 30.0


def nbd_address(folder: Path, qmp_path: Path) -> Path:
    """The socket of the NBD server in the QEMU at ``qmp_path``: one name per machine, found again after a restart.

    Where ``folder`` is too long for QEMU to bind a socket in it, a private folder of this user's below the system's one
    for temporary files is used instead. Raises SourceError where that one belongs to somebody else.
    """
    mark = hashlib.blake2s(os.fsencode(os.path.abspath(qmp_path)), digest_size=6).hexdigest()
    address = folder / f"hp-{mark}.nbd"
    if len(os.fsencode(address)) <= LONGEST:
        return address
    private = Path(tempfile.gettempdir()) / f"homeport-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SourceError(
            f"{private} is not a private folder of this user",
            code="source.nbd-folder",
            remedy=f"Remove it, or choose a shorter path than {folder} for Homeport's state.",
        )
    return private / address.name


def start_server(qmp: Qmp, address: Path) -> None:
    """See that the NBD server runs; a QEMU has one at most."""
    address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(address)}}})
    except QmpError as error:
        if "already running" not in error.desc:
            raise


def export_view(qmp: Qmp, disk: DiskNode, point: PointId, bitmap: str | None) -> str:
    """Export ``disk``'s view of ``point``, read-only; the export's name."""
    name = f"hp.view.{point.timeline}.{point.number}.{disk.id}"
    shown = [{"node": disk.format_node, "name": bitmap}] if bitmap else []
    _add(qmp, name, disk.view_node, shown)
    return name


def export_live(qmp: Qmp, disk: DiskNode) -> str:
    """Export ``disk`` as it is, read-only; the export's name."""
    name = _LIVE + disk.id
    _add(qmp, name, disk.id, [])
    return name


def export_bitmap(qmp: Qmp, disk: DiskNode, bitmap: str) -> str:
    """Export ``disk`` for the sake of its (not recording) ``bitmap``; the export's name."""
    name = _WRITTEN + disk.id
    _add(qmp, name, disk.format_node, [{"node": disk.format_node, "name": bitmap}])
    return name


def _add(qmp: Qmp, name: str, node: str, bitmaps: list[dict[str, str]]) -> None:
    # An export's id is its name, so that one query tells what there is.
    options = {"type": "nbd", "id": name, "name": name, "node-name": node, "writable": False, "bitmaps": bitmaps}
    qmp.execute("block-export-add", options)


def views(qmp: Qmp) -> dict[str, PointId]:
    """The exports of views: name → the view's point."""
    return {name: PointId(match[1], int(match[2])) for name in _ids(qmp) if (match := _VIEW.match(name))}


def remove_views(qmp: Qmp) -> None:
    _remove(qmp, [name for name in _ids(qmp) if _VIEW.match(name)])


def remove_bitmaps(qmp: Qmp) -> None:
    _remove(qmp, [name for name in _ids(qmp) if name.startswith(_WRITTEN)])


def remove_live(qmp: Qmp) -> None:
    _remove(qmp, [name for name in _ids(qmp) if name.startswith(_LIVE)])


def _ids(qmp: Qmp) -> list[str]:
    return [export["id"] for export in qmp.execute("query-block-exports")]


def _remove(qmp: Qmp, names: list[str]) -> None:
    """End ``names``, readers or not, and return when they are gone: QEMU does it in the background."""
    ending = {export["id"] for export in qmp.execute("query-block-exports") if export["shutting-down"]}
    for name in names:
        if name not in ending:
            qmp.execute("block-export-del", {"id": name, "mode": "hard"})
    deadline = time.monotonic() + _GONE_WITHIN
    while left := set(names) & set(_ids(qmp)):
        if time.monotonic() > deadline:
            raise SourceError(f"QEMU does not end its exports {', '.join(sorted(left))}")
        # The event only shortens the wait: it may have come before this connection did.
        qmp.wait_event("BLOCK_EXPORT_DELETED", 0.05)
