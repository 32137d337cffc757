"""The guest's initramfs: busybox, the drivers of its own disk, and a script that goes over to the root file system.

An archive in the "newc" format of cpio, see the kernel's documentation, driver-api/early-userspace/buffer-format.
"""

from __future__ import annotations

import stat
from pathlib import Path

_FOLDER = stat.S_IFDIR | 0o755
_PROGRAM = stat.S_IFREG | 0o755
_LINK = stat.S_IFLNK | 0o777
_TOOLS = ("sh", "mount", "insmod", "usleep", "switch_root", "[")


def initramfs(busybox: Path, modules: list[Path], init: str) -> bytes:
    """The archive; ``modules`` are loaded in this order."""
    archive = bytearray()
    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        *((folder, _FOLDER, b"", (0, 0)) for folder in ("bin", "dev", "modules", "root")),
        ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
        ("bin/busybox", _PROGRAM, busybox.read_bytes(), (0, 0)),
        *((f"bin/{tool}", _LINK, b"busybox", (0, 0)) for tool in _TOOLS),
        *(
            (f"modules/{order:02}-{module.name}", _PROGRAM, module.read_bytes(), (0, 0))
            for order, module in enumerate(modules)
        ),
        ("init", _PROGRAM, init.encode(), (0, 0)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    ]
    for number, (name, mode, data, device) in enumerate(entries, start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        archive += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + path
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
