"""The guest's two disks: a raw one with MBR, boot loader and root file system, and a qcow2 one with a file system."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from pathlib import Path

from demo.guest.commands import GuestBuildError, run

PARTITION = 1 << 20
"""Where the system disk's one partition begins, bytes."""

_SECTOR = 512
_MBR = (Path("/usr/lib/EXTLINUX/mbr.bin"), Path("/usr/lib/syslinux/mbr/mbr.bin"))
# Blocks of 4 KiB, whatever the size: the records are found by a scan for them. A small journal and few inodes keep a
# large disk's file system small; everything is initialised now, so that the guest doesn't do it in the background.
_FILE_SYSTEM = ("-q", "-F", "-b", "4096", "-N", "8192", "-m", "0", "-J", "size=8")
_READY = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"


def system_disk(path: Path, root: Path, size: int) -> None:
    """Makes ``path``: ``size`` bytes with the files of ``root``, bootable by a BIOS. Needs root for a loop device and
    a mount, because extlinux notes where its second stage lies in the mounted file system. Raises GuestBuildError."""
    with path.open("wb") as file:
        file.truncate(size)
        file.write(_master_boot_record(size))
    # Without 64bit: extlinux can't read such a file system.
    features = ("-O", "^64bit,^metadata_csum", "-L", "demo-system", "-E", f"offset={PARTITION},{_READY}")
    run(["mkfs.ext4", *_FILE_SYSTEM, *features, "-d", root, path, f"{(size - PARTITION) // 1024}k"])
    _install_boot_loader(path)


def data_disk(path: Path, root: Path, size: int, scratch: Path) -> None:
    """Makes ``path``: a qcow2 of ``size`` bytes whose file system, without partitions, holds the files of ``root``."""
    raw = scratch / "data.raw"
    with raw.open("wb") as file:
        file.truncate(size)
    run(["mkfs.ext4", *_FILE_SYSTEM, "-L", "demo-data", "-E", _READY, "-d", root, raw])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path])
    raw.unlink()


def _master_boot_record(size: int) -> bytes:
    code = next((path for path in _MBR if path.exists()), None)
    if code is None:
        raise GuestBuildError(f"{_MBR[0]} is missing: install the package extlinux")
    start = PARTITION // _SECTOR
    # Active, Linux (0x83), no cylinders: sectors only.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start, size // _SECTOR - start)
    head = code.read_bytes()[:440].ljust(440, b"\0")
    return head + b"HPDM\0\0" + entry + bytes(48) + b"\x55\xaa"


def _install_boot_loader(disk: Path) -> None:
    with ExitStack() as undo:
        loop = run(["losetup", "--find", "--show", "--offset", str(PARTITION), disk], as_root=True).strip()
        undo.callback(run, ["losetup", "--detach", loop], as_root=True)
        mounted = disk.parent / "mounted"
        mounted.mkdir()
        undo.callback(mounted.rmdir)
        run(["mount", "-t", "ext4", loop, mounted], as_root=True)
        undo.callback(run, ["umount", mounted], as_root=True)
        run(["extlinux", "--install", mounted / "boot/extlinux"], as_root=True)
