"""Passphrases that are made for people to copy."""

from __future__ import annotations

import secrets

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_GROUPS = 6
_GROUP = 4


def new_passphrase() -> str:
    """Six groups of four letters and digits that are not mistaken for each other: 118 bits."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))


def plain(passphrase: str) -> str:
    """Without what people add or leave out when they copy it: case, spaces, dashes."""
    return "".join(passphrase.lower().split()).replace("-", "")
