"""Argon2id, one at a time, and if need be before its result is asked for.

It takes a few tenths of a second whatever else happens: a command that knows its passphrase begins while the rest of
the program is still being loaded.
"""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

_one = threading.Lock()
"""Two derivations of several lanes at once wait for each other for ever in OpenSSL's thread pool (seen with
cryptography 50.0.2)."""

_ahead = threading.local()
_kept: dict[tuple[bytes, bytes, int, int, int], bytes] = {}


def argon2id(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    """32 bytes. Waits for a derivation that is under way; takes its result if it is the same."""
    wanted = (secret, salt, memory_kib, passes, lanes)
    with _one:
        found = _kept.pop(wanted, None)
        if found is None:
            derivation = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
            found = derivation.derive(secret)
            if getattr(_ahead, "of_others", False):
                _kept[wanted] = found
    return found


def keep_for_others() -> None:
    """What this thread derives from now on is kept for the one that asks for the same next, in this process."""
    _ahead.of_others = True
