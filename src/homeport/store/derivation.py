"""Argon2id, one at a time, and if need be before its result is asked for.

It takes a few tenths of a second whatever else happens: a command that knows its passphrase begins while the rest of
the program is still being loaded. So this module loads nothing else of the project.
"""

from __future__ import annotations

import os
import threading

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MEMORY_KIB, PASSES, LANES = 64 << 10, 3, 4
"""What is written, and the least memory and passes that are accepted: a forged file must not make guessing cheap."""

_MOST_MEMORY_KIB, _MOST_PASSES, _MOST_LANES = 4 << 20, 64, 64
"""… nor make us take all memory, or work for ever."""

_one = threading.Lock()
"""Two derivations of several lanes at once wait for each other for ever in OpenSSL's thread pool (seen with
cryptography 50.0.2)."""

_kept: dict[tuple[bytes, bytes, int, int, int], bytes] = {}
_salts: dict[bytes, bytes] = {}


def argon2id(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    """32 bytes. Waits for a derivation that is under way; takes its result if it is the same."""
    with _one:
        found = _kept.pop((secret, salt, memory_kib, passes, lanes), None)
        return found or _derive(secret, salt, memory_kib, passes, lanes)


def refusal(memory_kib: int, passes: int, lanes: int) -> str | None:
    """Why such a derivation is not carried out, in words."""
    if memory_kib < MEMORY_KIB or passes < PASSES or lanes < 1:
        return f"derives its key too cheaply (argon2id, {memory_kib} KiB, {passes} passes)"
    if memory_kib > _MOST_MEMORY_KIB or passes > _MOST_PASSES or lanes > _MOST_LANES:
        return f"wants more work than any passphrase needs (argon2id, {memory_kib} KiB, {passes} passes)"
    return None


def fresh_salt(secret: bytes) -> bytes:
    """Sixteen bytes that no key was derived with; for a secret that was prepared, the ones it was prepared with."""
    return _salts.pop(secret, None) or os.urandom(16)


def derive_ahead(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> None:
    """The result is kept for the one that asks for the same next, in this process."""
    with _one:
        _kept[secret, salt, memory_kib, passes, lanes] = _derive(secret, salt, memory_kib, passes, lanes)


def prepare(secret: bytes) -> None:
    """Derive a key for a way to unlock that is made next."""
    salt = _salts[secret] = os.urandom(16)
    derive_ahead(secret, salt, MEMORY_KIB, PASSES, LANES)


def _derive(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    derivation = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return derivation.derive(secret)
