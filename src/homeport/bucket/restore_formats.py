"""The formats that a disk can be restored to."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from homeport.bucket.restore_work import Advance, Target
from homeport.disks import vhd
from homeport.domain.errors import HomeportError
from homeport.store.reader import PointReader


class FormatUnavailable(HomeportError):
    """The format is unknown, can't hold the disk, or needs a tool that isn't here."""

    code = "store.format-unavailable"
    remedy = "Choose another --format: raw, vhd, vmdk and vmdk-stream need no tool."


class Stream(Protocol):
    def __call__(self, reader: PointReader, disk: str, path: Path, name: str, advance: Advance) -> None: ...


@dataclass(frozen=True)
class Format:
    """``resumable``: the disk's bytes lie in the file as they are, with ``tail(size)`` behind them; otherwise ``make``
    (path, size, name to be) opens a new image that is written at any place, or ``stream`` writes it in one go."""

    name: str
    suffix: str
    resumable: bool = False
    tail: Callable[[int], bytes] | None = None
    make: Callable[[Path, int, str], AbstractContextManager[Target]] | None = None
    stream: Stream | None = None


@contextlib.contextmanager
def _qcow2(path: Path, size: int, name: str) -> Iterator[Target]:
    from homeport.disks.qcow2 import Qcow2Image

    tool = shutil.which("qemu-img")
    if tool is None or shutil.which("qemu-nbd") is None:
        raise FormatUnavailable("qcow2 images are written by qemu-img and qemu-nbd, which aren't installed")
    made = subprocess.run(
        [tool, "create", "-q", "-f", "qcow2", str(path.absolute()), str(-(-size // 512) * 512)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise FormatUnavailable(f"qemu-img can't make {path}: {made.stderr.strip()}")
    with Qcow2Image(path, writable=True) as image:
        yield image


@contextlib.contextmanager
def _vmdk(path: Path, size: int, name: str) -> Iterator[Target]:
    from homeport.disks.vmdk import SparseVmdk

    with SparseVmdk(path, size, name) as image:
        yield image


def _vmdk_stream(reader: PointReader, disk: str, path: Path, name: str, advance: Advance) -> None:
    from homeport.disks.vmdk_stream import write_stream

    write_stream(
        path,
        reader.disks[disk],
        name,
        reader.extents(disk),
        lambda offset, buffer: reader.read_into(disk, offset, buffer),
        advance,
    )


RAW = Format("raw", ".raw", resumable=True)
FORMATS = {
    kind.name: kind
    for kind in (
        RAW,
        Format("qcow2", ".qcow2", make=_qcow2),
        Format("vhd", ".vhd", resumable=True, tail=vhd.footer),
        Format("vmdk", ".vmdk", make=_vmdk),
        Format("vmdk-stream", ".vmdk", stream=_vmdk_stream),
    )
}
_BY_SUFFIX = {".qcow2": "qcow2", ".vhd": "vhd", ".vmdk": "vmdk"}


def by_name(name: str, target: Path) -> Format:
    """The format of that name; "": what the target's name ends in, else raw. Raises FormatUnavailable."""
    wanted = name or _BY_SUFFIX.get(target.suffix.lower(), "raw")
    if wanted not in FORMATS:
        raise FormatUnavailable(f"there is no format {wanted!r}; there are {', '.join(FORMATS)}")
    return FORMATS[wanted]
