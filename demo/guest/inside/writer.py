"""The writer: appends a record to the chain, again and again, at a steady rate."""

from __future__ import annotations

import os
import threading
import time
from _random import Random

from demo.guest.inside.chain import Chain
from demo.guest.inside.records import PAYLOAD, BrokenChain

_INSECURE = 4  # GRND_INSECURE of getrandom(2): doesn't wait for entropy, which a booting guest has not


class Writer:
    """Verifies the chain, then appends ``rate`` records per second until there are ``capacity`` of them.

    ``state``: "verifying", "writing", "paused", "full", or "stopped: why"; ``verdict``: "verifying", "unbroken" or
    "broken at N: why"; ``errors``: I/O errors seen by the writer. It never appends to a broken chain.
    """

    def __init__(self, chain: Chain, rate: float, capacity: int) -> None:
        self.chain = chain
        self.state = "verifying"
        self.verdict = "verifying"
        self.errors = 0
        self.at_start: dict[str, object] | None = None
        self._period = 1 / rate
        self._capacity = capacity
        self._go = threading.Event()
        self._go.set()
        self._idle = threading.Event()
        self._random = Random(int.from_bytes(os.getrandom(16, _INSECURE), "little"))

    def run(self) -> None:
        """The writer's thread: ends when the chain is broken or full, or when a disk fails."""
        try:
            self._verify_at_start()
            self._append()
        except BrokenChain as broken:
            self.verdict = str(broken)
            self.state = "stopped: the chain is broken"
        except OSError as error:
            self.errors += 1
            self.state = f"stopped: {error}"
        self._idle.set()

    def verify(self) -> str:
        """Verify the whole chain now, while it is being written; the verdict."""
        try:
            self.chain.verify()
        except BrokenChain as broken:
            self.verdict = str(broken)
        except OSError as error:
            self.errors += 1
            self.verdict = f"unreadable: {error}"
        return self.verdict

    def pause(self) -> None:
        """Returns when no record is being written any more."""
        self._go.clear()
        self._idle.wait()

    def resume(self) -> None:
        self._go.set()

    def _verify_at_start(self) -> None:
        begun = time.monotonic()
        self.chain.find_end()
        records = self.chain.verify()
        self.verdict = "unbroken"
        last = self.chain.last
        self.at_start = {
            "records": records,
            "last": None if last is None else last.number,
            "torn": self.chain.torn,
            "seconds": round(time.monotonic() - begun, 3),
        }

    def _append(self) -> None:
        due = time.monotonic()
        while self.chain.last is None or self.chain.last.number + 1 < self._capacity:
            if not self._go.is_set():
                self.state = "paused"
                self._idle.set()
                self._go.wait()
                self._idle.clear()
                due = time.monotonic()
            self.state = "writing"
            payload = self._random.getrandbits(8 * PAYLOAD).to_bytes(PAYLOAD, "little")
            self.chain.append(time.time_ns(), payload)
            # No burst after a wait: a frozen or slow disk just makes the records fewer.
            due = max(due + self._period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        self.state = "full"
