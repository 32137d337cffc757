"""Seeds: images of a machine's disks that are at the other site already, so that a first copy ships differences only.

A seed is named by disk: id → path of an image below the other site's folder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.target import DiskUnknown

_FORMATS = {".raw": "raw", ".img": "raw", "": "raw", ".qcow2": "qcow2"}


class SeedPathInvalid(HomeportError):
    code = "seed.path-invalid"
    remedy = "Give a path below the other site's folder, such as disk0=seeds/web1/disk0.raw."


class SeedDiskMissing(HomeportError):
    code = "seed.disk-missing"
    remedy = "Name an image for each disk that is replicated: --seed DISK=PATH for each."


class SeedFormat(HomeportError):
    code = "seed.format"
    remedy = "Convert it with qemu-img convert to raw (NAME.raw, NAME.img) or qcow2 (NAME.qcow2)."


def check_seed(seed: Mapping[str, str], machine: Machine, excluded: Collection[str]) -> None:
    """Whether ``seed`` can be one of ``machine``, as far as that shows without looking at the images. Raises
    DiskUnknown, :class:`SeedDiskMissing`, :class:`SeedPathInvalid`, :class:`SeedFormat`."""
    there = [disk.id for disk in machine.disks if disk.id not in excluded]
    unknown = [disk for disk in seed if disk not in there]
    if unknown:
        raise DiskUnknown(
            f"A seed is given for {', '.join(unknown)}; of {machine.name} are replicated {', '.join(there) or 'none'}.",
            disks=there,
        )
    missing = [disk for disk in there if disk not in seed]
    if missing:
        raise SeedDiskMissing(f"No seed is given for {', '.join(missing)} of {machine.name}.", disks=missing)
    for disk, path in seed.items():
        check_path(disk, path)
        format_of(path)


def check_path(disk: str, path: str) -> None:
    """Raises :class:`SeedPathInvalid` unless it stays below the folder that it counts from, apart from what the site
    keeps for itself."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\0" in path or ".." in parts or parts[0].startswith("."):
        raise SeedPathInvalid(f"{disk}: {path!r} is no path below the other site's folder.", disk=disk, path=path)


def format_of(path: str) -> str:
    """ "raw" or "qcow2", by the file's ending: never by its content, which a guest may have written. Raises
    :class:`SeedFormat`."""
    ending = PurePosixPath(path).suffix.lower()
    try:
        return _FORMATS[ending]
    except KeyError:
        raise SeedFormat(f"{path} can't be told to be raw or qcow2 by its ending {ending!r}.", path=path) from None
