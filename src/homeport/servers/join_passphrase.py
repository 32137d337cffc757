"""The join passphrase of a configuration server: made at its first use, shown when asked, rotated.

It lies in the state folder, mode 0600, since it must be shown; it is another secret than the recovery passphrase, and
opens no recovery store.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from homeport.domain.errors import HomeportError
from homeport.trust import security
from homeport.trust.passphrases import new_passphrase
from homeport.trust.private import write_private
from homeport.trust.proofs import SALT, derive
from homeport.trust.security import Event

FILE = "join-passphrase"


class WrongJoinPassphrase(HomeportError):
    code = "join.passphrase-wrong"
    remedy = (
        "`homeport configuration-server passphrase` at the configuration server shows it. If it was right, somebody "
        "sits between the two: join over a network that you trust, and look at this one."
    )


class TooManyGuesses(HomeportError):
    """``details``: ``seconds``."""

    code = "join.too-many-guesses"
    remedy = "Wait, then try again with the passphrase that `homeport configuration-server passphrase` shows."


class JoinPassphrase:
    """Of the configuration server whose state folder this is. Another process may rotate it: that counts at once."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._kept: tuple[str, bytes] | None = None
        self._key: bytes | None = None

    @property
    def text(self) -> str:
        """To be shown; made where there is none yet."""
        with self._lock:
            return self._open()[0]

    def rotate(self) -> str:
        """Another one; the old one admits nobody any more. Servers that have joined stay."""
        text = self._write()
        security.record(Event.PASSPHRASE_ROTATED)
        return text

    def key(self) -> tuple[bytes, bytes]:
        """Its salt, and what proofs are made with."""
        with self._lock:
            text, salt = self._open()
            if self._key is None:
                self._key = derive(text, salt)
            return salt, self._key

    def _open(self) -> tuple[str, bytes]:
        if not self._path.exists():
            self._write()
        found = self._path.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if self._kept is None or stamp != self._stamp:
            data = json.loads(self._path.read_text())
            self._kept, self._stamp = (str(data["passphrase"]), bytes.fromhex(data["salt"])), stamp
            self._key = None
        return self._kept

    def _write(self) -> str:
        text = new_passphrase()
        made = {"passphrase": text, "salt": secrets.token_hex(SALT), "made": datetime.now(UTC).isoformat()}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self._path, json.dumps(made))
        return text


class Guesses:
    """Wrong passphrases by address: after some in a row, the next must wait, twice as long each time."""

    FREE = 5
    FIRST, LONGEST = 30.0, 900.0
    """Seconds."""
    _KNOWN = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By address: how many, and until when nothing more is looked at."""

    def check(self, address: str) -> None:
        """Raises :class:`TooManyGuesses`."""
        with self._lock:
            _, until = self._wrong.get(address, (0, 0.0))
            left = until - self._clock()
        if left > 0:
            raise TooManyGuesses(f"Too many wrong passphrases from {address}; wait {left:.0f} s.", seconds=left)

    def wrong(self, address: str) -> None:
        with self._lock:
            count = self._wrong.pop(address, (0, 0.0))[0] + 1
            wait = 0.0 if count < self.FREE else min(self.FIRST * 2 ** (count - self.FREE), self.LONGEST)
            self._wrong[address] = (count, self._clock() + wait)
            while len(self._wrong) > self._KNOWN:
                self._wrong.popitem(last=False)
        if wait:
            security.record(Event.PASSPHRASE_LOCKED, address=address, wrong=count, seconds=wait)

    def right(self, address: str) -> None:
        with self._lock:
            self._wrong.pop(address, None)
