"""Scratch space for a point-in-time view: what is overwritten while the view is open is saved there first.

A scratch image is an empty qcow2 inside a raw node of fixed size: QEMU itself can't write more than that, also when
Homeport has died. When it is full, or the file system below it, the view breaks; production goes on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homeport.domain.units import KiB

CLUSTER = 64 * KiB
_SUFFIX = ".scratch.qcow2"

# QEMU's docs/interop/qcow2.txt: header of version 3.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_LAZY_REFCOUNTS = 1
_REFCOUNT_BITS = 16
_L2_ENTRIES = CLUSTER // 8
_REFCOUNTS = CLUSTER * 8 // _REFCOUNT_BITS


def needed(size: int) -> int:
    """Bytes of an image that holds every byte of a disk of ``size`` bytes, with its tables."""
    data = -(-size // CLUSTER)
    tables = -(-data // _L2_ENTRIES)
    level1 = -(-tables * 8 // CLUSTER)
    counted = data + tables + level1 + 16
    return (counted + 2 * -(-counted // _REFCOUNTS)) * CLUSTER


def shares(limit: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide ``limit`` bytes among disks of ``sizes`` bytes: evenly, but to none more than it can ever use."""
    left, result = limit, {}
    by_need = sorted(sizes, key=lambda disk: needed(sizes[disk]))
    for index, disk in enumerate(by_need):
        share = min(needed(sizes[disk]), left // (len(by_need) - index))
        result[disk] = max(share // CLUSTER * CLUSTER, _empty_clusters(sizes[disk]) * CLUSTER)
        left -= share
    return result


def _level1_entries(size: int) -> int:
    return max(-(-size // (CLUSTER * _L2_ENTRIES)), 1)


def _empty_clusters(size: int) -> int:
    """Header, refcount table, one refcount block, level 1 table."""
    return 3 + -(-_level1_entries(size) * 8 // CLUSTER)


def scratch_path(folder: Path, disk: str) -> Path:
    return folder / (disk + _SUFFIX)


def create(folder: Path, disk: str, size: int, share: int) -> Path:
    """An empty sparse scratch image for a disk of ``size`` bytes which may grow to ``share`` bytes. Raises OSError."""
    clusters = _empty_clusters(size)
    level1 = 3 * CLUSTER
    header = _HEADER.pack(
        b"QFI\xfb", 3, 0, 0, 16, size, 0, _level1_entries(size), level1, CLUSTER, 1, 0, 0, 0, _LAZY_REFCOUNTS, 0, 4, 104
    )  # fmt: skip
    path = scratch_path(folder, disk)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(header)
        file.seek(CLUSTER)
        file.write(struct.pack(">Q", 2 * CLUSTER))
        file.seek(2 * CLUSTER)
        file.write(struct.pack(">H", 1) * clusters)
        file.truncate(share)
    return path


def node_options(node: str, path: Path, share: int) -> dict[str, Any]:
    """``blockdev-add`` options. Never flushed: after a crash it is worth nothing anyway."""
    careless = {"no-flush": True}
    return {
        "driver": "qcow2",
        "node-name": node,
        "cache": careless,
        "file": {
            "driver": "raw",
            "offset": 0,
            "size": share,
            "cache": careless,
            "file": {"driver": "file", "filename": str(path), "cache": careless, "locking": "off"},
        },
    }


def sweep(folder: Path) -> None:
    """Delete all scratch images in ``folder``; no node may use them any more."""
    for path in folder.glob("*" + _SUFFIX):
        path.unlink(missing_ok=True)
