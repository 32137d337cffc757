"""The servers of a site as their configuration server knows them, and the pieces of work that it has for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.servers.work.kinds import Duty
from homeport.servers.work.site_context import Params, Progress, Result

GONE_AFTER = 5.0
"""Seconds without a poll after which a server is away: one that is there asks again at once."""


@dataclass
class RelayServer:
    """A server of the site, as the relay knows it."""

    name: str
    duty: Duty
    gateway: dict[str, str] | None = None
    dialled: bool = False
    """A process server that reads its machines through their mobility services."""
    version: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    serial: str | None = None
    """Of the certificate that it showed last."""
    executor: str = ""
    heard: float = 0.0
    """Monotonic; 0: not since this process began."""
    last_contact: str | None = None
    polls: int = 0

    @property
    def there(self) -> bool:
        return bool(self.executor) and (self.polls > 0 or time.monotonic() - self.heard < GONE_AFTER)

    @property
    def state(self) -> str:
        return "connected" if self.there else "away" if self.last_contact else "joining"

    def kept(self) -> dict[str, Any]:
        return {
            "role": self.duty,
            "gateway": self.gateway,
            "dialled": self.dialled,
            "version": self.version,
            "last_contact": self.last_contact,
        }


@dataclass
class Piece:
    """What one server is to do. ``params``: as they are when it is taken: what waits must not bring back what was so
    when it was asked for. ``executor``: who has it in hand; empty: it waits to be taken. ``progress``: None: nobody
    waits for it."""

    id: str
    server: str
    kind: str
    params: Callable[[], Params]
    progress: Progress | None
    executor: str = ""
    result: Result | None = None
    error: HomeportError | None = None


def throttle_of(server: RelayServer) -> dict[str, Any] | None:
    """As it told; None: it is no process server, or of a version that takes none from the vault."""
    vitals = server.facts.get("process_server")
    told = vitals.get("throttle") if isinstance(vitals, dict) else None
    return told if isinstance(told, dict) else None
