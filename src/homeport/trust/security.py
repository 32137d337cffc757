"""The log of what concerns security: one event name per kind (docs/security.md lists them)."""

from __future__ import annotations

import enum
from typing import Any

import structlog

log = structlog.get_logger("homeport.security")


class Event(enum.StrEnum):
    """What is logged, under ``event``."""

    PEER_REFUSED = "security.peer-refused"
    """A certificate was shown that doesn't admit: of another vault, role or site."""
    REVOKED_REFUSED = "security.revoked-refused"
    HANDSHAKE_REFUSED = "security.handshake-refused"
    """A TLS handshake failed: an expired certificate or an unknown authority, an older TLS, …"""
    IDENTITY_CLAIMED = "security.identity-claimed"
    """A server asked for what is another's: its site, its role, its name."""
    TOKEN_REFUSED = "security.token-refused"
    KEY_MADE = "security.registration-key-made"
    KEY_REFUSED = "security.registration-key-refused"
    KEY_REPLAYED = "security.registration-key-replayed"
    """A registration key that a server has joined with came from another one."""
    KEY_REBOUND = "security.registration-key-rebound"
    """A key whose join never ended was used by another server; what the first one got is revoked."""
    PASSPHRASE_REFUSED = "security.join-passphrase-refused"
    PASSPHRASE_LOCKED = "security.join-passphrase-locked"
    PASSPHRASE_ROTATED = "security.join-passphrase-rotated"
    CLOCK_REFUSED = "security.clock-refused"
    PEER_UNPROVEN = "security.peer-unproven"
    """What answered a join could not prove that it knows the passphrase."""
    JOINING = "security.server-joining"
    JOINED = "security.server-joined"
    RENEWED = "security.certificate-renewed"
    REVOKED = "security.certificate-revoked"
    REMOVED = "security.server-removed"
    AUTHORITY_MADE = "security.authority-made"


_CHANGES = frozenset({Event.KEY_MADE, Event.JOINING, Event.JOINED, Event.RENEWED, Event.AUTHORITY_MADE})


def record(event: Event, **facts: Any) -> None:
    """As information where it is what an operator asked for, else as a warning. Never a secret among ``facts``."""
    (log.info if event in _CHANGES else log.warning)(str(event), **facts)
