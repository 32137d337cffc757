"""The manifest in a point's last segment: what its record says beside where the data lies (docs/store-format.md).

With it, and the directories of the point's segments, a lost record can be made again: byte by byte, as its successor's
hash proves. A reader of points never needs it.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from homeport.domain.points import PointId
from homeport.store import heads, names, sealed
from homeport.store.errors import Corrupt
from homeport.store.index import EMPTY, ZERO, Rows, join_zeros, overlay, planes, rows_of, unplanes
from homeport.store.keys import MachineKey
from homeport.store.records import Index, MemoryIndex, logical_bytes, merge, pack
from homeport.store.segment import Directory, SegmentInfo

VERSION = 1


def write(
    head: dict[str, Any],
    salt: bytes,
    segments: Sequence[tuple[int, bytes]],
    rows: dict[str, Rows],
    again: Collection[str],
    parts: Sequence[str],
) -> dict[str, Any]:
    """``head``: of the record, without what its index tells; ``salt``: the record will be sealed with; ``segments``:
    ``seq`` and random bytes of all segments of the point, this one last; ``rows``: painted; ``again``: disks of which
    blocks were written more than once, so that the frames alone don't tell which counts; ``parts``: the parts (by
    ``built``) that the index takes in."""
    zeros = {disk: join_zeros(found[found["segment"] == ZERO]) for disk, found in rows.items()}
    return {
        "version": VERSION,
        "head": head,
        "salt": salt.hex(),
        "segments": [[seq, random.hex()] for seq, random in segments],
        "zeros": {disk: _pack(found, _ZEROS) for disk, found in zeros.items() if len(found)},
        "again": {disk: _pack(found[found["segment"] != ZERO], _ROW) for disk, found in rows.items() if disk in again},
        "blocks": {disk: int(found["count"][found["segment"] != ZERO].sum()) for disk, found in rows.items()},
        "parts": list(parts),
    }


_ROW = dict.fromkeys(("first", "count", "skip", "segment", "offset", "length", "frame"), "<u8")
_ZEROS = dict.fromkeys(("first", "count"), "<u8")


def _pack(rows: Rows, kinds: dict[str, str]) -> str:
    """Columns, as directories have them, in Base64."""
    return base64.b64encode(b"".join(planes(rows[name], kind) for name, kind in kinds.items())).decode()


def _unpack(text: str, kinds: dict[str, str], **more: int) -> Rows:
    """Raises ValueError."""
    data = memoryview(base64.b64decode(text, validate=True))
    count, rest = divmod(len(data), 8 * len(kinds))
    if rest:
        raise ValueError("broken columns")
    columns: dict[str, Any] = dict(more)
    for place, (name, kind) in enumerate(kinds.items()):
        columns[name] = unplanes(data[8 * count * place :][: 8 * count], count, kind)
    rows = rows_of(columns, count)
    if count and not (int(rows["first"].min()) >= 0 and int(rows["count"].min()) > 0):
        raise ValueError("impossible rows")
    return rows


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was found. ``key``: of the segment that holds it."""

    key: str
    head: dict[str, Any]
    salt: bytes
    segments: list[tuple[int, bytes]]
    zeros: dict[str, Rows]
    again: dict[str, Rows]
    blocks: dict[str, int]
    parts: list[str]

    @property
    def point(self) -> PointId:
        return PointId(self.head["timeline"], self.head["number"])

    @property
    def parent(self) -> PointId | None:
        return PointId.parse(self.head["parent"]) if self.head["parent"] else None

    @classmethod
    def parse(cls, key: str, data: dict[str, Any]) -> Manifest:
        """Raises Corrupt."""
        try:
            if data["version"] != VERSION or heads.wrong("manifest", data["head"]):
                raise ValueError
            return cls(
                key,
                data["head"],
                bytes.fromhex(data["salt"]),
                [(int(seq), bytes.fromhex(random)) for seq, random in data["segments"]],
                {disk: _unpack(packed, _ZEROS, segment=ZERO) for disk, packed in data["zeros"].items()},
                {disk: _unpack(packed, _ROW) for disk, packed in data["again"].items()},
                {disk: int(count) for disk, count in data["blocks"].items()},
                [str(part) for part in data["parts"]],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise Corrupt(f"{key}: its manifest isn't one that this version knows", object=key) from None


def own_index(manifest: Manifest, infos: Sequence[SegmentInfo], directories: Sequence[Directory]) -> MemoryIndex:
    """The rows that the point itself brought. Raises Corrupt where its frames aren't what it brought."""
    collected: dict[str, list[Rows]] = {disk: [found] for disk, found in manifest.zeros.items()}
    for place, directory in enumerate(directories):
        for number, disk in enumerate(directory.disks):
            if disk in manifest.again:
                continue
            frames = np.flatnonzero(directory.disk == number)
            columns = {name: getattr(directory, name)[frames] for name in ("first", "count", "offset", "length")}
            collected.setdefault(disk, []).append(
                rows_of({**columns, "segment": place, "frame": frames}, len(frames)) if len(frames) else EMPTY
            )
    for disk, told in manifest.again.items():
        if len(told) and not 0 <= int(told["segment"].min()) <= int(told["segment"].max()) < len(infos):
            raise Corrupt(f"{manifest.key}: its manifest names a segment that it lacks", object=manifest.key)
        collected.setdefault(disk, []).append(told)
    rows = {}
    for disk, pieces in collected.items():
        every = np.concatenate(pieces)
        rows[disk] = overlay(every)
        data = every["segment"] != ZERO
        if int(every["count"].sum()) != int(rows[disk]["count"].sum()) or int(
            every["count"][data].sum()
        ) != manifest.blocks.get(disk, 0):
            raise Corrupt(f"{manifest.key}: the frames of {disk} aren't those of {manifest.point}", object=manifest.key)
    return MemoryIndex.of(rows, infos)


def record(
    keys: MachineKey,
    manifest: Manifest,
    own: MemoryIndex,
    parts: Sequence[Index],
    infos: Sequence[SegmentInfo],
    salt: bytes | None,
) -> bytes:
    """The point's record, sealed; with the manifest's salt it is what it was, byte by byte (or, where a compressor
    gives other bytes than it gave, something that must not be stored: compare hashes first)."""
    disks = dict(manifest.head["disks"])
    keep_zeros = manifest.parent is not None or manifest.point.number == 0
    index = merge([*((part, disks) for part in parts), (own, disks)], keep_zeros=keep_zeros)
    named = set(index.segments.names())
    fields, sections = pack(index)
    head = {
        **manifest.head,
        "logical_bytes": logical_bytes(own, disks),
        "stored_bytes": sum(info.size for info in infos if info.segment in named),
        **fields,
    }
    key = names.point(keys.machine, manifest.point)
    return sealed.seal(keys.key, keys.vault, key, sealed.POINT, head, sections, salt=salt)
