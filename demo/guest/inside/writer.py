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

    ``state``: "verifying", "writing", "paused", "full", or "stopped: why"; ``verdict``: "verifying", "unbroken",
    "broken at N: why" or "unreadable: why"; ``errors``: I/O errors seen by the writer. It never
    appends to a broken chain.
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
        self._appending = threading.Lock()
        self._started = threading.Event()
        self._random = Random(int.from_bytes(os.getrandom(16, _INSECURE), "little"))

    def run(self) -> None:
        """The writer's thread: ends when the chain is broken or full, or when a disk fails."""
        whole = self._verify_at_start()
        self._started.set()
        if not whole:
            self.state = "stopped: the chain can't be continued"
            return
        try:
            self._append()
        except OSError as error:
            self.errors += 1
            self.state = f"stopped: {error}"

    def verify(self) -> None:
        """Verify the whole chain now, while it is being written; at the guest's start: wait for that verification.

        The result is in ``verdict``; one that isn't "unbroken" stays.
        """
        if self._started.is_set():
            self._verify()
        else:
            self._started.wait()

    def pause(self) -> None:
        """Returns when no record is being written any more."""
        self._go.clear()
        with self._appending:
            if self.state == "writing":
                self.state = "paused"

    def resume(self) -> None:
        self._go.set()

    def _verify_at_start(self) -> bool:
        begun = time.monotonic()
        records = self._verify(find_end=True)
        if records is None:
            return False
        last = self.chain.last
        self.at_start = {
            "records": records,
            "last": -1 if last is None else last.number,
            "torn": self.chain.torn,
            "seconds": round(time.monotonic() - begun, 3),
        }
        self.verdict = "unbroken"
        return True

    def _verify(self, *, find_end: bool = False) -> int | None:
        """How many records the chain has; None when it is broken or unreadable, as ``verdict`` says then."""
        try:
            if find_end:
                self.chain.find_end()
            return self.chain.verify()
        except BrokenChain as broken:
            self.verdict = str(broken)
        except OSError as error:
            self.errors += 1
            self.verdict = f"unreadable: {error}"
        return None

    def _append(self) -> None:
        due = time.monotonic()
        while self.chain.last is None or self.chain.last.number + 1 < self._capacity:
            self._go.wait()
            payload = self._random.getrandbits(8 * PAYLOAD).to_bytes(PAYLOAD, "little")
            with self._appending:
                if not self._go.is_set():
                    continue
                self.state = "writing"
                self.chain.append(time.time_ns(), payload)
            # No burst after a wait: a frozen or slow disk just makes the records fewer.
            due = max(due + self._period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        self.state = "full"
