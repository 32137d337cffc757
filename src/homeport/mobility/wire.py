"""What a mobility service and its process server say to each other. The mobility service dials; it asks for calls by
long poll, answers them, and brings frames.

    POST /source/poll             {"session", "machines": {vm: fence}, "have": [id]}
                                  → {"calls", "open": [source], "wanted": [id of "have" that is waited for]}
    POST /source/answer           {"id", "result"} or {"id", "error"}
    POST /source/frames/STREAM    frames (frames.py); 410: nobody wants them any more
    POST /source/cut/ID           a step of an instant that is shared with other machines → {"do", "instant"}
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.points import Consistency, PointId
from homeport.sources.errors import SourceError, SourceGone, ViewBroken
from homeport.sources.interface import Changed, Knowledge, PointView
from homeport.store.compression import compress, decompress

Json = dict[str, Any]

PREFIX = "/source/"
POLL, ANSWER, FRAMES, CUT = PREFIX + "poll", PREFIX + "answer", PREFIX + "frames/", PREFIX + "cut/"

POLL_SECONDS = 10.0
LEASE = 60.0
"""Seconds after which a mobility service drops the views of a process server that it has not heard of."""
CALL_MOST = 3 * POLL_SECONDS
"""Seconds since a call was last known to be waited for, after which it is not begun any more (uplink.py)."""
ANSWER_MOST = 1 << 30
"""Bytes of an answer at most: a disk's extents, packed."""


class ServiceAway(SourceError):
    code = "source.service-away"
    remedy = (
        "Start the mobility service at the host of the machine, or mend the network from it to this process server; "
        "what changes meanwhile stays tracked there."
    )


class CallStale(SourceError):
    code = "source.superseded"
    remedy = "Another process server has this machine now; look at `homeport status ITEM`."


@dataclass(frozen=True)
class Call:
    """``fence``: the number under which the mobility service was told whose machine it is; ``source``: which session of
    replication asks."""

    id: str
    vm: str
    fence: int
    name: str
    args: Json
    source: str = ""

    def to_json(self) -> Json:
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: Json) -> Call:
        return cls(**data)


def extents_to_text(extents: Extents) -> str:
    runs = np.stack((extents.starts, extents.ends), axis=1) if extents else np.empty((0, 2), np.int64)
    return base64.b85encode(compress(np.ascontiguousarray(runs, "<i8").tobytes())).decode()


def extents_of_text(text: str) -> Extents:
    """Raises SourceError where that is none."""
    try:
        runs = np.frombuffer(decompress(base64.b85decode(text), ANSWER_MOST), "<i8").reshape(-1, 2)
    except Exception as error:
        raise SourceError(f"these are no extents: {error}") from error
    return Extents.of_runs(runs[:, 0].astype(np.int64), runs[:, 1].astype(np.int64))


@dataclass(frozen=True)
class RemoteDisk:
    id: str
    size: int
    changed: Changed


@dataclass(frozen=True)
class RemotePoint:
    """A :class:`PointView` as it crosses; ``view``: its name for reads."""

    view: str
    point: PointId
    base: PointId | None
    consistency: Consistency
    instant: datetime
    incarnation: str
    disks: tuple[RemoteDisk, ...]
    notes: tuple[str, ...]


def view_to_json(name: str, view: PointView) -> Json:
    return {
        "view": name,
        "point": str(view.point),
        "base": str(view.base) if view.base else None,
        "consistency": str(view.consistency),
        "instant": view.instant.isoformat(),
        "incarnation": view.incarnation,
        "notes": list(view.notes),
        "disks": [
            {
                "id": disk.id,
                "size": disk.size,
                "knowledge": str(disk.changed.knowledge),
                "extents": extents_to_text(disk.changed.extents),
            }
            for disk in view.disks
        ],
    }


def view_of_json(data: Json) -> RemotePoint:
    return RemotePoint(
        data["view"],
        PointId.parse(data["point"]),
        PointId.parse(data["base"]) if data["base"] else None,
        Consistency(data["consistency"]),
        datetime.fromisoformat(data["instant"]),
        data["incarnation"],
        tuple(
            RemoteDisk(
                disk["id"],
                int(disk["size"]),
                Changed(Knowledge(disk["knowledge"]), extents_of_text(disk["extents"])),
            )
            for disk in data["disks"]
        ),
        tuple(data["notes"]),
    )


_KINDS: dict[str, type[SourceError]] = {kind.code: kind for kind in (SourceGone, ViewBroken, ServiceAway, CallStale)}


def error_of_json(data: Json) -> HomeportError:
    """As it was raised at the other end. What is not known here is an error all the same."""
    if not data["code"].startswith("source."):
        return HomeportError.from_json(data)
    kind = _KINDS.get(data["code"], SourceError)
    return kind(data["cause"], code=data["code"], remedy=data.get("remedy", ""), **data.get("details", {}))
