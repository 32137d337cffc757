"""The block graph of a machine's disks, the same in QEMU and in qemu-storage-daemon.

    guest device ``disk0-dev``  (or an NBD export)
      └─ ``disk0``          raw: a filter that is always there; views are switched in below it
           └─ ``disk0-format``   raw or qcow2: the disk; it carries the dirty bitmaps
                └─ ``disk0-file``     file, nbd, …: the protocol

While a point-in-time view is open, ``disk0-cbw`` (copy-before-write, which saves what is about to be overwritten into
``disk0-scratch``) lies between ``disk0`` and ``disk0-format``, and ``disk0-view`` (snapshot-access) reads through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeport.qemu.errors import FilterMissing
from homeport.qemu.qmp import Qmp

Nodes = dict[str, dict[str, Any]]

_DISK = re.compile(r"^disk(\d+)$")
_FORMAT = re.compile(r"^(disk\d+)-format$")


@dataclass(frozen=True)
class DiskNode:
    """A disk of a running machine. ``id``: "disk0", …, also the filter node's name; ``size`` in bytes; ``format``: the
    format node's driver, raw or qcow2."""

    id: str
    size: int
    format: str

    @property
    def format_node(self) -> str:
        return format_node(self.id)

    @property
    def device(self) -> str:
        return f"{self.id}-dev"

    @property
    def cbw_node(self) -> str:
        return f"{self.id}-cbw"

    @property
    def scratch_node(self) -> str:
        return f"{self.id}-scratch"

    @property
    def view_node(self) -> str:
        return f"{self.id}-view"


def format_node(disk: str) -> str:
    return f"{disk}-format"


def filter_options(disk: str, child: str | None = None) -> dict[str, Any]:
    """``blockdev-add`` options of the filter over ``disk``; ``child``: the node below it, the format node by default.

    Whoever launches a machine uses these too, so that reopening the filter changes nothing but its child.
    """
    return {"driver": "raw", "node-name": disk, "file": child or format_node(disk), "discard": "unmap"}


def nodes(qmp: Qmp, flat: bool = True) -> Nodes:
    """All named nodes by name; ``flat``: without the details of what lies below each (stays small)."""
    listed = qmp.execute("query-named-block-nodes", {"flat": flat})
    return {node["node-name"]: node for node in listed if "node-name" in node}


def disks(qmp: Qmp, known: Nodes | None = None) -> list[DiskNode]:
    """The machine's disks in its order. ``known``: what :func:`nodes` told just now.

    Raises :class:`FilterMissing` where a disk has no filter node, or no disk is named as this module says.
    """
    known = nodes(qmp) if known is None else known
    found = sorted((int(match[1]), name) for name in known if (match := _DISK.match(name)))
    bare = sorted(match[1] for name in known if (match := _FORMAT.match(name)) and match[1] not in known)
    if bare:
        raise FilterMissing(f"no filter node over {', '.join(bare)}", disks=bare)
    if not found:
        raise FilterMissing(f"none of the {len(known)} block nodes is called disk0", nodes=sorted(known)[:32])
    result = []
    for _, name in found:
        below = known.get(format_node(name))
        if below is None or known[name]["drv"] != "raw":
            raise FilterMissing(f"{name} is not a raw filter node over {format_node(name)}", disks=[name])
        result.append(DiskNode(name, int(below["image"]["virtual-size"]), str(below["drv"])))
    return result


def switch(qmp: Qmp, known: Nodes, children: Mapping[str, str]) -> None:
    """Put another node below several filters at one instant: ``children`` maps disk ids to names of nodes.

    One drain covers all disks, so that no write falls between two of them. All are switched, or none.
    """
    options = []
    for disk, child in children.items():
        # What is not said at a reopen goes back to its default.
        cache = known[disk]["cache"]
        kept = {"direct": cache["direct"], "no-flush": cache["no-flush"]}
        options.append(
            {
                **filter_options(disk, child),
                "cache": kept,
                "read-only": known[disk]["ro"],
                "detect-zeroes": known[disk]["detect_zeroes"],
            }
        )
    qmp.execute("blockdev-reopen", {"options": options})


def delete_nodes(qmp: Qmp, known: Iterable[str], names: Iterable[str]) -> None:
    """Delete those of ``names`` that exist, in the given order."""
    there = set(known)
    for name in names:
        if name in there:
            qmp.execute("blockdev-del", {"node-name": name})
