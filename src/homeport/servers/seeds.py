"""Seeds at the site that a machine is to be recovered at: images that were carried there become the hidden beginning of
its timeline, so that its first copy ships what differs from them. A local read: nothing crosses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from homeport.disks.images import Image, open_image
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.machines import Machine
from homeport.domain.seed import SeedFormat, SeedPathInvalid, check_path, format_of
from homeport.servers.imports import Progress, import_base
from homeport.sources.interface import Changed, DiskView, Knowledge
from homeport.sources.scan import ImageView
from homeport.store.keys import MachineKey
from homeport.store.timeline import MachineStore

SEEDED = "seed"
"""The tag of the point that a seed becomes: it is no instant of the machine, and is never offered."""

_QCOW2 = b"QFI\xfb"


class SeedNotFound(HomeportError):
    code = "seed.not-found"
    remedy = "Put the image there, or name the one that is: the path counts from the site's folder."


class SeedWrongSize(HomeportError):
    code = "seed.wrong-size"
    remedy = "Take an image of this very disk, or make it as large: truncate -s BYTES (raw), qemu-img resize (qcow2)."


@contextmanager
def seed_images(root: Path, seed: Mapping[str, str], disks: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Image]]:
    """The images of ``seed`` (disk id → path below ``root``), open while the body runs. ``disks``: {"id", "size"} of
    the machine's. Raises SeedPathInvalid, SeedFormat, :class:`SeedNotFound`, :class:`SeedWrongSize`, DiskInUse,
    DiskError."""
    sizes = {disk["id"]: int(disk["size"]) for disk in disks}
    with ExitStack() as stack:
        opened: dict[str, Image] = {}
        for disk, path in seed.items():
            image = stack.enter_context(_open(root, disk, path))
            if image.size != sizes[disk]:
                raise SeedWrongSize(
                    f"{path} has {image.size} bytes; {disk} has {sizes[disk]}.",
                    disk=disk,
                    path=path,
                    found=image.size,
                    expected=sizes[disk],
                )
            opened[disk] = image
        yield opened


def _open(root: Path, disk: str, path: str) -> Image:
    check_path(disk, path)
    place = root / path
    try:
        real = place.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SeedNotFound(f"There is no {path} in the folder of the site.", disk=disk, path=path) from error
    below = real.relative_to(root.resolve()) if real.is_relative_to(root.resolve()) else None
    if below is None or (below.parts[:1] and below.parts[0].startswith(".")):
        raise SeedPathInvalid(f"{disk}: {path} leads out of the site's folder.", disk=disk, path=path)
    if not real.is_file():
        raise SeedNotFound(f"{path} in the folder of the site is no file.", disk=disk, path=path)
    found = format_of(path)
    if found == "raw":
        with real.open("rb", buffering=0) as file:
            if file.read(len(_QCOW2)) == _QCOW2:
                raise SeedFormat(
                    f"{path} begins as a qcow2 image does, and its ending says raw.",
                    remedy="Name it NAME.qcow2 if that is what it is; else give an image of qcow2 made of it.",
                    path=path,
                )
    return open_image(real, found)


def imported(store: MachineStore, timeline: str) -> tuple[str, int] | None:
    """What :func:`import_seed` returned, if it was done: the images may be gone since."""
    if timeline not in store.timeline_ids():
        return None
    for info in store.points(timeline, hidden=True):
        if info.id.number == 0:
            store.hide(timeline, 0)  # it may be an earlier release's
            return str(info.id), info.logical_bytes
    return None


def import_seed(
    store: MachineStore,
    keys: MachineKey,
    timeline: str,
    machine: Machine,
    images: Mapping[str, Image],
    spool: Path,
    owner: str,
    progress: Progress,
) -> tuple[str, int]:
    """Publish point 0 of ``timeline`` from ``images``, hidden from the first moment on. The point's id, and the bytes
    that aren't zero. Idempotent: a point 0 that is there stays, whatever the images are now; every beginning is as good
    as another."""
    views: list[tuple[DiskView, Extents]] = [
        (ImageView(disk, image, Changed(Knowledge.UNKNOWN)), Extents.whole(image.size))
        for disk, image in images.items()
    ]
    store.create_timeline(timeline)
    store.hide(timeline, 0)  # before it is there: whoever reads the bucket after a kill must not be offered it
    info, taken = import_base(
        store, keys, timeline, None, None, machine, views, spool, owner, progress, tag=SEEDED
    )  # fmt: skip
    return str(info.id), taken
