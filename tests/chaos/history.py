"""What happened, in order: everything that operators, sites and the trouble-maker did, told by one clock."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos.evidence import Accepted, Effect

Json = dict[str, Any]


class History:
    """Safe from any thread. ``events``: {"n", "at" (seconds since the beginning), "what", …}."""

    def __init__(self, path: Path) -> None:
        """``path``: where each event is written as it happens, one JSON object a line."""
        self.path = path
        self.events: list[Json] = []
        self._out = path.open("w")
        self.effects: list[Effect] = []
        self.accepted: list[Accepted] = []
        self.violations: list[str] = []
        """What was seen to be wrong at once, by whoever saw it."""
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def note(self, what: str, **values: Any) -> int:
        with self._lock:
            number = len(self.events)
            event = {"n": number, "at": round(time.monotonic() - self._begun, 2), "what": what, **values}
            self.events.append(event)
            self._out.write(json.dumps(event, default=str) + "\n")
            self._out.flush()
            return number

    def violation(self, text: str, **values: Any) -> None:
        number = self.note("violation", text=text, **values)
        with self._lock:
            self.violations.append(f"{text} (event {number})")

    def effect(self, site: str, vm: str, change: str, work: Json | None) -> None:
        """``work``: that it was done for; None where an operator did it by hand."""
        params = work["params"] if work else {}
        number = self.note(
            "effect", site=site, vm=vm, change=change, work=work and work["id"], kind=work and work["kind"],
            fence=params.get("fence"),
        )  # fmt: skip
        effect = Effect(number, site, vm, change, params.get("item"), work and work["id"], params.get("fence"))
        with self._lock:
            self.effects.append(effect)

    def accept(self, request: str, job: str, vm: str) -> None:
        with self._lock:
            self.accepted.append(Accepted(request, job, vm))

    def count(self, what: str) -> int:
        with self._lock:
            return sum(event["what"] == what for event in self.events)

    def close(self) -> None:
        self._out.close()
