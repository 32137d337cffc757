"""What the head of each kind of sealed object must look like (docs/store-format.md).

Only who has the key can seal one, but a writer may be newer, or wrong: what isn't as the page says is refused when it
is opened, by one rule, so that nobody who reads a field meets anything else. Fields that aren't known are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from homeport.domain.groups import is_mark
from homeport.domain.points import Consistency, PointId

Check = Callable[[Any], bool]

MOST_DISK = 1 << 50
"""Bytes: no disk is larger."""
_MOST_NUMBER = 10**16  # what a key holds
_MOST_SHARD = MOST_DISK >> 36
_MOST_SECONDS = 253402300800  # the year 10000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMELINE = re.compile(r"[0-9a-f]{16}")


def _whole(least: int, below: int) -> Check:
    return lambda value: type(value) is int and least <= value < below


def _some(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _each(*checks: Check) -> Check:
    """A list of so many fields."""
    return lambda value: (
        type(value) is list
        and len(value) == len(checks)
        and all(check(field) for check, field in zip(checks, value, strict=True))
    )


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _text(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(value: Any) -> bool:
    return _text(value) and 0 < len(value) < 256


def _like(form: re.Pattern[str]) -> Check:
    return lambda value: type(value) is str and form.fullmatch(value) is not None


def _point(value: Any) -> bool:
    try:
        PointId.parse(value)
    except (TypeError, ValueError):
        return False
    return True


def _time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _object(value: Any) -> bool:
    return type(value) is dict


_number = _whole(0, _MOST_NUMBER)
_bytes = _whole(0, 1 << 63)
_sizes = _some(_each(_name, _whole(0, MOST_DISK + 1)))
_below = {"parent": _or_none(_point), "parent_sha256": _or_none(_like(_SHA256))}
_index = {
    "disks": _sizes,
    "segments": _whole(0, 1 << 31),
    "timelines": _some(_like(_TIMELINE)),
    "index": _some(_each(_name, _whole(-1, _MOST_SHARD), _whole(0, 1 << 32))),
}
_own = {"timeline": _like(_TIMELINE), "number": _number, "epoch": _number, "instant": _time, **_below}
_built = {
    **_own,
    "consistency": lambda value: value in tuple(Consistency),
    "tags": _some(_text),
    "incarnation": _text,
    "disks": _sizes,
    "machine": _object,
    "notes": _some(_text),
    "folds": _some(_number),
    "built": _text,
}
_record = {**_built, **_index, "logical_bytes": _bytes, "stored_bytes": _bytes}
_run = {"timeline": _like(_TIMELINE), "first": _number, "last": _number, "instant": _time, "floor": _sizes} | _below
_thin = {
    **_run,
    **_index,
    "removed": _some(_each(_number, _like(_SHA256))),
    "freed": _some(_each(_number, _number)),
}
_settling = {"settles": _number, "standing": _some(_each(_number, _number, _number))}

_SHAPES: dict[str, dict[str, Check]] = {
    "point": _record,
    "end": _own,
    "part": _record,
    "thin": _thin,
    "layer": {**_run, **_index},
    "timeline": {"parent": _or_none(_point), "origin": _or_none(_point), "created": _time},
    "fold": {"token": _text},
    "lease": {"expires": lambda value: type(value) in (int, float) and 0 <= value < _MOST_SECONDS},
    "description": {"description": _object},
    "digests": {"size": _whole(0, MOST_DISK + 1), "regions": _whole(0, MOST_DISK)},
    "machine key": {"key": _like(_SHA256)},  # 32 bytes in hex, as a hash is
    "vault backup": {"backup": _name, "created": _time, "sha256": _like(_SHA256)},
    "manifest": _built,
}
_MAY: dict[str, dict[str, Check]] = {"point": {"group": is_mark}, "manifest": {"group": is_mark}}
"""Fields that need not be there."""
_KINDS = {"point": ("point", "end"), "part": ("part",), "thin": ("thin",), "layer": ("layer",)}


def wrong(kind: str, head: Any) -> str | None:
    """What isn't as it must be in the head of an object of this kind (the words between "homeport" and the version of
    its derivation; "manifest": the record's head inside one). None: nothing."""
    if type(head) is not dict:
        return "the head isn't an object"
    if kind != "manifest" and not _some(_whole(0, 1 << 48))(head.get("sections")):
        return "sections"
    if kind in _KINDS:
        if head.get("kind") not in _KINDS[kind]:
            return "kind"
        kind = head["kind"]
    shape = _SHAPES.get(kind, {})
    if kind == "fold":
        shape = {**shape, **(_settling if "settles" in head else {"range": _or_none(_each(_number, _number))})}
    for field, check in shape.items():
        if field not in head or not check(head[field]):
            return field
    for field, check in _MAY.get(kind, {}).items():
        if field in head and not check(head[field]):
            return field
    if "index" in shape and len(head["sections"]) != -(-head["segments"] // 4096) + len(head["index"]):
        return "sections"
    return None
