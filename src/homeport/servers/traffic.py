"""What an item's disks change and what of it leaves for the other site: counted where it happens, through restarts."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from homeport.domain.flow import SPANS, Flow

log = structlog.get_logger(__name__)

KEEP_EVERY = 60.0
"""Seconds between two writings of the file: what is lost of the statistics when the process is killed."""
_WHOLE = ""
"""Among the disks: the machine as a whole; no disk has this name."""


class Traffic:
    """Of one item, at one process server. ``path``: a file that it is kept in; None: it is forgotten with the process.
    ``clock``: seconds since the epoch. Safe from several threads."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = clock()
        self._changed: dict[str, Flow] = {}
        self._shipped: dict[str, Flow] = {}
        self._kept_at = 0.0
        self._take_up()

    def note_changed(self, amounts: Mapping[str, int]) -> None:
        """Bytes of each disk that a point carries."""
        self._note(self._changed, amounts)

    def note_shipped(self, amounts: Mapping[str, int]) -> None:
        """Bytes of each disk, compressed, that are in the store now."""
        self._note(self._shipped, amounts)

    def note_crossed(self, amount: int) -> None:
        """Bytes that left for the other site, with all that surrounds them."""
        self._note(self._shipped, {_WHOLE: amount})

    def _note(self, flows: dict[str, Flow], amounts: Mapping[str, int]) -> None:
        now = self._clock()
        with self._lock:
            for disk, amount in amounts.items():
                flow = flows.get(disk)
                if flow is None:
                    flow = flows[disk] = Flow(self._begun)
                flow.add(now, amount)

    def to_json(self) -> dict[str, Any]:
        """{"disks": {disk: {"changed", "shipped": after compression}}, "shipped": of the machine, as it crossed,
        "observed": seconds}; each flow as :meth:`Flow.to_json`. What no point had for a day is not told any more."""
        now = self._clock()
        nothing = Flow(now)
        with self._lock:
            self._begun = min(self._begun, now)
            for disk in [disk for disk, flow in self._changed.items() if (flow.last() or now) < now - SPANS["24h"]]:
                del self._changed[disk]
            return {
                "disks": {
                    disk: {"changed": flow.to_json(now), "shipped": self._shipped.get(disk, nothing).to_json(now)}
                    for disk, flow in sorted(self._changed.items())
                },
                "shipped": self._shipped.get(_WHOLE, nothing).to_json(now),
                "observed": round(now - self._begun),
            }

    def keep(self, *, every: float = KEEP_EVERY) -> None:
        """Write the file, unless that was done less than ``every`` seconds ago."""
        now = time.monotonic()
        with self._lock:
            if self._path is None or (self._kept_at and now - self._kept_at < every):
                return
            self._kept_at = now
            kept = {"begun": self._begun, "changed": _kept(self._changed), "shipped": _kept(self._shipped)}
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(kept))
            os.replace(fresh, self._path)  # not fsynced: after a power cut statistics may begin anew
        except OSError as error:
            log.info("statistics not kept", path=str(self._path), error=str(error))

    def _take_up(self) -> None:
        if self._path is None:
            return
        try:
            kept = json.loads(self._path.read_bytes())
            self._changed, self._shipped = _flows(kept["changed"]), _flows(kept["shipped"])
            self._begun = min(float(kept["begun"]), self._begun)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.info("statistics begin anew", path=str(self._path), error=repr(error))
            self._changed, self._shipped = {}, {}


def _kept(flows: Mapping[str, Flow]) -> dict[str, Any]:
    return {disk: flow.kept() for disk, flow in flows.items()}


def _flows(kept: Mapping[str, Any]) -> dict[str, Flow]:
    return {disk: Flow.of(flow) for disk, flow in kept.items()}
