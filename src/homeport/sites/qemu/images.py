"""What an image's own header says, read without any tool."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

FORMATS = ("raw", "qcow2")

_MAGIC = b"QFI\xfb"
_CORRUPT = 1 << 1
_EXTERNAL_DATA = 1 << 2


class UnusableImage(Exception):
    """Why an image can't be used, for a machine's list of obstacles."""


@dataclass(frozen=True)
class Image:
    """``size``: what the guest sees, bytes. ``backed``: the header names a backing file."""

    size: int
    backed: bool = False


def inspect(path: Path, form: str) -> Image:
    """The image's virtual size. Raises :class:`UnusableImage`.

    Format of a qcow2 header: docs/interop/qcow2.txt in QEMU's sources.
    """
    if form not in FORMATS:
        raise UnusableImage(f"format {form!r} is not supported ({' or '.join(FORMATS)})")
    try:
        with path.open("rb") as file:
            if form == "raw":
                return Image(file.seek(0, os.SEEK_END))
            header = file.read(104)
    except OSError as error:
        raise UnusableImage(f"{path}: {error.strerror}") from error
    if len(header) < 72 or header[:4] != _MAGIC:
        raise UnusableImage(f"{path} is not a qcow2 image")
    version, backing, _, _, size, encrypted = struct.unpack_from(">IQIIQI", header, 4)
    if version not in (2, 3):
        raise UnusableImage(f"{path}: qcow2 version {version} is not supported")
    if encrypted:
        raise UnusableImage(f"{path}: encrypted qcow2 is not supported")
    features = struct.unpack_from(">Q", header, 72)[0] if version == 3 and len(header) >= 80 else 0
    if features & _CORRUPT:
        raise UnusableImage(f"{path} is marked corrupt: run `qemu-img check -r all` on it")
    if features & _EXTERNAL_DATA:
        raise UnusableImage(f"{path}: qcow2 with an external data file is not supported")
    return Image(size, backed=backing != 0)


def direct_io(path: Path) -> bool:
    """Whether the file system lets this image be opened past the page cache."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(descriptor)
    return True
