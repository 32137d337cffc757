"""The journal of a restore that may be interrupted: which ranges of the target are whole and on stable storage.

Lines of text, each the CRC32 of the rest in hex, a space, JSON. The first names what is restored and into which file;
the others are ``{"done": [[offset, length], …]}`` in bytes, written when the target's own data was flushed. What can't
be read, and all after it, doesn't count: a torn last line is what a crash leaves.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

from homeport.domain.extents import Extents
from homeport.store.local import fsync_path

VERSION = 1


class Journal:
    """Of one target; not thread-safe. ``done``: what needn't be done again. Raises OSError."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """``facts``: what is restored where. A journal of anything else is begun anew."""
        self.path = path
        head = {"homeport": "restore journal", "version": VERSION, **facts}
        found = _lines(path)
        self.done = Extents()
        if found and found[0] == head:
            self.done = Extents.of([pair for line in found[1:] for pair in line["done"]])
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            file.write(_line(head) + (_line({"done": self.done.to_json()}) if self.done else b""))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        fsync_path(path.absolute().parent)
        self._file = path.open("ab")

    def add(self, done: Extents) -> None:
        """``done`` is on stable storage now."""
        self._file.write(_line({"done": done.to_json()}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """All is done."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(data: dict[str, Any]) -> bytes:
    text = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    result: list[dict[str, Any]] = []
    for line in data.split(b"\n")[:-1]:
        check, _, text = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(text):
            break
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(told, dict) or (result and not _ranges(told.get("done"))):
            break
        result.append(told)
    return result


def _ranges(found: Any) -> bool:
    """Pairs of offset and length."""
    return isinstance(found, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(number) is int and 0 <= number < 1 << 62 for number in pair)
        for pair in found
    )
